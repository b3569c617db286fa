"""What of that which coding dropped goes into a volunteer's next update. Pure numbers.

Whoever trains a volunteer's rounds again owes the same, and so knows what it should have sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from handcar.wire.codecs import round_bf16
from handcar.wire.layout import Flat, Layout


@dataclass(frozen=True, slots=True)
class Feedback:
    """How much of what coding dropped is owed."""

    share: float = 1.0
    limit: float = math.inf
    """The largest norm of what a tensor owes, in norms of what the round changed of it."""


FINE, MIDDLE, COARSE = Feedback(share=0.5, limit=1.0), Feedback(limit=1.0), Feedback(limit=4.0)
MIDDLE_FROM, COARSE_FROM = 2.5, 4.0
"""Steps k from which on they hold."""


def feedback_of(k: float) -> Feedback:
    """Return what is owed after an update of step `k`."""
    if k >= COARSE_FROM:
        return COARSE
    return MIDDLE if k >= MIDDLE_FROM else FINE


def to_feed_back(wanted: Flat, sent: Flat, owed: Flat, layout: Layout, how: Feedback) -> Flat:
    """Return what to add to the next update, float32; statistics travel exactly and owe nothing.

    `wanted` is the round's own change plus what was `owed` before it; `sent` is what coding let
    through of that.
    """
    dropped = np.float32(how.share) * (wanted - sent)
    for place in layout.statistic_slices:
        dropped[place] = 0
    for place in layout.slices:
        norm = float(np.linalg.norm(dropped[place]))
        most = how.limit * float(np.linalg.norm(wanted[place] - owed[place]))
        if norm > most:
            dropped[place] *= np.float32(most / norm)
    return dropped


def owed_after(wanted: Flat, sent: Flat, owed: Flat, layout: Layout, k: float) -> Flat:
    """Return what a volunteer owes after an update of step `k`, as it keeps it: bfloat16."""
    return round_bf16(to_feed_back(wanted, sent, owed, layout, feedback_of(k)))
