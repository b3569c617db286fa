"""Problems of a model file, and the words in which they are told."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable

from handcar.errors import FieldProblem, ModelFileError
from handcar.modelfile.limits import MAX_PROBLEMS


class Problems:
    """What is wrong with a file, found so far."""

    def __init__(self) -> None:
        self.found: list[FieldProblem] = []

    def add(self, path: str, message: str) -> None:
        """Note one problem; after a hundred of them, nothing more."""
        if not self.full:
            self.found.append(FieldProblem(path, message))

    @property
    def full(self) -> bool:
        """Whether no more problems are noted."""
        return len(self.found) >= MAX_PROBLEMS

    def refuse_if_any(self) -> None:
        """Raise ModelFileError with all problems, if there are any."""
        if self.found:
            raise ModelFileError(self.found)


def joined(path: str, key: str) -> str:
    """Return the path of a key inside the object at `path`."""
    return f"{path}.{key}" if path else key


def unknown(name: str, names: Iterable[str], what: str) -> str:
    """Say that a name is unknown, and which ones there are."""
    names = list(names)
    hint = did_you_mean(name, names)
    return f"is not a known {what}{hint}" + ("" if hint else f"; expected {one_of(names)}")


def did_you_mean(raw: object, names: Iterable[object]) -> str:
    """Return a hint when a name is nearly right."""
    if not isinstance(raw, str) or len(raw) > 64:
        return ""
    lower = {str(name).lower(): str(name) for name in names}
    close = difflib.get_close_matches(raw.lower(), lower, n=1)
    return f"; did you mean {lower[close[0]]!r}?" if close else ""


def one_of(values: Iterable[object]) -> str:
    """Return the values as `'a', 'b' or 'c'`."""
    words = [json.dumps(value) if isinstance(value, bool) else repr(value) for value in values]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def short(raw: object) -> str:
    """Return what was got, in JSON, short enough for a line."""
    text = ascii(raw) if isinstance(raw, str) else json.dumps(raw, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def short_key(key: str) -> str:
    """Return a stranger's key, short enough for a path."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "?", key[:40])
    return plain if len(key) <= 40 else f"{plain}..."


def snake_case(name: str) -> str:
    """Return a class's name as Keras writes it in small letters: `max_pooling2d`."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
