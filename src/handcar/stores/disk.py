"""A folder as a store: the owner's own web server shows it at a public address."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from handcar import files


@dataclass(frozen=True, slots=True)
class DiskStore:
    """Files named by the hex digits of their digest, in folders by the first two of them.

    `base_url` is the address at which a web server shows `folder`.
    """

    folder: Path
    base_url: str

    def put(self, digest: str, path: Path) -> bool:
        """Copy a file here, whole, unless it is here; say whether it was not. Raises DiskFull."""
        target = self.folder / _name(digest)
        if target.is_file():
            return False
        with path.open("rb") as source, files.whole(target) as file:
            shutil.copyfileobj(source, file)
        return True

    def link(self, digest: str) -> str:
        """Return the address for volunteers."""
        return f"{self.base_url.rstrip('/')}/{_name(digest)}"


def _name(digest: str) -> str:
    name = digest.removeprefix("sha256:")
    return f"{name[:2]}/{name}"
