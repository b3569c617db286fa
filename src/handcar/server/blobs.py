"""Bytes by their digest: written whole, never changed. The one door to them.

Behind it is the server's disk, or a bucket when HANDCAR_STORE names one. Putting the same bytes
twice is harmless, so whoever crashed just does it again. Asking a bucket takes milliseconds and
costs money: no call here but `known_size` and `link` belongs where thousands ask, and none of
them inside a transaction.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from django.conf import settings
from numpy.typing import NDArray

from handcar import files
from handcar.files import MB
from handcar.server.blobs_disk import DiskBlobs

if TYPE_CHECKING:
    from handcar.server.blobs_bucket import BucketBlobs
    from handcar.server.configuration import Configuration
    from handcar.server.home import Home

PREFIX = "sha256:"
RESERVE_BYTES = 256 * MB
"""Disk that strangers' bytes never get: the worker needs room to publish."""


class Blobs(Protocol):
    """What the disk and a bucket both do. The functions of these names below say what each is."""

    def put(self, digest: str, data: bytes | memoryview, *, public: bool) -> None:
        """Keep bytes."""

    def adopt(self, part: Path, digest: str) -> None:
        """Keep a file, which is gone from its place then."""

    def known_size(self, digest: str) -> int | None:
        """Return how many bytes there are, where that costs nothing."""

    def sizes(self, digests: Iterable[str]) -> dict[str, int]:
        """Return how many bytes there are, of each that is here."""

    def read(self, digest: str) -> bytes:
        """Return the bytes, their digest checked."""

    def read_array(self, digest: str) -> NDArray[np.uint8]:
        """Return the same as an array."""

    def remove(self, digest: str) -> None:
        """Forget the bytes."""

    def make_public(self, digests: Iterable[str]) -> None:
        """Let everyone have bytes that are here."""

    def link(self, digest: str, root: str) -> str:
        """Return where anyone gets public bytes."""


def store() -> Blobs:
    """Return where bytes lie."""
    return bucket() or DiskBlobs(settings.HANDCAR_HOME.blobs)


def bucket() -> BucketBlobs | None:
    """Return the bucket where bytes lie; none when that is the disk."""
    configuration: Configuration = settings.HANDCAR
    return _bucket(settings.HANDCAR_HOME, configuration) if configuration.store else None


@lru_cache(maxsize=4)
def _bucket(home: Home, configuration: Configuration) -> BucketBlobs:
    from handcar.server import blobs_bucket

    return blobs_bucket.opened(home, configuration)


def path(digest: str) -> Path:
    """Return where on the disk the bytes of a digest lie or would lie."""
    return DiskBlobs(settings.HANDCAR_HOME.blobs).path(digest)


def put(data: bytes | memoryview, *, public: bool = False) -> str:
    """Keep `data` and return its digest. `public` is what everyone may have.

    Raises DiskFull, StoreAway.
    """
    digest = files.digest(data)
    store().put(digest, data, public=public)
    return digest


def adopt(part: Path, digest: str) -> None:
    """Move a file that has this digest, and is on disk, to its place. Raises StoreAway."""
    store().adopt(part, digest)


def present(digest: str) -> bool:
    """Say whether the bytes are here. Raises StoreAway."""
    return size(digest) is not None


def size(digest: str) -> int | None:
    """Return how many bytes there are, or none when they are not here. Raises StoreAway."""
    return sizes([digest]).get(digest)


def known_size(digest: str) -> int | None:
    """Return the same where that costs nothing; none where a bucket would have to be asked."""
    return store().known_size(digest)


def sizes(digests: Iterable[str]) -> dict[str, int]:
    """Return how many bytes there are, of each that is here. Raises StoreAway."""
    return store().sizes(digests)


def read(digest: str) -> bytes:
    """Return the bytes, their digest checked. Raises Corrupt, StoreAway."""
    return store().read(digest)


def read_array(digest: str) -> NDArray[np.uint8]:
    """Return the same as an array, for which much memory costs less. Raises Corrupt, StoreAway."""
    return store().read_array(digest)


def remove(digest: str) -> None:
    """Forget the bytes; harmless when they are gone. Raises StoreAway."""
    store().remove(digest)


def make_public(digests: Iterable[str]) -> None:
    """Let everyone have bytes that are here. Raises StoreAway."""
    store().make_public(digests)


def link(digest: str, root: str) -> str:
    """Return where anyone gets public bytes; `root` is this server's own address for files."""
    return store().link(digest, root)


def room_for(count: int) -> bool:
    """Say whether the disk can take `count` more bytes of a stranger."""
    return shutil.disk_usage(settings.HANDCAR_HOME.uploads).free - count > RESERVE_BYTES
