"""What an update must be to count: finite, not empty, no copy, of a plausible size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from handcar.merging import direction
from handcar.merging.sketch import SIZE, Sketch, is_like_one_of, sketch
from handcar.wire.coded import Coded, length_squared
from handcar.wire.layout import Flat, Layout

CLIP_AT = 1.5
REFUSE_AT = 3.0
LEAST = 0.1
LARGEST = float(np.finfo(np.float32).max)
"""Squares that add up to more could not be merged in float32."""
NORMS_NEEDED = 5
NORMS_KEPT = 20
SKETCHES_KEPT = 40


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of the last updates of a model, oldest first."""

    norms: Sequence[float] = ()
    """Of the last updates that were examined, refused ones too: where a learning rate warms up,
    honest updates soon are three times as long as the last that were accepted."""
    sketches: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, SIZE), np.float32))
    """Of the last that were accepted, of shape (count, 2048)."""
    others: Sketch | None = None
    """What others brought lately (`direction.of_others`)."""
    key: bytes = b""
    """The server's secret for sketches."""


NOTHING = Seen()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Accepted with a factor (below 1 clips), or refused with a reason for a person."""

    norm: float
    """Length of the trainable part over the root of its steps."""
    factor: float = 1.0
    reason: str | None = None
    cosine: float | None = None
    """With what others brought lately, if there is anything."""
    sketch: Sketch | None = None
    is_by_length: bool = False
    """Whether the reason is its length beside others', which can be wrong about everyone."""


def examine(change: Flat | Coded, layout: Layout, *, steps: int, seen: Seen = NOTHING) -> Verdict:
    """Return the verdict on one decoded update.

    Above 1.5 times the median of the last accepted norms an update is shortened to that length,
    above 3 times it is refused, and below a tenth too; with fewer than 5 of them there is no
    median to judge by. Each check is one pass over the numbers at most.
    """
    length = trainable_norm(change, layout)
    if not math.isfinite(length):
        return Verdict(0.0, reason=_not_finite(change))
    norm = length / math.sqrt(steps)
    if norm == 0.0:
        return Verdict(norm, reason="it changes nothing: every weight's difference is zero")
    image = sketch(change, layout, seen.key)
    if is_like_one_of(image, seen.sketches):
        return Verdict(norm, reason="it is nearly the same as one that came before", sketch=image)
    cosine = direction.cosine(image, seen.others)
    factor, reason = _by_length(norm, seen.norms)
    return Verdict(norm, factor, reason, cosine, image, is_by_length=reason is not None)


def trainable_norm(change: Flat | Coded, layout: Layout) -> float:
    """Return the Euclidean length of the trainable part; not finite where a number isn't."""
    if isinstance(change, Coded):
        statistics = change.statistics.astype(np.float64)
        total = length_squared(change)
        fits = total + float(np.dot(statistics, statistics)) <= LARGEST  # nor where one is not
        return math.sqrt(total) if fits else math.inf
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(np.dot(change, change))
    for place in layout.statistic_slices:
        total -= float(np.dot(change[place], change[place]))
    return math.sqrt(max(total, 0.0)) if math.isfinite(total) else total


def _by_length(norm: float, norms: Sequence[float]) -> tuple[float, str | None]:
    if len(norms) < NORMS_NEEDED:
        return 1.0, None
    usual = statistics.median(norms[-NORMS_KEPT:])
    if norm > REFUSE_AT * usual:
        times = norm / usual
        return (
            CLIP_AT / times,
            f"it is {times:.1f} times as long as usual; at most {REFUSE_AT:g} counts",
        )
    if norm < LEAST * usual:
        return 1.0, f"it changes next to nothing: less than {LEAST:.0%} of what is usual"
    return min(1.0, CLIP_AT * usual / norm), None


def _not_finite(change: Flat | Coded) -> str:
    if np.isfinite(change.statistics if isinstance(change, Coded) else change).all():
        return "its numbers are too large to add up"
    return "it holds numbers that are not finite (NaN or infinity)"
