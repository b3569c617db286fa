"""Draws of records that can be made again: they follow from a seed, numbers and blocks alone.

A draw takes records from all open blocks, in proportion to what each has left. The number of
the draw says which block each record is of, the number of a block's opening in which order its
records come. A few draws make a piece, a few pieces a round: `Trail` notes what a round used,
and `replay` draws the same batches from that note, with the same bits, on any machine.

Given up: the numbers come from NumPy's Generator, whose streams NumPy may change one day.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.data.blocks import Block
from handcar.errors import RecipeError
from handcar.protocol import limits
from handcar.protocol.messages import Drawn, DrawnChunk

Array = NDArray[Any]
Batches = tuple[Array, Array]
"""x and y, each of shape (batches, batch, ...)."""

DRAW, ORDER = 0, 1
"""What a seed is for."""
DIGITS = 16
"""So many hex digits of a chunk's digest name it among those of its data set."""


def short(digest: str) -> str:
    """Return the digits that a recipe names a chunk by."""
    return digest.removeprefix("sha256:")[:DIGITS]


@dataclass(frozen=True, slots=True)
class Opened:
    """A pass over a block, as it was at some draw."""

    digest: str
    opening: int
    draw: int
    """The draw before which it was opened, or the one that this is noted for."""
    taken: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Batches that were drawn at once, and from what."""

    x: Array
    y: Array
    draw: int
    """The number of the first draw."""
    open: tuple[Opened, ...]
    """The passes under way before it."""
    opened: tuple[Opened, ...]
    """The passes that began in it."""

    def __len__(self) -> int:
        return len(self.x)


class Pass:
    """One pass over one open block: its records in a random order."""

    def __init__(self, block: Block, *, seed: int, opening: int, taken: int = 0) -> None:
        self._x, self._y = block.columns["x"], block.columns["y"]
        self.block = block  # the store takes it for in use as long as this lives
        self.opening = opening
        self.taken = taken
        self._order = np.random.default_rng((seed, ORDER, opening)).permutation(block.records)

    @property
    def left(self) -> int:
        """How many records are still to come."""
        return len(self._order) - self.taken

    def copy(self, x: Array, y: Array) -> None:
        """Fill x and y with the next records."""
        rows = self._order[self.taken : self.taken + len(x)]
        self.taken += len(x)
        # Twice as fast as indexing. "clip", for else the result goes through a buffer that
        # would be thrown away if a number were out of bounds; none is.
        self._x.take(rows, axis=0, out=x, mode="clip")
        self._y.take(rows, axis=0, out=y, mode="clip")


class Group:
    """The passes that are open, and draws from them."""

    def __init__(self, *, seed: int, batch_size: int, draw: int = 0) -> None:
        self.passes: list[Pass] = []
        self.draw = draw
        """The number of the next draw."""
        self._seed = seed
        self._batch_size = batch_size

    def open(self, block: Block, *, opening: int, taken: int = 0) -> None:
        """Begin a pass over a block, or go on with one."""
        self.passes.append(Pass(block, seed=self._seed, opening=opening, taken=taken))

    def piece(self, batches: int, fill: Callable[[], None]) -> Batches:
        """Return the next batches; `fill` is called before each draw, and opens blocks."""
        size = batches * self._batch_size
        fill()
        x, y = (self._room(size, name) for name in "xy")
        start = 0
        while start < size:
            if start:
                fill()
            end = start + min(size - start, sum(one.left for one in self.passes))
            self._gather(x[start:end], y[start:end])
            start = end
        return self._cut(x), self._cut(y)

    def _room(self, size: int, name: str) -> Array:
        column = self.passes[0].block.columns[name]
        return np.empty((size, *column.shape[1:]), column.dtype)

    def _cut(self, column: Array) -> Array:
        return column.reshape(-1, self._batch_size, *column.shape[1:])

    def _gather(self, x: Array, y: Array) -> None:
        """Make a draw: fill x and y from all open blocks; close those that are through.

        Which batch a record goes to is drawn. Within a batch those of one block lie together,
        so that they are copied straight to their place, once.
        """
        origins = self._origins(len(x))
        end = 0
        for first in range(0, len(x), self._batch_size):
            counts = np.bincount(origins[first : first + self._batch_size])
            for one, count in zip(self.passes, counts.tolist(), strict=False):
                start, end = end, end + count
                one.copy(x[start:end], y[start:end])
        self.draw += 1
        # The last references: this unmaps the files.
        self.passes = [one for one in self.passes if one.left]

    def _origins(self, size: int) -> Array:
        """Draw without looking `size` records; return which block each is of, shuffled."""
        rng = np.random.default_rng((self._seed, DRAW, self.draw))
        left = [one.left for one in self.passes]
        shares = rng.multivariate_hypergeometric(left, size, method="marginals")
        return rng.permutation(np.repeat(np.arange(len(left)), shares))


class Trail:
    """Notes what a round uses of the pieces that are drawn, one after the other."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._first: tuple[int, int] | None = None
        self._last = -1
        self._runs: list[tuple[int, int]] = []
        self._opened: list[Opened] = []
        self._steps = 0

    def add(self, piece: Piece, start: int, count: int) -> None:
        """Note that `count` batches of a piece were used, from `start` on."""
        self._steps += count
        if self._first is None:
            self._first = (piece.draw, start)
            self._opened += piece.open
        elif piece.draw == self._last:
            return
        self._last = piece.draw
        if not self.is_full:
            self._opened += piece.opened
            times = self._runs.pop()[0] if self._runs and self._runs[-1][1] == len(piece) else 0
            self._runs.append((times + 1, len(piece)))

    @property
    def is_full(self) -> bool:
        """Whether more was used than a recipe may say."""
        return len(self._opened) > limits.RECIPE_CHUNKS or len(self._runs) > limits.RECIPE_RUNS

    def drawn(self) -> Drawn | None:
        """Return what was used; none when that is nothing, or more than a recipe may say."""
        if self._first is None or self.is_full:
            return None
        draw, skip = self._first
        chunks = tuple(
            DrawnChunk(chunk=short(one.digest), opening=one.opening, draw=one.draw, taken=one.taken)
            for one in self._opened
        )
        return Drawn(
            seed=self._seed,
            draw=draw,
            skip=skip,
            pieces=tuple(self._runs),
            chunks=chunks,
            steps=self._steps,
        )


