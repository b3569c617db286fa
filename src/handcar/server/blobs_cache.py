"""Copies of bytes that lie in a bucket, on this machine's disk, up to a limit.

A worker reads the same weights for each merge and the same validation chunks for each version.
What lies here proves nothing of what lies in the bucket: it is only ever read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from handcar import files
from handcar.files import MB
from handcar.server.blobs_disk import Data, digest_of
from handcar.stores.base import file_name

MOST_BYTES = 4_000 * MB
KEEP_FREE_BYTES = 512 * MB


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder shared by all processes of this machine; what was not used for longest goes."""

    folder: Path
    most_bytes: int = MOST_BYTES

    def read(self, digest: str, load: Callable[[Path], Data]) -> Data | None:
        """Return bytes, their digest checked; none when they are not here, or damaged."""
        path = self._path(digest)
        try:
            data = load(path)
            os.utime(path)
        except OSError:
            return None
        if digest_of(data) == digest:
            return data
        self.remove(digest)
        return None

    def add(self, digest: str, data: bytes | memoryview) -> None:
        """Keep bytes, and let older ones go for them, if the disk has room. Raises DiskFull."""
        if len(data) > self.most_bytes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_room(len(data))
        if shutil.disk_usage(self.folder).free < KEEP_FREE_BYTES + len(data):
            return
        files.write(self._path(digest), data)

    def remove(self, digest: str) -> None:
        """Let bytes go; harmless when they are gone."""
        with suppress(OSError):
            self._path(digest).unlink()

    def _make_room(self, count: int) -> None:
        kept = sorted(self._files())
        beyond = sum(size for _, size, _ in kept) + count - self.most_bytes
        missing = KEEP_FREE_BYTES + count - shutil.disk_usage(self.folder).free
        to_free = max(beyond, missing)
        for _, size, path in kept:
            if to_free <= 0:
                return
            with suppress(OSError):
                path.unlink()
            to_free -= size

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield when each was used last, its size, and where it is."""
        for path in self.folder.iterdir():
            with suppress(OSError):
                found = path.stat()
                yield found.st_mtime, found.st_size, path

    def _path(self, digest: str) -> Path:
        return self.folder / file_name(digest)
