"""What every reader gets and gives back: plain data, and one way to ask for a library.

A reader is a function `read(path, reading) -> Found`. It keeps what it unpacks in
`reading.folder` as memory-mapped arrays, so that nothing is ever wholly in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from handcar.errors import DataError

WINDOW = 64
"""Tokens in one record of text, where nothing else is asked for."""

Kind = Literal["arrays", "pictures", "table", "text", "sounds"]
Progress = Callable[[int, int], None]
"""Is told how much is done, and of how much, in whatever the reader counts."""
Pair = tuple[str, str]
Arrays = Mapping[str, Any]
"""x and y: each an array with a row a record, or another column as `sources.Column` is."""


def silent(done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True, slots=True)
class Options:
    """What an owner may say of data; each is read by the readers that it concerns."""

    label: str | None = None
    """A table's label column, by its name or its number from 1."""
    size: tuple[int, int] | None = None
    """Width and height that pictures are resized to."""
    window: int = WINDOW
    """Tokens in one record of text."""
    tokenizer: Path | None = None
    """A tokenizer.json that turns text to tokens."""
    seconds: float | None = None
    """How long each sound is made."""
    test: Path | None = None
    """Data of the same kind to measure on."""
    validation: float = 0.1
    """The share that is held back where there is no such data."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader may use: a folder of its own, and someone to tell how far it is."""

    folder: Path
    options: Options = field(default_factory=Options)
    on_progress: Progress = silent

    def refuse_test(self, path: Path) -> None:
        """Raise DataError where a file brings its own test records and --test others."""
        if self.options.test is not None:
            raise DataError(
                f"{path} has its own records to test on: leave --test {self.options.test} away, "
                "or leave those out of the file"
            )


@dataclass(frozen=True, slots=True)
class Found:
    """What a reader found."""

    train: Arrays
    test: Arrays | None = None
    names: tuple[Pair, ...] = (("x", "y"), ("x_test", "y_test"))
    """What the file calls the columns of both, for error texts."""
    class_names: tuple[str, ...] = ()
    """What the class numbers stand for, from 0, where the data says."""
    columns: tuple[str, ...] = ()
    """What the places of a table's x hold, in order."""
    vocabulary: tuple[str, ...] = ()
    """What token numbers stand for, from 0, where each is one character."""
    notes: tuple[str, ...] = ()
    """What a person should know, a sentence each."""
    kind: Kind = "arrays"


def library(name: str, package: str, what: str) -> Any:
    """Import a module that only owners need. Raises DataError saying how to install it."""
    try:
        return import_module(name)
    except ImportError as fault:
        raise DataError(
            f"reading {what} needs {package}: pip install 'handcar[publish]'"
        ) from fault
