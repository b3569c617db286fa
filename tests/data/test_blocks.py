"""Blocks appear whole, are mapped, not read, and survive being killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from handcar import files
from handcar.data import blocks, chunks
from handcar.errors import ChunkError, DiskFull

COLUMNS = {
    "x": np.arange(40, dtype=np.uint8).reshape(10, 2, 2),
    "y": np.arange(10, dtype=np.uint8),
}
CHUNK = chunks.encode(COLUMNS)
DIGEST = files.digest(CHUNK)


def test_a_block_holds_what_the_chunk_held(tmp_path):
    block = blocks.BlockStore(tmp_path).add(DIGEST, CHUNK)
    assert (block.digest, block.records) == (DIGEST, 10)
    np.testing.assert_array_equal(block.columns["x"], COLUMNS["x"])
    np.testing.assert_array_equal(block.columns["y"], COLUMNS["y"])


def test_a_chunk_may_be_given_as_a_file_and_is_found_again_later(tmp_path):
    (tmp_path / "chunk").write_bytes(CHUNK)
    blocks.BlockStore(tmp_path / "blocks").add(DIGEST, tmp_path / "chunk")
    (tmp_path / "chunk").unlink()
    store = blocks.BlockStore(tmp_path / "blocks")
    assert store.digests() == [DIGEST]
    assert store.open(DIGEST).records == 10


def test_the_arrays_are_mapped_from_disk_and_read_only(tmp_path):
    column = blocks.BlockStore(tmp_path).add(DIGEST, CHUNK).columns["x"]
    assert isinstance(column.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        column[0] = 1


def test_adding_a_block_twice_does_not_decode_it_again(tmp_path):
    store = blocks.BlockStore(tmp_path)
    store.add(DIGEST, CHUNK)
    assert store.add(DIGEST, b"not looked at").records == 10


def test_bytes_of_another_digest_are_refused_and_leave_nothing(tmp_path):
    store = blocks.BlockStore(tmp_path)
    with pytest.raises(ChunkError, match="expected a chunk sha256:"):
        store.add(files.digest(b"other"), CHUNK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", ["sha256:../../x", "sha256:", "x" * 64, "sha256:" + "A" * 64])
def test_what_is_not_a_digest_never_becomes_a_path(tmp_path, digest):
    with pytest.raises(ChunkError, match="64 hex digits"):
        blocks.BlockStore(tmp_path).open(digest)


def test_a_missing_block_is_said_to_be_missing(tmp_path):
    with pytest.raises(ChunkError, match="missing or damaged"):
        blocks.BlockStore(tmp_path).open(DIGEST)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY" + bytes(200)])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, content):
    store = blocks.BlockStore(tmp_path)
    store.add(DIGEST, CHUNK)
    path = tmp_path / DIGEST.removeprefix("sha256:") / "x.npy"
    path.write_bytes(content)
    with pytest.raises(ChunkError, match="x.npy can't be read"):
        store.open(DIGEST)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from handcar.data import blocks

saved = np.save
def save_then_die(file, column, **kwargs):
    saved(file, column, **kwargs)
    if column.ndim == 1:
        os.kill(os.getpid(), signal.SIGKILL)
np.save = save_then_die
blocks.BlockStore(Path(sys.argv[1])).add(sys.argv[2], Path(sys.argv[3]))
"""


def test_a_block_half_written_at_a_kill_is_not_there_and_is_built_again(tmp_path):
    (tmp_path / "chunk").write_bytes(CHUNK)
    folder = tmp_path / "blocks"
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), DIGEST, str(tmp_path / "chunk")], check=False
    )
    assert run.returncode == -signal.SIGKILL
    assert list(folder.iterdir()) != [], "the kill came too early to prove anything"
    store = blocks.BlockStore(folder)
    assert store.digests() == []
    assert store.add(DIGEST, CHUNK).records == 10


def test_what_a_kill_left_is_swept_away_when_it_is_old(tmp_path):
    part = tmp_path / ".abc.part"
    part.mkdir()
    os.utime(part, (0, 0))
    (tmp_path / ".new.part").mkdir()
    blocks.BlockStore(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".new.part"]


def test_a_full_disk_is_said_and_leaves_no_block(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    store = blocks.BlockStore(tmp_path)
    with pytest.raises(DiskFull, match="free some space"):
        store.add(DIGEST, CHUNK)
    assert list(tmp_path.iterdir()) == []


def test_many_threads_may_add_the_same_block(tmp_path):
    store = blocks.BlockStore(tmp_path)
    start = threading.Barrier(8)
    found: list[int] = []

    def add() -> None:
        start.wait()
        found.append(store.add(DIGEST, CHUNK).records)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [10] * 8
    assert [path.name for path in tmp_path.iterdir()] == [DIGEST.removeprefix("sha256:")]
