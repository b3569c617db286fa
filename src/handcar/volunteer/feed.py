"""Batches for Keras, drawn ahead by a thread, so that no step waits for them.

The thread gathers many batches a call, up to some megabytes: a piece. One piece is in use,
a few are ready, one is being made; no more is in memory, whatever the size of the data. A
`Feed` outlives rounds: what one did not use, the next begins with, to the batch, although
TensorFlow takes some ahead that it never trains on. So a round can say what it used.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from handcar.data.draws import Batches, Piece, Trail
from handcar.data.order import Sampler
from handcar.files import MB
from handcar.modelfile import batches as forms
from handcar.protocol.limits import BATCHES_A_PIECE
from handcar.protocol.messages import Drawn

PIECE_BYTES = 2 * MB
"""So much stays in a processor's cache from when it is gathered until it is used."""
READY = 2
"""Pieces that are ready beside the one in use and the one being made."""

Part = tuple[Piece, int, int]
"""A piece, the first of its batches that is meant, and how many are."""


class Feed:
    """Draws from a sampler ahead of time. Its methods may be called from any thread."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._ready: queue.Queue[Piece | Exception] = queue.Queue(READY)
        self._lock = threading.Lock()
        self._left: deque[Part] = deque()
        self._taken: deque[Part] = deque()  # and not known to be used
        self._used = self._noted = 0  # batches of this stretch
        self._stretch = 0
        self._trail = Trail(sampler.seed)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="feed", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. Nothing can be taken afterwards."""
        self._closed.set()
        while self._thread.is_alive():
            self._empty()  # it may wait for room
            self._thread.join(0.01)
        self._empty()
        self._ready.put(RuntimeError("the feed is closed"))

    def begin_round(self) -> None:
        """Note from now on what a new round uses."""
        self.end_stretch()
        self._trail = Trail(self._sampler.seed)

    def drawn(self) -> Drawn | None:
        """Return what was used since the round began; none if that can't be said."""
        with self._lock:
            self._note_used()
            return self._trail.drawn()

    def batches(self, steps: int) -> Any:
        """Return the next batches in the form that Keras takes fastest on its backend.

        What is taken of them counts as used when `use` was called as often; when
        `end_stretch` is called the others are there to be taken again.
        """
        return forms.for_keras(self.pieces(steps))

    def use(self, count: int = 1) -> None:
        """Say that one more of the batches taken, or several, were trained on."""
        self._used += count

    def end_stretch(self) -> None:
        """Take back what was taken and not used. Whoever still takes of it gets nothing more."""
        with self._lock:
            self._note_used()
            self._left.extendleft(reversed(self._taken))
            self._taken.clear()
            self._used = self._noted = 0
            self._stretch += 1

    def pieces(self, steps: int) -> Iterator[Batches]:
        """Return `steps` batches in all, piece by piece: x and y, each (count, batch, ...).

        They are views, and nobody writes there again. Raises what the sampler raised.
        """
        return self._pieces(steps, self._stretch)

    def _pieces(self, steps: int, stretch: int) -> Iterator[Batches]:
        while steps > 0:
            part = self._take(steps, stretch)
            if part is None:
                return
            piece, start, count = part
            yield piece.x[start : start + count], piece.y[start : start + count]
            steps -= count

    def _take(self, most: int, stretch: int) -> Part | None:
        with self._lock:
            if stretch != self._stretch:
                return None
            self._note_used()  # what is used leaves the memory
            piece, start, count = self._left.popleft() if self._left else self._next()
            if count > most:
                self._left.appendleft((piece, start + most, count - most))
            part = piece, start, min(count, most)
            self._taken.append(part)
            return part

    def _next(self) -> Part:
        found = self._ready.get()
        if isinstance(found, Exception):
            self._ready.put(found)  # for whoever asks next: there is no more
            raise found
        return found, 0, len(found)

    def _note_used(self) -> None:
        while self._taken and self._noted < self._used:
            piece, start, count = self._taken.popleft()
            used = min(count, self._used - self._noted)
            self._trail.add(piece, start, used)
            self._noted += used
            if used < count:
                self._taken.appendleft((piece, start + used, count - used))

    # -- the thread

    def _draw(self) -> None:
        count = 1  # its size tells how many make a piece, and the first step is not kept waiting
        while not self._closed.is_set():
            try:
                piece = self._sampler.draw(count)
            except Exception as error:  # noqa: BLE001 - raised again in the thread that takes
                self._ready.put(error)
                return
            self._ready.put(piece)
            count = at_once((piece.x.nbytes + piece.y.nbytes) // count)
            self._sampler.look_ahead()

    def _empty(self) -> None:
        while not self._ready.empty():
            self._ready.get_nowait()


def at_once(batch_bytes: int) -> int:
    """Return how many batches of so many bytes are gathered at once."""
    return int(np.clip(PIECE_BYTES // max(1, batch_bytes), 1, BATCHES_A_PIECE))
