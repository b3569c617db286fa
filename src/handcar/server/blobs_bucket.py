"""Bytes by their digest, in a bucket, and what is read again and again also on this disk.

public/    chunks to train on, frames, model files: a bucket's policy or a CDN may open these
private/   updates, exact weights, chunks to validate with: nobody's but the server's
incoming/  updates on their way from volunteers, by their number, until they are verified

Digests are no secrets: the digest of a version's weights is in every series. So what is
private must not lie where everyone may read, and nobody gets a link to write where it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from django.utils import timezone
from numpy.typing import NDArray

from handcar import files
from handcar.errors import Corrupt, DiskFull
from handcar.server.blobs_cache import Cache
from handcar.server.blobs_disk import array_of
from handcar.server.configuration import Configuration
from handcar.server.home import Home
from handcar.stores.base import file_name
from handcar.stores.bucket import Bucket, is_read_by_anyone
from handcar.stores.s3 import Login

AT_ONCE = 16
"""Requests at a time, where there are many to make."""
EXPIRES_S = 24 * 3600
"""For how long a signed link is good; whoever comes later asks the server again."""
LINKS_KEPT = 20_000
"""Signing takes some 20 microseconds, and an assignment may have 10,000 links."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class BucketBlobs:
    """Objects named by their digest; `address` is where everyone may read, if that is anywhere."""

    bucket: Bucket
    prefix: str
    address: str | None
    cache: Cache

    def key(self, digest: str, *, public: bool) -> str:
        """Return the name of the object that has the bytes."""
        return f"{self.prefix}{'public' if public else 'private'}/{file_name(digest)}"

    def incoming(self, name: str) -> str:
        """Return the name of an object that nobody has verified yet."""
        return f"{self.prefix}incoming/{name}"

    def put(self, digest: str, data: bytes | memoryview, *, public: bool) -> None:
        """Send bytes; what is private is soon read again, and kept here too. Raises StoreAway."""
        self.bucket.put(self.key(digest, public=public), bytes(data), public=public)
        if not public:
            self._keep(digest, data)

    def adopt(self, part: Path, digest: str) -> None:
        """Send a file that has this digest, then let it go. Raises StoreAway."""
        self.bucket.put_file(self.key(digest, public=False), part)
        with suppress(FileNotFoundError):
            part.unlink()

    def adopt_incoming(self, name: str, digest: str, etag: str) -> bool:
        """Copy an object that was verified; no when it was changed since. Raises StoreAway."""
        return self.bucket.copy(self.incoming(name), self.key(digest, public=False), etag=etag)

    def is_open(self) -> bool:
        """Say whether anyone can read what is private. Raises StoreAway."""
        key = f"{self.prefix}private/.probe"
        self.bucket.put(key, b"probe")
        addresses = [self.bucket.address(key)]
        if self.address is not None:
            addresses.append(f"{self.address}/{key}")
        try:
            return any(is_read_by_anyone(address) for address in addresses)
        finally:
            self.bucket.remove(key)

    def known_size(self, digest: str) -> int | None:
        """Return none: the bucket would have to be asked."""

    def sizes(self, digests: Iterable[str]) -> dict[str, int]:
        """Return how many bytes there are, of each that is here. Raises StoreAway."""
        asked = list(dict.fromkeys(digests))
        found = zip(asked, _at_once(self._size, asked), strict=True)
        return {digest: size for digest, size in found if size is not None}

    def _size(self, digest: str) -> int | None:
        for public in (False, True):
            if (head := self.bucket.head(self.key(digest, public=public))) is not None:
                return head.size
        return None

    def read(self, digest: str) -> bytes:
        """Return the bytes, their digest checked. Raises Corrupt, StoreAway."""
        kept = self.cache.read(digest, Path.read_bytes)
        return self._fetched(digest) if kept is None else kept

    def read_array(self, digest: str) -> NDArray[np.uint8]:
        """Return the same as an array. Raises Corrupt, StoreAway."""
        kept = self.cache.read(digest, array_of)
        return np.frombuffer(self._fetched(digest), np.uint8) if kept is None else kept

    def _fetched(self, digest: str) -> bytes:
        data = self._fetch(digest)
        if data is None:
            raise Corrupt(f"the bytes of {digest} are not in {self.bucket.describe()}")
        if files.digest(data) != digest:
            raise Corrupt(f"the bytes of {digest} in {self.bucket.describe()} are damaged")
        self._keep(digest, data)
        return data

    def _fetch(self, digest: str) -> bytes | None:
        private = self.bucket.get(self.key(digest, public=False))
        return private if private is not None else self.bucket.get(self.key(digest, public=True))

    def remove(self, digest: str) -> None:
        """Forget the bytes; harmless when they are gone. Raises StoreAway."""
        self.cache.remove(digest)
        for public in (False, True):
            self.bucket.remove(self.key(digest, public=public))

    def make_public(self, digests: Iterable[str]) -> None:
        """Let everyone have bytes that are here. Raises StoreAway."""
        _at_once(self._make_public, list(dict.fromkeys(digests)))

    def _make_public(self, digest: str) -> None:
        private, public = (self.key(digest, public=which) for which in (False, True))
        if self.bucket.copy(private, public, public=True):
            self.bucket.remove(private)

    def link(self, digest: str, root: str) -> str:
        """Return the address of public bytes, or a signed link to them.

        The time in a signed link is the hour's, so that everyone gets the same one, which
        caches like; so does this server.
        """
        key = self.key(digest, public=True)
        if self.address is not None:
            return f"{self.address}/{key}"
        return _signed(self.bucket, key, hour(timezone.now()))

    def _keep(self, digest: str, data: bytes | memoryview) -> None:
        with suppress(DiskFull, OSError):  # what is not kept here is fetched again
            self.cache.add(digest, data)


@lru_cache(maxsize=LINKS_KEPT)
def _signed(bucket: Bucket, key: str, began: datetime) -> str:
    return bucket.sign(key, began, expires_s=EXPIRES_S)


def hour(now: datetime) -> datetime:
    """Return when this hour began."""
    return now.replace(minute=0, second=0, microsecond=0)


def _at_once(ask: Callable[[str], Answer], digests: list[str]) -> list[Answer]:
    """Ask for each, several at a time; return the answers in order."""
    if len(digests) < 2:
        return [ask(digest) for digest in digests]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(ask, digests))


def opened(home: Home, configuration: Configuration) -> BucketBlobs:
    """Return the bucket that a configuration names. Raises BadInput, StoreFault."""
    assert configuration.bucket is not None  # noqa: S101 - its caller looked
    name, prefix = configuration.bucket
    login = None
    if configuration.store_key and configuration.store_secret:
        login = Login(configuration.store_key, configuration.store_secret)
    return BucketBlobs(
        Bucket(name, configuration.store_endpoint, configuration.store_region, login),
        f"{prefix}/" if prefix else "",
        configuration.store_public,
        Cache(home.cache),
    )
