"""Which records make the next batch: fair to every chunk, in the memory of a few.

A few blocks are open at a time. Batches are drawn from all that their records make up, each
record once a pass, as if shuffled together. A block that is through is closed, and one of
those with the fewest passes is opened; none begins its next pass before all are through
with this one. A block that comes late starts with the fewest passes that any has. So the
chunk that came first is not favoured, nor the last, nor the smallest.

Given up: a restart begins open blocks' passes anew, and two records of blocks that are
never open together never meet in a batch during one pass.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.data.blocks import Block
from handcar.errors import ChunkError, HandcarError

log = logging.getLogger(__name__)

Array = NDArray[Any]
OPEN_BLOCKS = 4


class _Pass:
    """One pass over one open block: its records in a random order."""

    def __init__(self, block: Block, rng: np.random.Generator) -> None:
        self.block = block
        self._order = rng.permutation(block.records)
        self._taken = 0

    @property
    def left(self) -> int:
        return len(self._order) - self._taken

    def take(self, count: int) -> Array:
        """Return the numbers of the next `count` records."""
        rows = self._order[self._taken : self._taken + count]
        self._taken += count
        return rows


class Sampler:
    """Makes batches of x and y from blocks that may still be coming in.

    Its methods may be called from any thread: TensorFlow's own may still draw ahead for a
    round that its time has ended while the next one begins. Deterministic for a given `rng`
    and order of calls.
    """

    def __init__(
        self,
        open_block: Callable[[str], Block],
        *,
        batch_size: int,
        rng: np.random.Generator,
        open_blocks: int = OPEN_BLOCKS,
    ) -> None:
        self._open_block = open_block
        self._batch_size = batch_size
        self._rng = rng
        self._most_open = open_blocks
        self._lock = threading.Lock()
        self._drawing = threading.Lock()
        self._passes: dict[str, int] = {}
        self._restored: dict[str, int] = {}
        self._open: dict[str, _Pass] = {}
        self._kind: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] | None = None

    def add(self, digest: str) -> None:
        """Take a block into the rotation; harmless when it is there already."""
        with self._lock:
            least = min(self._passes.values(), default=0)
            self._passes.setdefault(digest, self._restored.get(digest, least))

    @property
    def chunks(self) -> int:
        """How many chunks are in the rotation."""
        return len(self._passes)

    def passes(self) -> dict[str, int]:
        """Return how often each block was gone through."""
        with self._lock:
            return dict(self._passes)

    def restore(self, passes: Mapping[str, int]) -> None:
        """Go on with the counts of an earlier run, for blocks added before or after this."""
        with self._lock:
            self._restored = dict(passes)
            for digest in self._passes.keys() & passes.keys():
                self._passes[digest] = passes[digest]

    def next_batch(self) -> tuple[Array, Array]:
        """Return x and y of the next batch: always `batch_size` records."""
        return self.next_batches(1)

    def next_batches(self, count: int) -> tuple[Array, Array]:
        """Return x and y of the next `count` batches, one after the other.

        One gather for many batches costs little more than for one. Raises ChunkError when
        no block can be read, HandcarError when none was added.
        """
        with self._drawing:
            return self._next_batches(count)

    def _next_batches(self, count: int) -> tuple[Array, Array]:
        size = count * self._batch_size
        self._fill()
        x, y = (np.empty((size, *shape), dtype) for shape, dtype in self._shapes())
        start = 0
        while start < size:
            self._fill()
            end = start + min(size - start, sum(one.left for one in self._open.values()))
            self._gather(x[start:end], y[start:end])
            start = end
        return x, y

    def _gather(self, x: Array, y: Array) -> None:
        """Fill x and y from all open blocks, in proportion to what they have left."""
        places = self._rng.permutation(len(x))
        start = 0
        for digest, rows in self._draw(len(x)):
            columns = self._open[digest].block.columns
            where = places[start : start + len(rows)]
            x[where] = columns["x"][rows]
            y[where] = columns["y"][rows]
            start += len(rows)
        self._close_finished()

    def _draw(self, size: int) -> Iterator[tuple[str, Array]]:
        """Share out `size` records over the open blocks as drawing without looking would."""
        left = [one.left for one in self._open.values()]
        shares = self._rng.multivariate_hypergeometric(left, size, method="marginals")
        for (digest, one), share in zip(self._open.items(), shares, strict=True):
            yield digest, one.take(int(share))

    def _close_finished(self) -> None:
        for digest in [digest for digest, one in self._open.items() if not one.left]:
            # The last reference: this unmaps the files.
            del self._open[digest]
            with self._lock:
                self._passes[digest] += 1

    # -- opening

    def _fill(self) -> None:
        """Open blocks until enough are open or no more are here."""
        while len(self._open) < self._most_open:
            digest = self._next_to_open()
            if digest is None:
                break
            block = self._try_to_open(digest)
            if block is not None:
                self._open[digest] = _Pass(block, self._rng)
        if not self._open:
            raise HandcarError("there is no chunk to train on: none was added, or none is sound")

    def _next_to_open(self) -> str | None:
        with self._lock:
            least = min(self._passes.values(), default=0)
            fewest = [digest for digest, count in self._passes.items() if count == least]
        candidates = [digest for digest in fewest if digest not in self._open]
        return candidates[self._rng.integers(len(candidates))] if candidates else None

    def _try_to_open(self, digest: str) -> Block | None:
        """Open a block; one that can't be used leaves the rotation, and training goes on."""
        try:
            block = self._open_block(digest)
            self._expect_kind(block)
        except (ChunkError, OSError) as error:
            log.warning("chunk %s is left out: %s", digest, error)
            with self._lock:
                del self._passes[digest]
            return None
        return block

    def _expect_kind(self, block: Block) -> None:
        kind = {name: (column.shape[1:], column.dtype) for name, column in block.columns.items()}
        if not {"x", "y"} <= kind.keys():
            raise ChunkError(f"expected the columns x and y, got {', '.join(sorted(kind))}")
        self._kind = self._kind or kind
        if kind != self._kind:
            raise ChunkError(f"expected records like {self._kind}, got {kind}")

    def _shapes(self) -> tuple[Any, Any]:
        if self._kind is None:
            raise HandcarError("no block is open")
        return self._kind["x"], self._kind["y"]
