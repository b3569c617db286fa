"""What an array of records holds, looked at piece by piece, and the type it should travel as."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.errors import DataError
from handcar.files import MB

PIECE_BYTES = 16 * MB
INTEGERS = tuple(np.dtype(name) for name in ("u1", "i1", "u2", "i2", "u4", "i4", "i8"))
MOST_CLASSES = 100_000
"""Of more different labels we do not keep count: they are hardly classes."""

Told = Callable[[int], None]
"""Is told how many bytes more were looked at."""


@dataclass(frozen=True, slots=True)
class Survey:
    """One array: its records, and over all of them the range and how many values differ."""

    array: NDArray[Any]
    lowest: float | int
    highest: float | int
    counts: Mapping[int, int] | None
    """How many records each label has, None where values are not class numbers, one a record."""

    @property
    def classes(self) -> int | None:
        """How many labels differ."""
        return None if self.counts is None else len(self.counts)

    @property
    def records(self) -> int:
        """How many rows there are."""
        return len(self.array)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type that the file has."""
        return self.array.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one record."""
        return self.array.shape[1:]


def survey(name: str, array: NDArray[Any], told: Told = lambda count: None) -> Survey:
    """Look through an array. Raises DataError for values that can't be trained on."""
    lowest, highest = math.inf, -math.inf
    counts: dict[int, int] | None = {} if _may_be_classes(array) else None
    for first, piece in pieces(array):
        if piece.dtype.kind == "f":
            _expect_finite(name, first, piece)
        lowest, highest = min(lowest, piece.min()), max(highest, piece.max())
        if counts is not None:
            counts = _counted(counts, piece)
        told(piece.nbytes)
    if array.dtype.kind == "u" and highest > np.iinfo(np.int64).max:
        raise DataError(f"{name}: expected numbers below 2**63, got {highest}")
    plain = float if array.dtype.kind == "f" else int
    return Survey(array, plain(lowest), plain(highest), counts)


def travel_type(surveys: Sequence[Survey]) -> np.dtype[Any]:
    """Return the smallest type that holds whole numbers exactly, or float32 at most."""
    common = np.result_type(*(one.dtype for one in surveys))
    if common.kind == "b":
        return np.dtype("b1")
    if all(one.dtype.kind in "biu" for one in surveys):
        lowest, highest = min(s.lowest for s in surveys), max(s.highest for s in surveys)
        return next(t for t in INTEGERS if np.iinfo(t).min <= lowest and highest <= np.iinfo(t).max)
    return np.dtype("<f2") if common.itemsize == 2 else np.dtype("<f4")


def _may_be_classes(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "biu" and array.shape[1:] in ((), (1,))


def _counted(counts: dict[int, int], piece: NDArray[Any]) -> dict[int, int] | None:
    labels, found = np.unique(piece, return_counts=True)
    for label, count in zip(labels.tolist(), found.tolist(), strict=True):
        counts[int(label)] = counts.get(int(label), 0) + count
    return counts if len(counts) <= MOST_CLASSES else None


def pieces(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Return the number of its first record and each run of records of about 16 MB."""
    row_bytes = max(1, array.nbytes // len(array))
    rows = max(1, PIECE_BYTES // row_bytes)
    for first in range(0, len(array), rows):
        yield first, array[first : first + rows]


def _expect_finite(name: str, first: int, piece: NDArray[Any]) -> None:
    with np.errstate(over="ignore"):
        # As it will travel: what is finite in float64 may not be in float32.
        narrow = piece if piece.dtype.itemsize <= 4 else piece.astype(np.float32)
    sound = np.isfinite(narrow).reshape(len(piece), -1).all(axis=1)
    if not sound.all():
        row = first + int(np.flatnonzero(~sound)[0])
        raise DataError(
            f"{name}: record {row} holds NaN, infinity or more than float32 can: remove or mend it"
        )
