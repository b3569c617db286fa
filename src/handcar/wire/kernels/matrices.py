"""Between tensors and matrices of whole numbers, and what is reckoned over them."""

from __future__ import annotations

from typing import Any

import numpy as np

from handcar.wire.kernels.jit import compiled

TILE = 64
"""Numbers that are turned over at once: as many bytes as a cache line has."""
LARGEST = 127


@compiled
def contexts(rows: Any, columns: Any, middle: int, most: int, out: Any) -> None:
    """Fill `out` with a row's level and a column's, added and kept from 1 to `most`."""
    for row in range(rows.size):
        level = np.int16(rows[row]) - np.int16(middle)
        line = out[row * columns.size : (row + 1) * columns.size]
        for column in range(columns.size):
            both = np.int16(level + np.int16(columns[column]))
            line[column] = np.uint8(min(max(both, np.int16(1)), np.int16(most)))


@compiled
def symbols(numbers: Any, out: Any) -> None:
    """Fill `out` with the symbols of numbers."""
    for at in range(numbers.size):
        number = np.int16(numbers[at])
        size = abs(number)
        out[at] = np.uint8(7) if size > 3 else np.uint8(2 * size - (number > 0))


@compiled
def activity(matrix: Any, most: int, rows: Any, columns: Any) -> None:
    """Add up how large the numbers are, each at most `most`, by row and by column."""
    for row in range(matrix.shape[0]):
        line = matrix[row]
        total = 0
        for column in range(line.size):
            size = min(abs(np.int16(line[column])), np.int16(most))
            columns[column] += size
            total += int(size)
        rows[row] = total


@compiled
def turn(change: Any, scale: Any, out: Any) -> None:
    """Fill `out`, (units, inputs), with the nearest numbers of steps of (inputs, units)."""
    inputs, units = change.shape
    tile = np.zeros((TILE, TILE), np.int8)
    for top in range(0, inputs, TILE):
        high = min(inputs - top, TILE)
        for left in range(0, units, TILE):
            wide = min(units - left, TILE)
            for row in range(high):  # slices show the compiler that many can be reckoned at once
                line, to = change[top + row, left : left + wide], tile[row]
                for column in range(wide):
                    steps = np.rint(np.float32(line[column] / scale))
                    steps = min(max(steps, np.float32(-LARGEST)), np.float32(LARGEST))
                    to[column] = np.int8(np.int32(steps))
            for column in range(wide):
                turned = out[left + column, top : top + high]
                for row in range(high):
                    turned[row] = tile[row, column]


@compiled
def turn_back(numbers: Any, scale: Any, out: Any) -> None:
    """Fill `out`, (inputs, units), with numbers of (units, inputs) times the step."""
    units, inputs = numbers.shape
    for left in range(0, units, TILE):
        right = min(units, left + TILE)
        for top in range(0, inputs, TILE):
            bottom = min(inputs, top + TILE)
            for row in range(top, bottom):
                for column in range(left, right):
                    out[row, column] = np.float32(numbers[column, row]) * scale


@compiled
def block_of_squares(values: Any, begin: int, size: int) -> Any:
    """Return the sum of a few squares, in the order in which NumPy adds so few."""
    most = size - size % 8 if size >= 8 else 0
    sums = np.zeros(8)
    for at in range(0, most, 8):
        for lane in range(8):
            value = np.float64(values[begin + at + lane])
            sums[lane] += value * value
    total = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + (
        (sums[4] + sums[5]) + (sums[6] + sums[7])
    )
    for at in range(most, size):
        value = np.float64(values[begin + at])
        total += value * value
    return total


@compiled
def squares(values: Any) -> Any:
    """Return the sum of the squares in float64, in pairs of halves as NumPy adds: the same bits."""
    begins, sizes = np.empty(64, np.int64), np.empty(64, np.int64)
    lefts, are_right = np.empty(64), np.zeros(64, np.bool_)
    begin, size, depth = 0, values.size, 0
    while True:
        while size > 128:
            half = size // 2
            half -= half % 8
            begins[depth], sizes[depth], are_right[depth] = begin + half, size - half, False
            depth += 1
            size = half
        total = block_of_squares(values, begin, size)
        while depth > 0 and are_right[depth - 1]:
            depth -= 1
            total = lefts[depth] + total
        if depth == 0:
            return total
        lefts[depth - 1], are_right[depth - 1] = total, True
        begin, size = begins[depth - 1], sizes[depth - 1]
