"""Kinds of texts in a model file."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from handcar.modelfile.kinds import unfit
from handcar.modelfile.problems import Problems
from handcar.modelfile.schema import Value

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
HIDDEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
FILE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a model or of a data set, as it stands in links and in commands."""

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return the name."""
        fits = isinstance(raw, str) and NAME.fullmatch(raw)
        return str(raw) if fits else unfit(self, raw, path, problems)

    def __str__(self) -> str:
        return "1 to 63 small letters, digits or hyphens, the first not a hyphen"


@dataclass(frozen=True, slots=True)
class Text:
    """A text for people; line breaks are allowed, other control characters are not."""

    most: int

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return the text."""
        fits = isinstance(raw, str) and len(raw) <= self.most and is_printable(raw)
        return str(raw) if fits else unfit(self, raw, path, problems)

    def __str__(self) -> str:
        return f"a text of at most {self.most} characters, without control characters"


def is_printable(text: str) -> bool:
    """Return whether each character can be shown: no control codes, no turning of text around."""
    return all(char in "\n\t" or unicodedata.category(char) not in HIDDEN for char in text)


@dataclass(frozen=True, slots=True)
class FileName:
    """A file beside the model file, or in a folder beside it; never above it."""

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return the name."""
        parts = raw.split("/") if isinstance(raw, str) else []
        fits = 1 <= len(parts) <= 8 and all(FILE_PART.fullmatch(part) for part in parts)
        return str(raw) if fits else unfit(self, raw, path, problems)

    def __str__(self) -> str:
        return "a file beside the model file, such as 'digits.npz' or 'data/digits.npz'"
