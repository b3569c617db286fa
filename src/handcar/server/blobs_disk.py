"""Bytes by their digest, on the server's own disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from handcar import files
from handcar.errors import Corrupt
from handcar.stores.base import file_name

Data = TypeVar("Data", bytes, NDArray[np.uint8])


@dataclass(frozen=True, slots=True)
class DiskBlobs:
    """Files named by the hex digits of their digest, in folders by the first two of them."""

    folder: Path

    def path(self, digest: str) -> Path:
        """Return where the bytes of a digest lie or would lie."""
        name = file_name(digest)
        return self.folder / name[:2] / name

    def put(self, digest: str, data: bytes | memoryview, *, public: bool) -> None:
        """Write bytes, unless they are here. Raises DiskFull."""
        if not self.path(digest).is_file():
            files.write(self.path(digest), data)

    def adopt(self, part: Path, digest: str) -> None:
        """Move a file that is on disk to its place."""
        target = self.path(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
        files.flush_folder(target.parent)

    def known_size(self, digest: str) -> int | None:
        """Return how many bytes there are, or none."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def sizes(self, digests: Iterable[str]) -> dict[str, int]:
        """Return how many bytes there are, of each that is here."""
        found = ((digest, self.known_size(digest)) for digest in digests)
        return {digest: size for digest, size in found if size is not None}

    def read(self, digest: str) -> bytes:
        """Return the bytes, their digest checked. Raises Corrupt."""
        return self._read(digest, Path.read_bytes)

    def read_array(self, digest: str) -> NDArray[np.uint8]:
        """Return the same as an array. Raises Corrupt."""
        return self._read(digest, array_of)

    def _read(self, digest: str, load: Callable[[Path], Data]) -> Data:
        try:
            data = load(self.path(digest))
        except FileNotFoundError:
            raise Corrupt(f"the bytes of {digest} are not on the server's disk") from None
        if digest_of(data) != digest:
            raise Corrupt(f"the bytes of {digest} on the server's disk are damaged")
        return data

    def remove(self, digest: str) -> None:
        """Forget the bytes; harmless when they are gone."""
        with suppress(FileNotFoundError):
            self.path(digest).unlink()

    def make_public(self, digests: Iterable[str]) -> None:
        """Do nothing: the server asks the rows before it gives anything away."""

    def link(self, digest: str, root: str) -> str:
        """Return this server's own address of the bytes."""
        return root + file_name(digest)


def array_of(path: Path) -> NDArray[np.uint8]:
    """Return what is in a file, in memory that NumPy gets by the large page."""
    return np.fromfile(path, np.uint8)


def digest_of(data: Data) -> str:
    """Return the digest of what was read."""
    return files.digest(data if isinstance(data, bytes) else data.data)
