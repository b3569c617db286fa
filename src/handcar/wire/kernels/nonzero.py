"""Over what is not 0 among many whole numbers: see `handcar.wire.sparse`."""

from __future__ import annotations

from typing import Any

import numpy as np

from handcar.wire.kernels.jit import compiled


@compiled
def locate(places: Any, live: Any, columns: int, counts: Any, out: Any) -> None:
    """Fill in where in a matrix, in blocks, what lies in its live rows and columns is.

    `live` is which rows and which columns those are. `places` are among their numbers, in order.
    """
    of_rows, of_columns = live
    row, first, block, counted = 0, 0, 0, 0
    for one in range(places.size):
        at = np.int64(places[one])
        while at >= first + of_columns.size:
            first += of_columns.size
            row += 1
        place = of_rows[row] * columns + of_columns[at - first]
        if place >> 16 != block:  # once a block: a processor waits for a counter
            counts[block] = one - counted
            block, counted = place >> 16, one
        out[one] = np.uint16(place & 0xFFFF)
    if places.size:
        counts[block] = places.size - counted


@compiled
def put(counts: Any, places: Any, numbers: Any, out: Any) -> None:
    """Put the numbers of each block to their places."""
    at = 0
    for block in range(counts.size):
        begin = block << 16
        for _ in range(counts[block]):
            out[begin + places[at]] = numbers[at]
            at += 1


@compiled
def add(total: Any, counts: Any, places: Any, numbers: Any, values: Any) -> None:
    """Add the values of the numbers of each block to its places."""
    at = 0
    for block in range(counts.size):
        begin = block << 16
        for _ in range(counts[block]):
            total[begin + places[at]] += values[np.int64(numbers[at]) + 128]
            at += 1


@compiled
def fold(part: Any, shape: Any, signs: Any, turns: Any, out: Any) -> None:
    """Add the numbers of a tensor to the places of a sketch, each with its sign: whole numbers.

    `part` is (counts, places, numbers); `shape` where the tensor starts, its inputs and units.
    """
    counts, places, numbers = part
    start, inputs, units = shape
    at = 0
    for block in range(counts.size):
        begin = block << 16
        unit = begin // inputs
        first = unit * inputs
        for _ in range(counts[block]):
            place = begin + np.int64(places[at])
            while place >= first + inputs:
                first += inputs
                unit += 1
            flat = start + (place - first) * units + unit
            sign = signs[turns[flat >> 18] + (flat & 0x3FFFF)]
            out[flat & 2047] += np.int64(sign) * np.int64(numbers[at])
            at += 1
