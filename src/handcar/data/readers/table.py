"""Tables: CSV and Parquet, a row a record. Numbers and categories become one vector x.

    a number        one place; a gap is filled with the median of the training rows
    a category      one place for each of its values, 1 where it is that one
    with gaps       one more place, 1 where the value is missing

Two passes: the first finds out what each column is, the second writes x and y. Nothing is
standardised: that is a `Normalization` layer's work, in the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.data.readers import csvfile, parquet
from handcar.data.readers.csvfile import Row, Table, Value
from handcar.data.readers.study import MOST_VALUES, Study, as_number, is_gap, studied
from handcar.data.reading import Arrays, Found, Reading
from handcar.data.spool import Spool
from handcar.errors import DataError

LABELS = ("label", "class", "target", "y")
ONE_HOT = 64
"""A category of more values takes one place, with its value's rank: 0 is the most frequent."""
UNKNOWN = -1.0
"""The rank of a value that only test rows have."""
BATCH = 4096
FLOAT32_MOST = float(np.finfo(np.float32).max)
WHOLE_MOST = 2**63

Opener = Callable[[Path, Reading, Table | None], Table]
Numbered = list[tuple[int, Row]]


def read_csv(path: Path, reading: Reading) -> Found:
    """Read a CSV file, with a header or without."""
    return _read(path, reading, csvfile.opened)


def read_parquet(path: Path, reading: Reading) -> Found:
    """Read a Parquet file."""
    return _read(path, reading, parquet.opened)


def _read(path: Path, reading: Reading, opener: Opener) -> Found:
    table = opener(path, reading, None)
    at = _label_at(table, reading.options.label)
    studies = studied(table, at)
    label = _label(table, at, studies[at])
    columns = [
        _column(place, study)
        for place, study in enumerate(studies)
        if place != at and study.kind in ("number", "category")
    ]
    if not columns:
        raise DataError(f"{path}: expected a column to train on besides the label, found none")
    train = _written(table, label, columns, reading, "train")
    test = None
    if reading.options.test is not None:
        measured = opener(reading.options.test, reading, table)
        test = _written(measured, label, columns, reading, "test")
    return Found(
        train,
        test,
        class_names=label.class_names,
        columns=tuple(place for column in columns for place in column.places),
        notes=(*table.notes, *_notes(studies, label, columns)),
        kind="table",
    )


def _label_at(table: Table, asked: str | None) -> int:
    """Return which column is the label. Raises DataError naming all of them."""
    if asked is None:
        small = [name.lower() for name in table.names]
        return next((small.index(name) for name in LABELS if name in small), len(small) - 1)
    if asked in table.names:
        return table.names.index(asked)
    if asked.isdecimal() and 1 <= int(asked) <= len(table.names):
        return int(asked) - 1
    raise DataError(
        f"{table.path}: has no column {asked} for the label; there are "
        f"{', '.join(table.names)}. --label takes a name, or a number from 1"
    )


# -- the label -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Label:
    """The column that should come out: texts as class numbers, whole numbers, or fractions."""

    at: int
    name: str
    class_names: tuple[str, ...]
    numbers: dict[str, int]
    dtype: str

    def encoded(self, table: Table, rows: Numbered) -> NDArray[Any]:
        return np.array(
            [self._one(table, number, row[self.at]) for number, row in rows], self.dtype
        )

    def _one(self, table: Table, number: int, value: Value) -> float | int:
        where = f"{table.path}: {table.place} {number}: the label {self.name}"
        if is_gap(value):
            raise DataError(f"{where} is missing: give it or take the row out")
        if self.class_names:
            return self._class_number(where, str(value))
        got = as_number(value)
        if got is None or (self.dtype == "<i8" and got != int(got)):
            raise DataError(f"{where} is {value}, expected a number like those before")
        if self.dtype == "<f4":
            return got
        whole = int(value)  # type: ignore[arg-type]
        if not -WHOLE_MOST <= whole < WHOLE_MOST:
            raise DataError(f"{where} is {value}, expected a number below 2**63")
        return whole

    def _class_number(self, where: str, text: str) -> int:
        # The test file of UCI's Adult has a full stop after each label.
        for name in (text, text.rstrip(".")):
            if name in self.numbers:
                return self.numbers[name]
        known = ", ".join(self.class_names[:20])
        raise DataError(f"{where} is {text}, expected one of those to train on: {known}")


