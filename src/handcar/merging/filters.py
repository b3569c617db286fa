"""What an update must be to count: finite, not empty, of a plausible size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from handcar.wire.layout import Flat, Layout

CLIP_AT = 1.5
REFUSE_AT = 3.0
NORMS_NEEDED = 5
NORMS_KEPT = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """Accepted with a factor (below 1 clips), or refused with a reason for a person."""

    norm: float
    """Length of the trainable part over the root of its steps."""
    factor: float = 1.0
    reason: str | None = None


def examine(change: Flat, layout: Layout, *, steps: int, norms: Sequence[float]) -> Verdict:
    """Return the verdict on one decoded update.

    `norms` are those of the last accepted updates of the model. Above 1.5 times their
    median an update is shortened to that length, above 3 times it is refused; with fewer
    than 5 of them there is no median to judge by.
    """
    if not np.isfinite(change).all():
        return Verdict(0.0, reason="it holds numbers that are not finite (NaN or infinity)")
    norm = trainable_norm(change, layout) / math.sqrt(steps)
    if norm == 0.0:
        return Verdict(norm, reason="it changes nothing: every weight's difference is zero")
    if len(norms) < NORMS_NEEDED:
        return Verdict(norm)
    usual = statistics.median(norms[-NORMS_KEPT:])
    if norm > REFUSE_AT * usual:
        return Verdict(
            norm,
            reason=f"it is {norm / usual:.1f} times as long as usual; at most {REFUSE_AT:g} counts",
        )
    return Verdict(norm, factor=min(1.0, CLIP_AT * usual / norm))


def trainable_norm(change: Flat, layout: Layout) -> float:
    """Return the Euclidean length of the trainable part."""
    total = float(np.dot(change, change))
    for place in layout.statistic_slices:
        total -= float(np.dot(change[place], change[place]))
    return math.sqrt(max(total, 0.0))
