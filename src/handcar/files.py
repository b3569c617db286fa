"""Files appear whole or not at all: the one way that Handcar writes to disk.

`whole(path)` writes beside the target, flushes to the disk, renames, and flushes the
folder, so that a reader sees the old file or the new one and a power cut loses neither.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from handcar.errors import DiskFull

KB = 1024
MB = 1024 * KB


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing; it appears only when the block ends without an error.

    Raises DiskFull when the disk is full; the old file, if any, is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with said_plainly(path), part.open("wb") as file:
            yield file
            flush_to_disk(file)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    flush_folder(path.parent)


@contextmanager
def said_plainly(path: Path) -> Iterator[None]:
    """Turn the system's "no space left" into a DiskFull that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no room left on the disk for {path}: free some space and start again"
            ) from error
        raise


def write(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`, whole."""
    with whole(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path`, whole."""
    write(path, json.dumps(value, indent=1).encode())


def append(path: Path, line: bytes) -> None:
    """Append `line` to `path` and wait until the disk has it. Raises DiskFull."""
    with said_plainly(path), path.open("ab") as file:
        file.write(line)
        flush_to_disk(file)


def flush_to_disk(file: BinaryIO) -> None:
    """Wait until the disk has what was written to `file`."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can."""
    with suppress(OSError):  # Windows can't open a folder; its renames are journalled
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def digest(data: bytes | bytearray | memoryview) -> str:
    """Return `sha256:` and the 64 hex digits of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the digest of a file, read piece by piece."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