def _label(table: Table, at: int, study: Study) -> _Label:
    if study.kind == "number":
        return _Label(at, study.name, (), {}, "<i8" if study.whole else "<f4")
    if study.values is None:
        raise DataError(
            f"{table.path}: the label {study.name} has more than {MOST_VALUES:,} different texts: "
            "choose another column with --label"
        )
    names = tuple(sorted(study.values))
    numbers = {text: number for number, text in enumerate(names)}
    return _Label(at, study.name, names, numbers, "u1" if len(names) <= 256 else "<u2")


# -- the other columns -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of the table, and the places that it takes in x."""

    at: int
    name: str
    instead: float | None
    """What fills the gaps of a number; None for a category."""
    values: dict[str, int]
    """The values of a category, from 0."""
    has_gaps: bool

    @property
    def places(self) -> list[str]:
        """What each place in x holds."""
        if self.instead is not None:
            places = [self.name]
        elif len(self.values) > ONE_HOT:
            places = [f"rank of {self.name}"]
        else:
            places = [f"{self.name}={value}" for value in self.values]
        gap = f", {self.instead:g} instead" if self.instead is not None else ""
        return places + ([f"{self.name} is missing{gap}"] if self.has_gaps else [])

    def write(self, table: Table, rows: Numbered, places: NDArray[np.float32]) -> None:
        """Fill the places of these rows, which are 0 before."""
        for place, (number, row) in zip(places, rows, strict=True):
            value = row[self.at]
            if is_gap(value):
                place[0] = 0 if self.instead is None else self.instead
                if self.has_gaps:
                    place[-1] = 1
            elif self.instead is not None:
                place[0] = self._number(table, number, value)
            elif len(self.values) > ONE_HOT:
                place[0] = self.values.get(str(value), UNKNOWN)
            elif str(value) in self.values:
                place[self.values[str(value)]] = 1

    def _number(self, table: Table, number: int, value: Value) -> float:
        got = as_number(value)
        if got is None or abs(got) > FLOAT32_MOST:
            raise DataError(
                f"{table.path}: {table.place} {number}: {self.name} is {value}, expected a number "
                "that float32 can hold"
            )
        return got


def _column(at: int, study: Study) -> _Column:
    if study.kind == "number":
        instead = float(np.float32(np.median(study.sample)))
        return _Column(at, study.name, instead, {}, study.gaps > 0)
    counts = study.values or {}
    names = sorted(counts)
    if len(names) > ONE_HOT:
        names.sort(key=lambda name: -counts[name])
    return _Column(
        at, study.name, None, {name: place for place, name in enumerate(names)}, study.gaps > 0
    )


def _written(
    table: Table, label: _Label, columns: list[_Column], reading: Reading, name: str
) -> Arrays:
    """Write x and y batch by batch, and map them. Raises DataError, DiskFull."""
    widths = [len(column.places) for column in columns]
    ends = np.cumsum(widths)
    with (
        Spool(reading.folder / f"x-{name}.npy", (int(ends[-1]),), "<f4") as x,
        Spool(reading.folder / f"y-{name}.npy", (), label.dtype) as y,
    ):
        for rows in _batches(table):
            block = np.zeros((len(rows), int(ends[-1])), np.float32)
            for column, end, width in zip(columns, ends, widths, strict=True):
                column.write(table, rows, block[:, end - width : end])
            x.append(block)
            y.append(label.encoded(table, rows))
        return {"x": x.mapped(), "y": y.mapped()}


def _batches(table: Table) -> Iterator[Numbered]:
    rows = table.rows()
    while batch := list(islice(rows, BATCH)):
        yield batch


def _notes(studies: list[Study], label: _Label, columns: list[_Column]) -> Iterator[str]:
    kind = (
        "classes" if label.class_names else "whole numbers" if label.dtype == "<i8" else ("numbers")
    )
    yield f"The label is {label.name}: {kind}."
    numbers = sum(column.instead is not None for column in columns)
    yield (
        f"x holds {numbers} columns of numbers and {len(columns) - numbers} of categories, in "
        f"{sum(len(column.places) for column in columns)} places."
    )
    for column in columns:
        if column.has_gaps:
            filled = "" if column.instead is None else f", {column.instead:g} instead"
            gaps = studies[column.at].gaps
            yield f"{column.name}: missing {gaps:,} times{filled}; one place says where."
        if len(column.values) > ONE_HOT:
            yield (
                f"{column.name}: {len(column.values):,} values, more than {ONE_HOT}: their rank "
                "by frequency stands in one place."
            )
    for place, study in enumerate(studies):
        if place != label.at and study.kind == "text":
            yield f"{study.name}: more than {MOST_VALUES:,} different texts: left out."
        if place != label.at and study.kind == "empty":
            yield f"{study.name}: nothing but gaps: left out."
