"""The rows of a CSV file: which sign parts its values, whether it has a header, line by line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from handcar.data.reading import Reading
from handcar.errors import DataError
from handcar.files import MB

Value = str | int | float | None
Row = Sequence[Value]

DELIMITERS = ",;\t|"
LINE_BYTES = MB
"""A longer line is no table's."""
SNIFFED = 200
"""So many lines say what the delimiter is, and whether the first is a header."""
TOLD_EVERY = 1000
PASSES = 2


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be gone through several times, a row at a time."""

    path: Path
    names: tuple[str, ...]
    has_names: bool
    """Whether the file gives them, or we made them up."""
    texts: tuple[bool, ...]
    """Which columns hold texts even where they look like numbers."""
    place: str
    """What the numbers of rows count: lines, or rows."""
    notes: tuple[str, ...]
    rows: Callable[[], Iterator[tuple[int, Row]]]
    """Goes through all rows, each with its number from 1. Raises DataError."""


def opened(path: Path, reading: Reading, like: Table | None = None) -> Table:
    """Look at the first lines of a file; those of a test file are `like` the training file's.

    Raises DataError.
    """
    lines = _first_lines(path)
    delimiter = _delimiter(lines)
    rows = list(_parsed(path, enumerate(lines, start=1), delimiter))
    if not rows:
        raise DataError(f"{path}: expected a row a line, found none")
    first = [str(value) for value in rows[0][1]]
    if like is None:
        headed = _is_header(first, [row for _, row in rows[1:]])
        names = first if headed else [f"column{number}" for number in range(1, len(first) + 1)]
    else:
        names, headed = list(like.names), first == list(like.names)
        _expect_width(path, len(first), len(names))
    notes = [
        "The first line names the columns."
        if headed
        else "No header: the columns are called column1, column2 and so on."
    ]
    passes = 0

    def all_rows() -> Iterator[tuple[int, Row]]:
        nonlocal passes
        with path.open("rb") as file:
            lines = _told(_decoded(path, file), file, path, reading, passes)
            for number, row in _parsed(path, lines, delimiter):
                if number > 1 or not headed:
                    _expect_width(f"{path}: line {number}", len(row), len(names))
                    yield number, row
        passes += 1

    return Table(path, tuple(names), headed, (False,) * len(names), "line", tuple(notes), all_rows)


def _first_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            return [
                line for (_, line), _ in zip(_decoded(path, file), range(SNIFFED), strict=False)
            ]
    except OSError as fault:
        raise DataError(f"{path}: can't be read: {fault.strerror}") from fault


def _decoded(path: Path, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Yield each line with its number. Raises DataError for what is no UTF-8 text."""
    number = 0
    while raw := file.readline(LINE_BYTES + 1):
        number += 1
        if len(raw) > LINE_BYTES:
            raise DataError(
                f"{path}: line {number} is longer than {LINE_BYTES:,} bytes: expected a table, a "
                "row a line"
            )
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as fault:
            raise DataError(
                f"{path}: line {number}: expected UTF-8 text, got the byte "
                f"0x{raw[fault.start]:02x}: save the file as UTF-8"
            ) from fault


def _told(
    lines: Iterator[tuple[int, str]], file: IO[bytes], path: Path, reading: Reading, passes: int
) -> Iterator[tuple[int, str]]:
    size = path.stat().st_size
    for number, line in lines:
        if number % TOLD_EVERY == 0:
            reading.on_progress(min(passes, PASSES - 1) * size + file.tell(), PASSES * size)
        yield number, line


def _parsed(
    path: Path, lines: Iterable[tuple[int, str]], delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that isn't empty, with the number of its last line."""
    number = 0

    def texts() -> Iterator[str]:
        nonlocal number
        for number, line in lines:  # noqa: B007, PLR1704 - told below, and in errors
            yield line

    reader = csv.reader(texts(), delimiter=delimiter, skipinitialspace=True)
    try:
        for row in reader:
            if row not in ([], [""]):
                yield number, [value.strip() for value in row]
    except csv.Error as fault:
        raise DataError(
            f"{path}: line {number}: {fault}; is a quotation mark left open above?"
        ) from fault


def _delimiter(lines: list[str]) -> str:
    """Return the sign that is there in each line, and most often."""
    filled = [line for line in lines if line.strip()] or [""]
    return max(DELIMITERS, key=lambda sign: min(line.count(sign) for line in filled))


def _is_header(first: list[str], rows: list[list[str]]) -> bool:
    """Say whether the first line names the columns: no numbers, none twice, unlike the rest."""
    if any(_is_number(name) or not name for name in first) or len(set(first)) < len(first):
        return False
    columns = list(zip(*rows, strict=False))
    return any(any(map(_is_number, column)) for column in columns) or not any(
        name in column for name, column in zip(first, columns, strict=False)
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _expect_width(where: object, got: int, expected: int) -> None:
    if got != expected:
        raise DataError(f"{where}: expected {expected} values, as in the first line, got {got}")
