"""What may stand in an address."""

from __future__ import annotations


class Hex:
    """The 64 digits of a SHA-256."""

    regex = "[0-9a-f]{64}"

    def to_python(self, value: str) -> str:
        """Return it as it is."""
        return value

    def to_url(self, value: str) -> str:
        """Return it as it is."""
        return value


class Name(Hex):
    """A model's name."""

    regex = "[a-z0-9][a-z0-9-]{0,62}"
