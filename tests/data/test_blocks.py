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
from handcar.data import blocks, chunks, eviction
from handcar.errors import ChunkError, DiskFull

COLUMNS = {
    "x": np.arange(40, dtype=np.uint8).reshape(10, 2, 2),
    "y": np.arange(10, dtype=np.uint8),
}
CHUNK = chunks.encode(COLUMNS, dict.fromkeys(COLUMNS, chunks.Choice("plain", "zstd")))
DIGEST = files.digest(CHUNK)


def test_a_block_holds_what_the_chunk_held(tmp_path):
    block = blocks.BlockStore(tmp_path).add(DIGEST, CHUNK)
    assert (block.digest, block.records) == (DIGEST, 10)
    np.testing.assert_array_equal(block.columns["x"], COLUMNS["x"])
    np.testing.assert_array_equal(block.columns["y"], COLUMNS["y"])


def test_a_chunk_given_as_a_file_is_moved_and_found_again_later(tmp_path):
    (tmp_path / "chunk").write_bytes(CHUNK)
    blocks.BlockStore(tmp_path / "blocks").add(DIGEST, tmp_path / "chunk")
    assert not (tmp_path / "chunk").exists()
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
    (tmp_path / ".abc.chunk.12.part").write_bytes(b"half")
    os.utime(tmp_path / ".abc.chunk.12.part", (0, 0))
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
    name = DIGEST.removeprefix("sha256:")
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}.chunk"]


# -- the disk's share ------------------------------------------------------------------------


def chunk_of(number: int) -> tuple[str, bytes]:
    """A chunk that decodes to 40 kB and hardly takes any bytes itself."""
    data = chunks.encode({"x": np.full((10, 4000), number, np.uint8)})
    return files.digest(data), data


def noise_chunk(seed: int) -> tuple[str, bytes]:
    """A chunk that takes 40 kB, decoded or not."""
    noise = np.random.default_rng(seed).integers(0, 256, (10, 4000), dtype=np.uint8)
    data = chunks.encode({"x": noise}, {"x": chunks.Choice("plain", "zstd")})
    return files.digest(data), data


def told(store: blocks.BlockStore) -> list[str]:
    """Return a list that will name the chunks of which nothing is left."""
    gone: list[str] = []
    store.on_gone = gone.extend
    return gone


def taken(folder) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_store_never_takes_more_than_its_budget_and_still_has_every_block(tmp_path):
    store = blocks.BlockStore(tmp_path, budget_bytes=250_000)
    made = [chunk_of(number) for number in range(12)]
    for digest, data in made:
        store.add(digest, data)
        assert taken(tmp_path) <= 250_000
    assert store.digests() == sorted(digest for digest, _ in made)
    for number, (digest, _) in enumerate(made):
        assert (store.open(digest).columns["x"] == number).all()
        assert taken(tmp_path) <= 250_000


@pytest.mark.parametrize("budget", [45_000, 100_000, 130_000, 210_000, 400_000])
@pytest.mark.parametrize("noise", [False, True])
def test_whatever_was_let_in_can_be_opened_as_many_at_a_time_as_there_may_be(
    tmp_path, budget, noise
):
    rng = np.random.default_rng(0)
    store, here = blocks.BlockStore(tmp_path, budget_bytes=budget), []
    for number in range(20):
        digest, data = noise_chunk(number) if noise else chunk_of(number)
        try:
            store.add(digest, data)
        except DiskFull:
            continue
        here.append(digest)
    assert here
    for digests in [rng.permutation(here)[: eviction.OPEN_BLOCKS] for _ in range(20)]:
        held = [store.open(str(digest)) for digest in digests]
        assert taken(tmp_path) <= budget
        assert len(held) == len(digests)
        del held


def test_blocks_in_use_stay_where_they_are(tmp_path):
    store = blocks.BlockStore(tmp_path, budget_bytes=100_000)
    held = [store.add(*chunk_of(number)) for number in range(2)]
    with pytest.raises(DiskFull, match="no room left"):
        store.add(*chunk_of(2))
    assert all(block.columns["x"].shape == (10, 4000) for block in held)
    assert [store.open(block.digest) for block in held] == held


def test_without_room_for_it_a_chunk_file_is_not_kept(tmp_path):
    store = blocks.BlockStore(tmp_path, budget_bytes=60_000)
    store.add(*noise_chunk(0))
    assert list(tmp_path.glob("*.chunk")) == []


def test_chunks_of_other_data_sets_go_first(tmp_path):
    store = blocks.BlockStore(tmp_path, budget_bytes=100_000)
    (old, data), (new, other) = chunk_of(0), chunk_of(1)
    store.add(old, data)
    store.add(new, other)
    store.wanted = lambda _: {new: blocks.Wanted()}
    gone = told(store)
    store.make_room_for(100)
    assert gone == [old]
    assert store.digests() == [new]


def test_a_chunk_that_can_be_fetched_again_goes_when_nothing_else_can(tmp_path):
    store = blocks.BlockStore(tmp_path, budget_bytes=130_000)
    made = [noise_chunk(seed) for seed in range(2)]
    for digest, data in made:
        store.add(digest, data)
    with pytest.raises(DiskFull):
        store.make_room_for(40_000)
    worth = {made[0][0]: blocks.Wanted(5.0), made[1][0]: blocks.Wanted(1.0)}
    store.wanted = lambda _: worth
    with pytest.raises(DiskFull):
        store.make_room_for(40_000)  # they were not gone through yet
    worth |= {made[0][0]: blocks.Wanted(5.0, passes=1), made[1][0]: blocks.Wanted(1.0, passes=1)}
    gone = told(store)
    store.make_room_for(40_000)
    assert gone == [made[1][0]]


def test_a_dropped_chunk_leaves_nothing_and_can_come_again(tmp_path):
    store = blocks.BlockStore(tmp_path)
    digest, data = chunk_of(0)
    store.add(digest, data)
    gone = told(store)
    store.drop(digest)
    assert (gone, list(tmp_path.iterdir())) == ([digest], [])
    assert store.add(digest, data).records == 10


def test_room_is_left_on_the_disk_for_others(tmp_path):
    store = blocks.BlockStore(tmp_path, keep_free_bytes=2**60)
    with pytest.raises(DiskFull, match=r"0\.0 MB may be taken"):
        store.add(DIGEST, CHUNK)