def replay(
    drawn: Drawn, open_block: Callable[[str], Block], *, batch_size: int
) -> Iterator[Batches]:
    """Return the batches that were drawn, piece by piece, all steps of it and no more.

    `open_block` is given the first digits of a chunk's digest; what it raises is raised here.
    Raises RecipeError for what can't have been drawn.
    """
    group = Group(seed=drawn.seed, batch_size=batch_size, draw=drawn.draw)
    waiting = deque(drawn.chunks)

    def fill() -> None:
        while waiting and waiting[0].draw == group.draw:
            _open(group, waiting.popleft(), open_block)
        if not group.passes:
            raise RecipeError(f"expected an open chunk at draw {group.draw}, got none")

    skip, left = drawn.skip, drawn.steps
    for times, batches in drawn.pieces:
        for _ in range(times):
            if left <= 0:
                return
            x, y = (column[skip : skip + left] for column in group.piece(batches, fill))
            skip = 0
            left -= len(x)
            yield x, y
    if left > 0:
        raise RecipeError(f"expected {drawn.steps} batches, got pieces of {drawn.steps - left}")


def _open(group: Group, one: DrawnChunk, open_block: Callable[[str], Block]) -> None:
    block = open_block(one.chunk)
    if one.taken >= block.records:
        raise RecipeError(
            f"chunk {one.chunk} has {block.records} records, of which {one.taken} were taken"
        )
    if group.passes and _kind(block) != _kind(group.passes[0].block):
        raise RecipeError(f"chunk {one.chunk} has other records than those before")
    group.open(block, opening=one.opening, taken=one.taken)


def _kind(block: Block) -> list[tuple[str, tuple[int, ...], np.dtype[Any]]]:
    return [(name, column.shape[1:], column.dtype) for name, column in block.columns.items()]
