"""From an owner's file to chunks: read, look through, shuffle, cut.

    with read_npz(path) as source:
        print(source.describe())
        chunks = cut(source, folder)

Nothing is ever wholly in memory, so the data set may be larger than it.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from handcar import files
from handcar.data import chunks, npz
from handcar.data.survey import Survey, survey, travel_type
from handcar.errors import DataError
from handcar.protocol import limits

TRAIN_NAMES = (("x", "y"), ("x_train", "y_train"))
TEST_NAMES = (("x_test", "y_test"), ("x_val", "y_val"), ("x_validation", "y_validation"))
LEAST_RECORDS = 16

CHUNK_BYTES = 2 * files.MB
LEAST_CHUNKS = 8
"""Enough for volunteers to start on different ones; given up below 16 records a chunk."""
LEAST_CHUNK_RECORDS = 16

Split = Literal["train", "validation"]


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
    """A data set file, looked through and ready to be cut; close it to free its disk."""

    def __init__(self, name: str, folder: Path, train: Part, test: Part | None) -> None:
        self.name = name
        self.train = train
        self.test = test
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

    def describe(self) -> str:
        """Say for a person what was found."""
        tested = f" to train and {self.test['x'].survey.records:,} to test" if self.test else ""
        return " ".join(
            [
                f"{self.name}: {self.records:,} records{tested}.",
                *(_described(name, column) for name, column in self.train.items()),
                *self.notes(),
            ]
        )

    def notes(self) -> list[str]:
        """Say what will travel as another type than the file has."""
        return [
            f"{name} travels as {column.dtype.name}, which is smaller than {given.name}"
            + (" and less exact." if column.dtype.kind == "f" else " and holds the same.")
            for name, column in self.train.items()
            if (given := column.survey.array.dtype).itemsize > column.dtype.itemsize
        ]


def _described(name: str, column: Column) -> str:
    found = column.survey
    shape = " x ".join(map(str, found.shape)) or "one number"
    if name == "y" and found.classes is not None:
        return f"y: {found.classes:,} classes, from {found.lowest} to {found.highest}."
    return f"{name}: {shape}, {column.dtype.name}, from {found.lowest:.6g} to {found.highest:.6g}."


# -- reading ---------------------------------------------------------------------------------


def read_npz(path: Path, *, folder: Path | None = None) -> Source:
    """Read an .npz file with x and y, and optional x_test and y_test.

    Its arrays are unpacked into a temporary folder in `folder`. Raises DataError, DiskFull.
    """
    unpacked = Path(tempfile.mkdtemp(prefix="handcar-", dir=folder))
    try:
        with npz.opened(path) as archive:
            there = npz.names(archive)
            pairs = [_training_names(path, there), *_test_names(path, there)]
            arrays = [_unpack(archive, pair, unpacked) for pair in pairs]
        train, *test = _columns(pairs, arrays)
        return Source(path.name, unpacked, train, test[0] if test else None)
    except BaseException:
        shutil.rmtree(unpacked, ignore_errors=True)
        raise


def _unpack(archive: ZipFile, pair: tuple[str, str], folder: Path) -> dict[str, NDArray[Any]]:
    return {
        column: npz.unpack(archive, name, folder) for column, name in zip("xy", pair, strict=True)
    }


def _training_names(path: Path, there: list[str]) -> tuple[str, str]:
    for pair in TRAIN_NAMES:
        if set(pair) <= set(there):
            return pair
    found = ", ".join(sorted(there)[:20]) or "none"
    raise DataError(f"{path}: expected the arrays x and y, found {found}; {npz.HOW_TO_SAVE}")


def _test_names(path: Path, there: list[str]) -> list[tuple[str, str]]:
    for pair in TEST_NAMES:
        found = set(pair) & set(there)
        if len(found) == 1:
            raise DataError(
                f"{path}: {found.pop()} is there, expected both of {' and '.join(pair)}"
            )
        if found:
            return [pair]
    return []


def _columns(pairs: list[tuple[str, str]], arrays: list[dict[str, NDArray[Any]]]) -> list[Part]:
    surveys = []
    for pair, part in zip(pairs, arrays, strict=True):
        _expect_lengths(pair, part)
        surveys.append({"x": survey(pair[0], part["x"]), "y": survey(pair[1], part["y"])})
    _expect_alike(pairs, surveys)
    types = {name: travel_type([part[name] for part in surveys]) for name in "xy"}
    return [{name: Column(found, types[name]) for name, found in part.items()} for part in surveys]


def _expect_lengths(pair: tuple[str, str], part: Mapping[str, NDArray[Any]]) -> None:
    records, labels = len(part["x"]), len(part["y"])
    if records != labels:
        raise DataError(
            f"expected as many records in {pair[0]} as in {pair[1]}, got {records:,} and {labels:,}"
        )
    if pair in TRAIN_NAMES and records < LEAST_RECORDS:
        raise DataError(f"expected at least {LEAST_RECORDS} records, got {records}")


def _expect_alike(pairs: list[tuple[str, str]], parts: list[dict[str, Survey]]) -> None:
    for pair, part in zip(pairs[1:], parts[1:], strict=True):
        for train_name, test_name, column in zip(pairs[0], pair, "xy", strict=True):
            expected, got = parts[0][column].shape, part[column].shape
            if expected != got:
                raise DataError(
                    f"expected records of the same shape in {train_name} and {test_name}, "
                    f"got {expected} and {got}"
                )


# -- cutting ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CutChunk:
    """One chunk as a file, and what a manifest says of it."""

    path: Path
    digest: str
    size: int
    records: int
    split: Split
    codec: str = chunks.CODEC

    @property
    def file_name(self) -> str:
        """The name that people see."""
        return self.path.name


def cut(
    source: Source,
    folder: Path,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    validation: float = 0.1,
    seed: int = 0,
) -> list[CutChunk]:
    """Write the chunks of a source to `folder`: shuffled, so each is a fair sample.

    The file's own test records become validation chunks, else the share `validation` of
    all. `chunk_bytes` counts before compression. The same seed gives the same chunks, so
    whoever was interrupted cuts again. Raises DataError when records are too large.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(source.records)
    if source.test is not None:
        held_back, kept = source.test, rng.permutation(source.test["x"].survey.records)
    else:
        count = round(source.records * validation)
        held_back, kept, order = source.train, order[:count], order[count:]
    cutter = _Cutter(folder, chunk_bytes, limits.CHUNKS_A_DATA_SET)
    validation_chunks = cutter.cut("validation", held_back, kept, least=1)
    return cutter.cut("train", source.train, order, least=LEAST_CHUNKS) + validation_chunks


