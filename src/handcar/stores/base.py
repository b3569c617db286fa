"""What a store is."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Store(Protocol):
    """A place for bytes that never change, named by their digest."""

    @property
    def parallel(self) -> int:
        """How many files are best put there at a time."""

    def describe(self) -> str:
        """Say for a person where it is."""

    def check(self) -> None:
        """Raise StoreFault, saying what to do, unless files can be put here; ask what is here."""

    def put(self, digest: str, path: Path) -> bool:
        """Store a file; say whether it was sent, or was there already. Safe to repeat."""

    def link(self, digest: str) -> str | None:
        """Return the address for volunteers; none when the Handcar server knows it itself."""

    def close(self) -> None:
        """End connections and processes."""


class OwnStore(Store, Protocol):
    """A store of the owner's own, who may take things away again."""

    def remove(self, digest: str) -> None:
        """Remove a file; harmless when it is not there."""


def file_name(digest: str) -> str:
    """Return the name of a digest's file: its 64 hex digits."""
    return digest.removeprefix("sha256:")
