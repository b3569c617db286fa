"""Whole numbers of which most are 0: which are not, and what they are.

They are cut into blocks of 65,536, so that a place in a block takes two bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handcar.wire.compiled import kernels

BLOCK = 1 << 16
BLOCKS_AT_ONCE = 16

Numbers = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Sparse:
    """What is not 0."""

    counts: NDArray[np.int64]
    """In each block."""
    places: NDArray[np.uint16]
    numbers: Numbers

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return self.counts.nbytes + self.places.nbytes + self.numbers.nbytes

    def blocks(self) -> Iterator[tuple[int, slice]]:
        """Return where each block begins, and which of the numbers are in it."""
        ends = np.cumsum(self.counts).tolist()
        for block, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            yield block * BLOCK, slice(begin, end)

    def cut(self, blocks: int) -> Iterator[Sparse]:
        """Return the same in pieces of so many blocks."""
        ends = np.concatenate([[0], np.cumsum(self.counts)])[::blocks].tolist()
        firsts = range(0, self.counts.size, blocks)
        for first, begin, end in zip(firsts, ends, [*ends[1:], None], strict=False):
            some = self.counts[first : first + blocks]
            yield Sparse(some, self.places[begin:end], self.numbers[begin:end])


def of(numbers: Numbers) -> Sparse:
    """Return what is not 0 in an array."""
    counts, places, values = [], [np.empty(0, np.uint16)], [np.empty(0, np.int8)]
    for begin in range(0, numbers.size, BLOCK * BLOCKS_AT_ONCE):
        some = numbers[begin : begin + BLOCK * BLOCKS_AT_ONCE]
        at = np.flatnonzero(some)
        counts.append(np.bincount(at // BLOCK, minlength=-(-some.size // BLOCK)))
        places.append((at & (BLOCK - 1)).astype(np.uint16))
        values.append(some[at])
    return Sparse(
        np.concatenate([np.empty(0, np.int64), *counts]),
        np.concatenate(places),
        np.concatenate(values),
    )


def put(sparse: Sparse, out: Numbers) -> None:
    """Put the numbers to their places in an array of zeros."""
    if (loops := kernels(out.size)) is not None:
        loops.put(sparse.counts, sparse.places, sparse.numbers, out)
        return
    for begin, which in sparse.blocks():
        out[begin : begin + BLOCK][sparse.places[which]] = sparse.numbers[which]


def squares(sparse: Sparse) -> int:
    """Return the sum of the squares: exact, in blocks that 32 bits have room for."""
    total = 0
    for begin in range(0, sparse.numbers.size, BLOCK):
        some = sparse.numbers[begin : begin + BLOCK].astype(np.int32)
        total += int(np.dot(some, some))
    return total
