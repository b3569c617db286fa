"""What a version is: the version before, plus what volunteers found, weighted by their work.

An update of H steps, when all active volunteers together make W steps in a round, is a
share H / W of a round's work, and moves the weights by gain * H / W * its difference.
So how many updates one merge holds does not change how far a round moves the weights.

A volunteer trains on at once from "newest version + own updates that it lacks", so one
volunteer alone is plain training: gain 1, share 1, nothing added twice.

Measured defaults: gain = (effective volunteers)^(1/3) up to 2.5, no outer momentum, a
merge as soon as half a round's work has come in, or a round's time has passed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from handcar.merging.activity import Activity
from handcar.wire.layout import Flat, Layout

GAIN_EXPONENT = 1 / 3
GAIN_MOST = 2.5
SHARE_TO_MERGE = 0.5


BLOCK = 1 << 18
"""Numbers at once: few enough for a core's own cache, many enough that Python costs little."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """One accepted update, decoded: its difference and the steps that it counts for.

    `counted_steps` are its steps after caps and staleness; `factor` shortens its difference.
    """

    change: Flat
    counted_steps: float
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class MergeResult:
    """The new weights, and how they came about."""

    weights: Flat
    share: float
    """Share of a round's work in this merge, at most 1."""
    gain: float
    counted_steps: float


def is_due(waiting_steps: float, activity: Activity, *, waited_rounds: float) -> bool:
    """Say whether the updates that wait should be merged now."""
    if waiting_steps <= 0:
        return False
    return waiting_steps >= SHARE_TO_MERGE * activity.round_steps or waited_rounds >= 1.0


def gain(activity: Activity) -> float:
    """Return how far a round moves the weights, in units of the mean difference."""
    return float(min(max(activity.effective_volunteers, 1.0) ** GAIN_EXPONENT, GAIN_MOST))


def merge(
    weights: Flat, layout: Layout, contributions: Iterable[Contribution], activity: Activity
) -> MergeResult:
    """Return the next version's weights.

    Sums run in the order given, in float32: the same contributions in the same order give
    the same bits. At most two vectors of the model's size are held beside `weights`, so
    `contributions` may decode each update as it is asked for.
    """
    total = np.zeros_like(weights)
    counted = 0.0
    for contribution in contributions:
        _add(total, _shortened(contribution, layout), np.float32(contribution.counted_steps))
        counted += contribution.counted_steps
    if counted <= 0.0:
        raise ValueError("nothing to merge: no contribution counts any step")
    share = min(1.0, counted / activity.round_steps) if activity.round_steps > 0 else 1.0
    factor = gain(activity)
    merged = weights + total * np.float32(factor * share / counted)
    for place in layout.statistic_slices:
        merged[place] = total[place] / np.float32(counted)
    return MergeResult(merged, share, factor, counted)


def _add(total: Flat, change: Flat, steps: np.float32) -> None:
    """Add `steps` times the difference, in blocks: a product of full size costs as much again."""
    product = np.empty(min(BLOCK, total.size), dtype=np.float32)
    for start in range(0, total.size, BLOCK):
        block = change[start : start + BLOCK]
        total[start : start + BLOCK] += np.multiply(block, steps, out=product[: block.size])


def _shortened(contribution: Contribution, layout: Layout) -> Flat:
    if contribution.factor == 1.0:
        return contribution.change
    change = contribution.change * np.float32(contribution.factor)
    for place in layout.statistic_slices:
        change[place] = contribution.change[place]
    return change
