"""Records that were read and looked through, ready to be cut."""

from __future__ import annotations

import math
import shutil
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from handcar.data.reading import Arrays, Found, Kind, Pair, Progress, silent
from handcar.data.survey import Survey, survey, travel_type
from handcar.errors import DataError

LEAST_RECORDS = 16
SHOWN = 12
"""So many classes are told one by one."""
SHOWN_LETTERS = 60


@dataclass(frozen=True, slots=True)
class Column:
    """One array of the file and the type that it travels as."""

    survey: Survey
    dtype: np.dtype[Any]

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Return these records, which should be sorted: the disk likes it."""
        return self.survey.array[numbers].astype(self.dtype, copy=False)

    @property
    def record_bytes(self) -> int:
        """How many bytes one record takes, not compressed."""
        return math.prod(self.survey.shape) * self.dtype.itemsize


Part = Mapping[str, Column]


class Source:
    """A data set, looked through and ready to be cut; close it to free its disk."""

    def __init__(
        self, name: str, folder: Path, train: Part, test: Part | None, found: Found | None = None
    ) -> None:
        self.name = name
        self.train = train
        self.test = test
        self._found = found or Found({})
        self.close = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def x(self) -> Survey:
        """What goes into the model."""
        return self.train["x"].survey

    @property
    def y(self) -> Survey:
        """What should come out."""
        return self.train["y"].survey

    @property
    def parts(self) -> tuple[Part, ...]:
        """The training records and, if the file has them, the test records."""
        return (self.train,) if self.test is None else (self.train, self.test)

    @property
    def records(self) -> int:
        """How many records the file has to train on."""
        return self.x.records

    @property
    def classes(self) -> int | None:
        """How many labels differ; none where y is not class numbers."""
        return self.y.classes

    @property
    def kind(self) -> Kind:
        """What sort of data it is."""
        return self._found.kind

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the class numbers stand for, from 0; empty where the data doesn't say."""
        return self._found.class_names

    @property
    def columns(self) -> tuple[str, ...]:
        """What the places of a table's x hold, in order; empty for other data."""
        return self._found.columns

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The characters that token numbers stand for, from 0; empty for other data."""
        return self._found.vocabulary

    def describe(self) -> str:
        """Say for a person what was found, a line each."""
        tested = f" to train and {self.test['x'].survey.records:,} to test" if self.test else ""
        return "\n".join(
            [
                f"{self.name}: {self.records:,} records{tested}.",
                *(self._described(name, column) for name, column in self.train.items()),
                *self.notes(),
            ]
        )

    def notes(self) -> list[str]:
        """Say what the reader did, and what will travel as another type than the file has."""
        return list(self._found.notes) + [
            f"{name} travels as {column.dtype.name}, which is smaller than {given.name}"
            + (" and less exact." if column.dtype.kind == "f" else " and holds the same.")
            for name, column in self.train.items()
            if (given := column.survey.dtype).itemsize > column.dtype.itemsize
        ]

    def legend(self) -> list[str]:
        """Say what the numbers stand for, for whoever uses the trained model later."""
        told = []
        if self.class_names:
            told.append(f"Classes from 0: {', '.join(self.class_names)}.")
        if self.columns:
            told.append(f"Columns of x: {', '.join(_grouped(self.columns))}.")
        if self.vocabulary:
            told.append(f"Characters from 0: {' '.join(map(repr, self.vocabulary))}.")
        return told

    def _described(self, name: str, column: Column) -> str:
        found = column.survey
        if name == "y" and found.counts is not None:
            return f"y: {found.classes:,} classes{self._counted(found)}."
        shape = " x ".join(map(str, found.shape)) or "one number"
        lowest, highest = f"{found.lowest:.6g}", f"{found.highest:.6g}"
        return f"{name}: {shape}, {column.dtype.name}, from {lowest} to {highest}."

    def _counted(self, found: Survey) -> str:
        """Return the classes, and how many records each has."""
        counts = found.counts or {}
        names = [_short(name) for name in self.class_names]
        if not names:
            span = f", from {found.lowest} to {found.highest}"
            return span + (f" ({_counts(list(counts.values()))})" if len(counts) <= SHOWN else "")
        told = [f"{name} ({counts.get(at, 0):,})" for at, name in enumerate(names[:SHOWN])]
        more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        return f": {', '.join(told)}{more}"


def _grouped(columns: tuple[str, ...]) -> Iterator[str]:
    """Return the columns with the values of one category together: `colour=red|green`."""
    for name, places in groupby(columns, lambda place: place.partition("=")[0]):
        values = [place.partition("=")[2] for place in places]
        yield f"{name}={'|'.join(values)}" if values[0] else name


def _counts(counts: list[int]) -> str:
    return ", ".join(f"{count:,}" for count in counts) + " records"


def _short(name: str) -> str:
    return name if len(name) <= SHOWN_LETTERS else name[:SHOWN_LETTERS] + "..."


# -- looking through -------------------------------------------------------------------------


def source_of(name: str, folder: Path, found: Found, on_progress: Progress = silent) -> Source:
    """Look through what a reader found. Raises DataError for what can't be trained on.

    `folder` is removed when the source is closed.
    """
    parts = [found.train] if found.test is None else [found.train, found.test]
    pairs = list(found.names[: len(parts)])
    for pair, part in zip(pairs, parts, strict=True):
        _expect_lengths(pair, part, training=part is found.train)
    told = _Counting(on_progress, sum(_bytes(array) for part in parts for array in part.values()))
    looked = [
        {column: _looked(name, part[column], told) for column, name in zip("xy", pair, strict=True)}
        for pair, part in zip(pairs, parts, strict=True)
    ]
    _expect_alike(pairs, looked)
    _expect_named(found.class_names, looked[0]["y"])
    train, *test = _typed(looked)
    return Source(name, folder, train, test[0] if test else None, found)


class _Counting:
    """Adds up bytes over all arrays."""

    def __init__(self, on_progress: Progress, total: int) -> None:
        self._on_progress = on_progress
        self._total = total
        self._done = 0

    def __call__(self, count: int) -> None:
        self._done += count
        self._on_progress(self._done, self._total)


def _bytes(array: Any) -> int:
    return array.nbytes if isinstance(array, np.ndarray) else 0


def _looked(name: str, array: Any, told: _Counting) -> Any:
    """Return the survey of an array; a column that a reader made is kept as it is."""
    return survey(name, array, told) if isinstance(array, np.ndarray) else array


def _typed(looked: list[dict[str, Any]]) -> Iterator[Part]:
    types = {
        name: travel_type([part[name] for part in looked if isinstance(part[name], Survey)])
        for name in "xy"
        if isinstance(looked[0][name], Survey)
    }
    for part in looked:
        yield {
            name: Column(found, types[name]) if isinstance(found, Survey) else found
            for name, found in part.items()
        }


def _records(array: Any) -> int:
    return len(array) if isinstance(array, np.ndarray) else array.survey.records


def _shape(looked: Any) -> tuple[int, ...]:
    return tuple(looked.shape)


def _expect_lengths(pair: Pair, part: Arrays, *, training: bool) -> None:
    records, labels = _records(part["x"]), _records(part["y"])
    if records != labels:
        raise DataError(
            f"expected as many records in {pair[0]} as in {pair[1]}, got {records:,} and {labels:,}"
        )
    if training and records < LEAST_RECORDS:
        raise DataError(f"expected at least {LEAST_RECORDS} records, got {records}")


def _expect_named(names: tuple[str, ...], y: Survey) -> None:
    if names and not 0 <= y.lowest <= y.highest < len(names):
        raise DataError(
            f"expected class numbers from 0 to {len(names) - 1}, since {len(names)} classes have "
            f"names, got {y.lowest} to {y.highest}"
        )


def _expect_alike(pairs: list[Pair], parts: list[dict[str, Any]]) -> None:
    for pair, part in zip(pairs[1:], parts[1:], strict=True):
        for train_name, test_name, column in zip(pairs[0], pair, "xy", strict=True):
            expected, got = _shape(parts[0][column]), _shape(part[column])
            if expected != got:
                raise DataError(
                    f"expected records of the same shape in {train_name} and {test_name}, "
                    f"got {expected} and {got}"
                )
