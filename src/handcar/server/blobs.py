"""Bytes on the server's disk by their digest: written whole, never changed.

Putting the same bytes twice is harmless, so whoever crashed just does it again.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from django.conf import settings

from handcar import files
from handcar.errors import Corrupt
from handcar.files import MB

PREFIX = "sha256:"
RESERVE_BYTES = 256 * MB
"""Disk that strangers' bytes never get: the worker needs room to publish."""


def path(digest: str) -> Path:
    """Return where the bytes of a digest lie or would lie."""
    name = digest.removeprefix(PREFIX)
    folder: Path = settings.HANDCAR_HOME.blobs
    return folder / name[:2] / name


def put(data: bytes) -> str:
    """Keep `data` and return its digest. Raises DiskFull."""
    digest = files.digest(data)
    if not present(digest):
        files.write(path(digest), data)
    return digest


def adopt(part: Path, digest: str) -> None:
    """Move a file that has this digest, and is on disk, to its place."""
    target = path(digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)
    files.flush_folder(target.parent)


def present(digest: str) -> bool:
    """Say whether the bytes are here."""
    return path(digest).is_file()


def size(digest: str) -> int | None:
    """Return how many bytes there are, or none when they are not here."""
    try:
        return path(digest).stat().st_size
    except FileNotFoundError:
        return None


def read(digest: str) -> bytes:
    """Return the bytes, their digest checked. Raises Corrupt."""
    try:
        data = path(digest).read_bytes()
    except FileNotFoundError:
        raise Corrupt(f"the bytes of {digest} are not on the server's disk") from None
    if files.digest(data) != digest:
        raise Corrupt(f"the bytes of {digest} on the server's disk are damaged")
    return data


def remove(digest: str) -> None:
    """Forget the bytes; harmless when they are gone."""
    with suppress(FileNotFoundError):
        path(digest).unlink()


def room_for(count: int) -> bool:
    """Say whether the disk can take `count` more bytes of a stranger."""
    return shutil.disk_usage(settings.HANDCAR_HOME.uploads).free - count > RESERVE_BYTES
