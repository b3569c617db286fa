"""A folder as a store: the owner's own web server shows it at a public address."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from handcar import files
from handcar.errors import StoreFault
from handcar.stores.base import file_name


@dataclass(frozen=True, slots=True)
class DiskStore:
    """Files named by the hex digits of their digest, in folders by the first two of them.

    `base_url` is the address at which a web server shows `folder`.
    """

    folder: Path
    base_url: str
    parallel: int = 1

    def describe(self) -> str:
        """Say where it is."""
        return f"the folder {self.folder}"

    def check(self) -> None:
        """Make the folder. Raises StoreFault when that can't be done."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreFault(f"{self.folder} can't be a store: {error.strerror}") from error

    def put(self, digest: str, path: Path) -> bool:
        """Copy a file here, whole, unless it is here; say whether it was not. Raises DiskFull."""
        target = self._path(digest)
        if target.is_file():
            return False
        with path.open("rb") as source, files.whole(target) as file:
            shutil.copyfileobj(source, file)
        # A web server runs as somebody else.
        target.chmod(0o644)
        return True

    def link(self, digest: str) -> str:
        """Return the address for volunteers."""
        name = file_name(digest)
        return f"{self.base_url.rstrip('/')}/{name[:2]}/{name}"

    def remove(self, digest: str) -> None:
        """Remove a file; harmless when it is not there."""
        self._path(digest).unlink(missing_ok=True)

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def _path(self, digest: str) -> Path:
        name = file_name(digest)
        return self.folder / name[:2] / name
