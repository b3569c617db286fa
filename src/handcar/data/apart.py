"""Chunks to .npy files; pictures in a process of their own, which may die.

    python -m handcar.data.apart FOLDER < CHUNK

libjxl takes gigabytes for some files of a hundred bytes, and crashes on others
(libjxl#3792, #3793, #4557). A chunk's digest is that of the manifest, but who made the
manifest is a stranger too. So a chunk with pictures is decoded under limits of memory and
processor time (on Linux; elsewhere a crash alone is contained), and a decoder that dies costs
a chunk, not the training.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from handcar import files
from handcar.data import chunks
from handcar.data.spec import DECODED_BYTES, Columns
from handcar.errors import ChunkError, DiskFull, HandcarError, MissingLibrary
from handcar.files import MB

MEMORY_BYTES = 4 * DECODED_BYTES + 256 * MB
"""For the columns, their sections, and the decoders' own; over what is in use at the start."""
PROCESSOR_S = 120
WAIT_S = 600
REASONS: dict[int, type[HandcarError]] = {3: ChunkError, 4: MissingLibrary, 5: DiskFull}
"""Exit codes of the process, and what they are raised as."""


def unpack(data: bytes, folder: Path) -> None:
    """Write the columns of a chunk to `folder`. Raises ChunkError, MissingLibrary, DiskFull."""
    if not chunks.has_pictures(data):
        _write(chunks.decode(data), folder)
        return
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(folder)],
            input=data,
            capture_output=True,
            check=False,
            timeout=WAIT_S,
            start_new_session=True,  # Ctrl-C is for the parent to act on
        )
    except subprocess.TimeoutExpired as fault:
        raise ChunkError(f"decoding it took more than {WAIT_S} s") from fault
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        died = f"its decoder died ({done.returncode}): {said[-500:]}"
        reason = REASONS.get(done.returncode)
        raise reason(said) if reason else ChunkError(died)


def _write(columns: Columns, folder: Path) -> None:
    for name, column in columns.items():
        with files.whole(folder / f"{name}.npy") as file:
            np.save(file, column, allow_pickle=False)


def main() -> int:
    """Decode the chunk on standard input to the folder that is named."""
    _limit()
    try:
        _write(chunks.decode(sys.stdin.buffer.read()), Path(sys.argv[1]))
    except tuple(REASONS.values()) as error:
        print(error, file=sys.stderr)
        return next(code for code, kind in REASONS.items() if isinstance(error, kind))
    return 0


def _limit() -> None:
    if sys.platform != "linux":
        return
    import resource

    import psutil

    memory = psutil.Process().memory_info().vms + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_S, PROCESSOR_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
