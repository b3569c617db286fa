"""Which records make the next batch: fair to every chunk, in the memory of a few.

A few blocks make a group. Batches are drawn from all records of the group as if shuffled
together, each record once; then comes the next group, of blocks with the fewest passes. None
begins its next pass before all are through with this one. A block that comes late joins a
group that is not full, or the next one, with the fewest passes that any has. So the chunk
that came first is not favoured, nor the last, nor the smallest.

Given up: a restart begins open blocks' passes anew, and two records of blocks that are in
different groups never meet in a batch during one pass.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from handcar.data.blocks import Block
from handcar.data.draws import Group, Opened, Piece
from handcar.errors import ChunkError, DiskFull, HandcarError

log = logging.getLogger(__name__)

CHOICE = 2
"""What a seed is for, beside what `draws.py` needs it for: which block is opened next."""
OPEN_BLOCKS = 4
"""Blocks in a group; one more may be open ahead, which `eviction.OPEN_BLOCKS` knows."""


class Sampler:
    """Makes batches of x and y from blocks that may still be coming in.

    Its methods may be called from any thread: TensorFlow's own may still draw ahead for a
    round that its time has ended while the next one begins. What it draws follows from its
    seed and from what was added before which draw (`draws.py`).
    """

    def __init__(
        self,
        open_block: Callable[[str], Block],
        *,
        batch_size: int,
        seed: int,
        open_blocks: int = OPEN_BLOCKS,
    ) -> None:
        self.seed = seed
        self._open_block = open_block
        self._rng = np.random.default_rng((seed, CHOICE))
        self._group = Group(seed=seed, batch_size=batch_size)
        self._openings = 0
        self._opened: list[Opened] = []  # in the piece that is being drawn
        self._under_way: set[str] = set()
        self._most_open = open_blocks
        self._lock = threading.Lock()
        self._drawing = threading.Lock()
        self._passes: dict[str, int] = {}
        self._restored: dict[str, int] = {}
        self._joined = 0  # blocks that were opened since none was
        self._ahead: dict[str, Block] = {}  # at most one
        self._looked_ahead = False  # in this group
        self._kind: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] | None = None

    def add(self, digest: str) -> None:
        """Take a block into the rotation; harmless when it is there already."""
        with self._lock:
            least = min(self._passes.values(), default=0)
            self._passes.setdefault(digest, self._restored.get(digest, least))

    def remove(self, digest: str) -> None:
        """Take a block out of the rotation: it is gone. One that is open is gone through first.

        Should it come back it is a new one, for else it would be gone through alone until it
        had caught up.
        """
        with self._lock:
            self._passes.pop(digest, None)
            self._restored.pop(digest, None)

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

    def draw(self, batches: int) -> Piece:
        """Return the next batches, one after the other, and from what they were drawn.

        One gather for many batches costs little more than for one. Raises ChunkError when
        no block can be read, HandcarError when none was added.
        """
        with self._drawing:
            draw = self._group.draw
            before = tuple(
                Opened(one.block.digest, one.opening, draw, one.taken) for one in self._group.passes
            )
            self._opened.clear()
            x, y = self._group.piece(batches, self._fill)
            self._note_finished()
            return Piece(x, y, draw, before, tuple(self._opened))

    def look_ahead(self) -> None:
        """Open a block of the next group, so that its turn does not wait for it to be decoded.

        To be called while nobody waits for batches. Does nothing when there is none, or one
        was tried in this group already.
        """
        with self._drawing:
            if self._looked_ahead or not self._group.passes:
                return
            digest = self._next_to_open_ahead()
            if digest is None:
                return
            self._looked_ahead = True
            try:
                self._ahead[digest] = self._open_block(digest)
            except (ChunkError, DiskFull, OSError) as error:
                # When it is its turn, other blocks are closed and there may be room.
                log.info("chunk %s could not be opened ahead: %s", digest, error)

    def _note_finished(self) -> None:
        """Count the passes that are through."""
        still = self._open_digests()
        with self._lock:
            for digest in self._under_way - still:
                if digest in self._passes:  # not removed meanwhile
                    self._passes[digest] += 1
        self._under_way = still

    def _open_digests(self) -> set[str]:
        return {one.block.digest for one in self._group.passes}

    # -- opening

    def _fill(self) -> None:
        """Begin a group when the last is through; open blocks until it is full.

        A group is not filled up again when some of its blocks are through: what is left of
        the others is little by then, and the new block would be gone through almost alone.
        """
        self._note_finished()
        if not self._under_way:
            self._joined, self._looked_ahead = 0, False
        while self._joined < self._most_open:
            digest = self._next_to_open()
            if digest is None:
                break
            block = self._try_to_open(digest)
            if block is not None:
                self._begin(block)
        if not self._under_way:
            raise HandcarError("there is no chunk to train on: none was added, or none is sound")

    def _begin(self, block: Block) -> None:
        self._group.open(block, opening=self._openings)
        self._opened.append(Opened(block.digest, self._openings, self._group.draw))
        self._under_way.add(block.digest)
        self._openings += 1
        self._joined += 1

    def _next_to_open(self) -> str | None:
        """Return a block that is to be gone through in this pass, or none."""
        with self._lock:
            least = min(self._passes.values(), default=0)
            fewest = [digest for digest, count in self._passes.items() if count == least]
        candidates = [digest for digest in fewest if digest not in self._under_way]
        ready = [digest for digest in candidates if digest in self._ahead]
        return self._one_of(ready or candidates)

    def _next_to_open_ahead(self) -> str | None:
        """Return a block of the next group, be it of this pass or the next, or none."""
        with self._lock:
            for digest in self._ahead.keys() - self._passes.keys():
                del self._ahead[digest]  # removed meanwhile
        if self._ahead:
            return None
        with self._lock:
            closed = {d: count for d, count in self._passes.items() if d not in self._under_way}
        least = min(closed.values(), default=0)
        return self._one_of([digest for digest, count in closed.items() if count == least])

    def _one_of(self, digests: list[str]) -> str | None:
        return digests[self._rng.integers(len(digests))] if digests else None

    def _try_to_open(self, digest: str) -> Block | None:
        """Open a block; one that can't be used leaves the rotation, and training goes on."""
        try:
            block = self._ahead.pop(digest, None) or self._open_block(digest)
            self._expect_kind(block)
        except (ChunkError, DiskFull, OSError) as error:
            log.warning("chunk %s is left out: %s", digest, error)
            with self._lock:
                self._passes.pop(digest, None)
            return None
        return block

    def _expect_kind(self, block: Block) -> None:
        kind = {name: (column.shape[1:], column.dtype) for name, column in block.columns.items()}
        if not {"x", "y"} <= kind.keys():
            raise ChunkError(f"expected the columns x and y, got {', '.join(sorted(kind))}")
        self._kind = self._kind or kind
        if kind != self._kind:
            raise ChunkError(f"expected records like {self._kind}, got {kind}")