@dataclass
class _Cutter:
    folder: Path
    chunk_bytes: int
    free: int
    """How many chunks the data set may still have."""

    def cut(
        self, split: Split, part: Part, order: NDArray[np.int64], *, least: int
    ) -> list[CutChunk]:
        """Write the records of `order` in as many chunks as they take, at least `least`."""
        count = self._count(part, len(order), least)
        self.free -= count
        return [
            self._write(split, number, part, np.sort(numbers))
            for number, numbers in enumerate(np.array_split(order, count) if count else [])
        ]

    def _count(self, part: Part, records: int, least: int) -> int:
        by_bytes = math.ceil(records * _record_bytes(part.values()) / self.chunk_bytes)
        few = least if records >= least * LEAST_CHUNK_RECORDS else 1
        # One chunk stays free for the training records, which come last.
        return min(max(by_bytes, few), records, self.free - 1)

    def _write(self, split: Split, number: int, part: Part, numbers: NDArray[np.int64]) -> CutChunk:
        self._expect_small(part, len(numbers))
        data = chunks.encode({name: column.rows(numbers) for name, column in part.items()})
        if len(data) > limits.CHUNK_BYTES:
            raise DataError(
                f"a chunk of {len(numbers)} records takes {len(data):,} bytes, and may take "
                f"{limits.CHUNK_BYTES:,}: make the records smaller"
            )
        path = self.folder / f"{split}-{number:05}.chunk"
        files.write(path, data)
        return CutChunk(path, files.digest(data), len(data), len(numbers), split)

    def _expect_small(self, part: Part, records: int) -> None:
        decoded = records * _record_bytes(part.values())
        if decoded > chunks.DECODED_BYTES:
            raise DataError(
                f"{records} records of a chunk take {decoded:,} bytes, and may take "
                f"{chunks.DECODED_BYTES:,}: make the records smaller"
            )


def _record_bytes(columns: Iterable[Column]) -> int:
    return sum(column.record_bytes for column in columns)
