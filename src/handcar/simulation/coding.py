"""What coding does to numbers, and how many bytes it takes, cheaply.

The step codec rounds and its entropy stage loses nothing, so the rounding alone says what
arrives. Coding costs ten times the training of a short round, hence only some frames are
really coded, and those between them are taken to be of the last one's size.
"""

from __future__ import annotations

import numpy as np

from handcar.wire import codecs, frames
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Flat, Layout

CODED_EVERY = 25


def rounded(change: Flat, layout: Layout, k: float | None) -> Flat:
    """Return a difference as it arrives under the step codec; none is exact.

    What is not finite has no step, and arrives as it is: the server's checks are to see it.
    """
    if k is None or not np.isfinite(change).all():
        return change
    arrived = change.copy()
    for tensor, place in zip(layout.tensors, layout.slices, strict=True):
        if tensor.kind == "trainable":
            scale = codecs.step_scale(change[place], k)
            arrived[place] = codecs.from_symbols(codecs.to_symbols(change[place], scale), scale)
    return arrived


class Meter:
    """Tells the size of one sender's frames."""

    def __init__(self, facts: FrameFacts, layout: Layout, k: float | None) -> None:
        self._facts = facts
        self._layout = layout
        self._k = k
        self._seen = 0
        self._bytes = 0

    def size(self, change: Flat) -> int:
        """Return the bytes of a frame, measured now and then."""
        if self._k is None or not np.isfinite(change).all():
            return change.nbytes
        # The first few are coded each: changes shrink fast when a training begins.
        if self._seen < 3 or self._seen % CODED_EVERY == 0:
            frame = frames.encode_difference(self._facts, change, self._layout, k=self._k)
            self._bytes = len(frame)
        self._seen += 1
        return self._bytes
