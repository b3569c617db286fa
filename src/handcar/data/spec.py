"""What a chunk's header says of one column, and the bounds of that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.protocol import limits

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "i8", "f2", "f4", "f8", "b1")
"""What a column may hold; little-endian on the wire and in memory."""
DECODED_BYTES = 4 * limits.CHUNK_BYTES
COLUMNS = 16
DIMENSIONS = 8

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Spec:
    """One column: the shape is that of one record."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def little(self) -> np.dtype[Any]:
        """The type of its numbers, little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def numbers(self) -> int:
        """How many numbers make a record."""
        return math.prod(self.shape)

    @property
    def record_bytes(self) -> int:
        """How many bytes one record takes, decoded."""
        return self.numbers * self.little.itemsize


def spec_of(name: str, array: Any) -> Spec:
    """Return the spec of an array with one row a record, or of pictures that look like one."""
    short = f"{array.dtype.kind}{array.dtype.itemsize}"
    return Spec(name, short, tuple(array.shape[1:]))
