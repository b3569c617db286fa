"""A decoder of pictures may die: it costs a chunk, and leaves nothing."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from handcar.data import apart, chunks
from handcar.errors import ChunkError, DiskFull, MissingLibrary
from handcar.wire import container

PICTURES = np.random.default_rng(0).integers(0, 50, (20, 8, 8), dtype=np.uint8)
CHUNK = chunks.encode({"x": PICTURES}, {"x": chunks.Choice("jxl")})


def test_pictures_are_decoded_in_a_process_of_their_own(tmp_path):
    apart.unpack(CHUNK, tmp_path / "block")
    np.testing.assert_array_equal(np.load(tmp_path / "block" / "x.npy"), PICTURES)


def test_numbers_need_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(apart.subprocess, "run", None)
    apart.unpack(chunks.encode({"x": PICTURES}, {"x": chunks.Choice("plain", "zstd")}), tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), PICTURES)


def test_what_the_process_refuses_is_said_as_if_there_were_none(tmp_path):
    header, sections = container.unpack(CHUNK)
    damaged = [bytes(sections[0][:-5])]
    with pytest.raises(ChunkError, match="column x: a picture is damaged"):
        apart.unpack(container.pack(header, damaged), tmp_path)


DYING = {
    "a crash": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", ChunkError, "-11"),
    "too much memory": (
        "import handcar.data.apart as a; a._limit(); bytearray(64 * a.MEMORY_BYTES)",
        ChunkError,
        "MemoryError",
    ),
    "no package": (
        "import sys; print('install it', file=sys.stderr); sys.exit(4)",
        MissingLibrary,
        "install",
    ),
    "a full disk": (
        "import sys; print('no room', file=sys.stderr); sys.exit(5)",
        DiskFull,
        "no room",
    ),
    "too long": ("import time; time.sleep(60)", ChunkError, "more than"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="limits and signals as Linux has them")
@pytest.mark.parametrize("how", DYING)
def test_a_decoder_that_dies_is_an_error_like_any_other(how, tmp_path, monkeypatch):
    program, kind, text = DYING[how]
    run = apart.subprocess.run

    def other(arguments, **how):
        how["timeout"] = 1 if "sleep" in program else 60
        return run([arguments[0], "-c", program], **how)

    monkeypatch.setattr(apart.subprocess, "run", other)
    with pytest.raises(kind, match=text):
        apart.unpack(CHUNK, tmp_path)
