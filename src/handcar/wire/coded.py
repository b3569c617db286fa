"""A decoded difference in little memory: which numbers of steps are not 0, and what they are.

Most are 0, so looking at a difference and adding it to others need not touch every weight.
Trainable tensors lie one after the other in the order in which they are coded: as matrices of
(units, inputs). Sums over the whole numbers are exact, so their order does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.wire import codecs
from handcar.wire.compiled import kernels
from handcar.wire.layout import Flat, Layout, TensorSpec
from handcar.wire.sparse import BLOCK, Sparse, squares

BLOCKS_AT_ONCE = 4
"""A megabyte of sums."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is not 0 in one trainable tensor."""

    tensor: TensorSpec
    scale: float
    sparse: Sparse


@dataclass(frozen=True, slots=True)
class Coded:
    """The difference that a frame holds."""

    parts: tuple[Part, ...]
    statistics: Flat
    """Their new values, one tensor after the other."""

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return self.statistics.nbytes + sum(part.sparse.nbytes for part in self.parts)


def arrays(coded: Coded) -> dict[str, NDArray[Any]]:
    """Return it as arrays by name, to be kept."""
    parts = coded.parts
    return {
        "scales": np.array([part.scale for part in parts], np.float64),
        "counts": np.concatenate([np.empty(0, np.int64), *(one.sparse.counts for one in parts)]),
        "places": np.concatenate([np.empty(0, np.uint16), *(one.sparse.places for one in parts)]),
        "numbers": np.concatenate([np.empty(0, np.int8), *(one.sparse.numbers for one in parts)]),
        "statistics": coded.statistics,
    }


def of_arrays(given: Mapping[str, NDArray[Any]], layout: Layout) -> Coded:
    """Return what was kept as arrays. Raises ValueError or KeyError where it is not that."""
    tensors = [tensor for tensor in layout.tensors if tensor.kind == "trainable"]
    blocks = np.cumsum([0] + [-(-tensor.size // BLOCK) for tensor in tensors])
    counts, places, numbers = given["counts"], given["places"], given["numbers"]
    ends = np.cumsum(np.concatenate([[0], counts]))
    if counts.size != blocks[-1] or not places.size == numbers.size == ends[-1]:
        raise ValueError("the arrays do not fit")
    parts = []
    for tensor, scale, first, last in zip(
        tensors, given["scales"].tolist(), blocks, blocks[1:], strict=False
    ):
        which = slice(ends[first], ends[last])
        sparse = Sparse(counts[first:last], places[which], numbers[which])
        parts.append(Part(tensor, scale, sparse))
    return Coded(tuple(parts), given["statistics"])


def inputs_and_units(tensor: TensorSpec) -> tuple[int, int]:
    """Return a tensor's shape as a matrix: all axes but the last, and that one."""
    if len(tensor.shape) < 2 or tensor.size == 0:
        return tensor.size, 1
    return tensor.size // tensor.shape[-1], tensor.shape[-1]


def trainable_size(layout: Layout) -> int:
    """Return how many trainable numbers there are."""
    return sum(tensor.size for tensor in layout.tensors if tensor.kind == "trainable")


def length_squared(coded: Coded) -> float:
    """Return the sum of the squares of the trainable numbers."""
    return sum((squares(part.sparse) * part.scale * part.scale for part in coded.parts), 0.0)


def add(total: Flat, changes: Sequence[tuple[Coded, np.float32]]) -> None:
    """Add to sums in the coded order the trainable numbers of each change, times what goes with it.

    Each is (number x scale) x times in float32, added once, in the order given: the bits of the
    dense sum. All of them to some blocks, then to the next, which a processor's cache has room
    for: memory is as slow for one of them as for all.
    """
    loops = kernels(total.size)
    start = 0
    for parts in zip(*(change.parts for change, _ in changes), strict=True):
        size = parts[0].tensor.size
        values = [_values(part, times) for part, (_, times) in zip(parts, changes, strict=True)]
        cut = [part.sparse.cut(BLOCKS_AT_ONCE) for part in parts]
        for begin, some in zip(
            range(0, size, BLOCK * BLOCKS_AT_ONCE), zip(*cut, strict=True), strict=True
        ):
            place = total[start + begin : start + min(begin + BLOCK * BLOCKS_AT_ONCE, size)]
            for sparse, value in zip(some, values, strict=True):
                _add(loops, place, sparse, value)
        start += size


def _values(part: Part, times: np.float32) -> Flat:
    """Return what is added for each number, from -128 on."""
    return np.arange(-128, 128).astype(np.float32) * np.float32(part.scale) * times


def _add(loops: Any | None, total: Flat, sparse: Sparse, values: Flat) -> None:
    if loops is not None:
        loops.add(total, sparse.counts, sparse.places, sparse.numbers, values)
        return
    for begin, which in sparse.blocks():
        block = total[begin : begin + BLOCK]
        block[sparse.places[which]] += values[sparse.numbers[which].astype(np.int16) + 128]


def in_layout(total: Flat, statistics: Sequence[Flat], layout: Layout) -> Flat:
    """Return sums in the coded order as a flat vector, with these in the statistics' places."""
    flat = np.empty(layout.size, np.float32)
    start, given = 0, iter(statistics)
    for tensor, place in zip(layout.tensors, layout.slices, strict=True):
        if tensor.kind == "statistic":
            flat[place] = next(given)
            continue
        inputs, units = inputs_and_units(tensor)
        matrix = total[start : start + tensor.size].reshape(units, inputs)
        codecs.from_matrix(matrix, 1.0, flat[place].reshape(inputs, units))
        start += tensor.size
    return flat


def statistics_of(coded: Coded, layout: Layout) -> list[Flat]:
    """Return the statistics, a tensor each."""
    sizes = [place.stop - place.start for place in layout.statistic_slices]
    return np.split(coded.statistics, np.cumsum(sizes)[:-1]) if sizes else []


def dense(coded: Coded, layout: Layout) -> Flat:
    """Return the difference as a flat vector."""
    total = np.zeros(trainable_size(layout), np.float32)
    add(total, [(coded, np.float32(1.0))])
    return in_layout(total, statistics_of(coded, layout), layout)
