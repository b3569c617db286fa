"""What a store is."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Store(Protocol):
    """A place for bytes that never change, named by their digest."""

    def put(self, digest: str, path: Path) -> bool:
        """Store a file; say whether it was sent, or was there already. Safe to repeat."""

    def link(self, digest: str) -> str | None:
        """Return the address for volunteers; none when the Handcar server knows it itself."""
