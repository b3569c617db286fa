"""What a version is: the version before, plus what volunteers found, weighted by their work.

An update of H steps, when all active volunteers together make W steps in a round, is a
share H / W of a round's work, and moves the weights by gain * H / W * its difference.
So how many updates one merge holds does not change how far a round moves the weights.

A volunteer trains on at once from "newest version + own updates that it lacks", so one
volunteer alone is plain training: gain 1, share 1, nothing added twice.

Measured defaults: gain = (effective volunteers)^(1/3) up to 2.5, no outer momentum, a
merge as soon as half a round's work has come in, or a round's time has passed. Centered
clipping bounds what any single update does. `rules.py` has other rules, in the same terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from handcar.merging import clipping
from handcar.merging.activity import Activity, gain
from handcar.merging.clipping import Mixture
from handcar.merging.direction import REFERENCE_KEEP
from handcar.merging.rules import SHARE, Rule
from handcar.merging.sketch import SIZE, Sketch
from handcar.wire import coded
from handcar.wire.coded import Coded
from handcar.wire.layout import Flat, Layout

CODED_AT_ONCE, CODED_SHARE = 16, 0.5
"""So many coded updates are added at once, if they take less than this share of the weights."""
BLOCK = 1 << 18
"""Numbers at once: few enough for a core's own cache, many enough that Python costs little."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """One accepted update: how to decode its difference, and what it counts.

    `steps` were made, `counted_steps` are left after caps, trust and staleness; `factor` shortens
    its difference.
    """

    decode: Callable[[], Flat | Coded]
    steps: float
    counted_steps: float
    factor: float = 1.0
    sketch: Sketch | None = None
    staleness: int = 0
    """Versions that were published between its base and this merge."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What merging remembers from one version to the next; none before the first."""

    reference: Flat | None = None
    """A slow mean of the change per step that was merged, which updates are held against."""
    reference_sketch: Sketch | None = None
    momentum: Flat | None = None


NOTHING = Memory()


@dataclass(frozen=True, slots=True)
class MergeResult:
    """The new weights, and how they came about."""

    weights: Flat
    memory: Memory
    share: float
    """Share of a round's work in this merge, at most 1."""
    gain: float
    counted_steps: float
    parts: tuple[float, ...]
    """How much of each update's sketch is in that of the reference."""


def merge(  # noqa: PLR0913 - each a plain part
    weights: Flat,
    layout: Layout,
    contributions: Sequence[Contribution],
    activity: Activity,
    *,
    rule: Rule = SHARE,
    memory: Memory = NOTHING,
) -> MergeResult:
    """Return the next version's weights.

    Sums run in the order given, in float32: the same contributions in the same order give
    the same bits, coded or flat. Each is decoded once, a few at a time, so that beside `weights`
    and `memory` there are two vectors of the model's size at most, three with flat ones.
    """
    counted = sum(one.counted_steps for one in contributions)
    if counted <= 0.0:
        raise ValueError("nothing to merge: no contribution counts any step")
    mixture = _mixture(contributions, activity, rule, memory)
    total = _total(contributions, mixture, layout, memory)
    per_step = _per_step(mixture, contributions, memory)
    parts = tuple(
        per_step * coefficient * one.factor
        for coefficient, one in zip(mixture.of_updates, contributions, strict=True)
    )
    reference = _reference(total, per_step, layout, memory)
    image = _sketch_of(parts, per_step * mixture.of_start, contributions, memory)
    statistics = [total[place] / np.float32(counted) for place in layout.statistic_slices]
    share = _share(counted, activity, rule)
    factor = rule.rate or gain(activity.effective_volunteers)
    momentum = _with_momentum(total, layout, rule, memory)
    total *= np.float32(factor * share)
    total += weights
    for place, values in zip(layout.statistic_slices, statistics, strict=True):
        total[place] = values
    return MergeResult(total, Memory(reference, image, momentum), share, factor, counted, parts)


def _mixture(
    contributions: Sequence[Contribution], activity: Activity, rule: Rule, memory: Memory
) -> Mixture:
    if rule.counts_updates:
        discounts = np.array([(1.0 + one.staleness) ** -0.5 for one in contributions])
        return Mixture(tuple((discounts / len(discounts)).tolist()))
    weights = np.array([one.counted_steps for one in contributions])
    sketches = [one.sketch for one in contributions]
    if not rule.clips or activity.effective_volunteers < 2 or any(s is None for s in sketches):
        return clipping.plain(weights)
    start = memory.reference_sketch
    return clipping.clipped(
        np.array(sketches, np.float64) * [[one.factor] for one in contributions],
        np.array([one.steps for one in contributions], np.float64),
        weights,
        np.zeros(SIZE) if start is None else start.astype(np.float64),
    )


def _total(
    contributions: Sequence[Contribution], mixture: Mixture, layout: Layout, memory: Memory
) -> Flat:
    """Return the merged difference; in the statistics' places, sums of values times steps."""
    total = _sum(contributions, mixture, layout)
    if memory.reference is not None and mixture.of_start:
        _add(total, memory.reference, np.float32(mixture.of_start))
    return total


def _sum(contributions: Sequence[Contribution], mixture: Mixture, layout: Layout) -> Flat:
    """Return the mixture of the updates; what is coded is summed in its order, and turned once."""
    lines, flat = [np.zeros(0, np.float32)] * 2
    held: list[tuple[Coded, np.float32]] = []
    places = layout.statistic_slices
    statistics = [np.zeros(place.stop - place.start, np.float32) for place in places]
    for one, coefficient in zip(contributions, mixture.of_updates, strict=True):
        change, times = one.decode(), np.float32(coefficient * one.factor)
        if isinstance(change, Coded):
            held.append((change, times))
            if _is_enough(held, layout):
                lines = _with_held(lines, held, layout)
            values = coded.statistics_of(change, layout)
        else:
            flat = flat if flat.size else np.zeros(layout.size, np.float32)
            _add(flat, change, times)
            values = [change[place] for place in places]
        for summed, value in zip(statistics, values, strict=True):
            np.add(summed, np.float32(one.counted_steps) * value, out=summed)
        del change, values
    lines = _with_held(lines, held, layout)
    total = coded.in_layout(lines, statistics, layout) if lines.size else flat
    if lines.size and flat.size:
        total += flat
    for place, summed in zip(places, statistics, strict=True):
        total[place] = summed
    return total


def _is_enough(held: list[tuple[Coded, np.float32]], layout: Layout) -> bool:
    room = CODED_SHARE * 4 * layout.size
    return len(held) == CODED_AT_ONCE or sum(change.nbytes for change, _ in held) > room


def _with_held(lines: Flat, held: list[tuple[Coded, np.float32]], layout: Layout) -> Flat:
    """Return the sums of what is coded with what is held in them too; nothing is held then."""
    if held:
        lines = lines if lines.size else np.zeros(coded.trainable_size(layout), np.float32)
        coded.add(lines, held)
        held.clear()
    return lines


def _share(counted: float, activity: Activity, rule: Rule) -> float:
    if rule.rate is not None or activity.round_steps <= 0:
        return 1.0
    return min(1.0, counted / activity.round_steps)


def _per_step(mixture: Mixture, contributions: Sequence[Contribution], memory: Memory) -> float:
    """Return what the merged difference is multiplied by on its way into the reference."""
    steps = mixture.of_start + sum(
        c * one.steps for c, one in zip(mixture.of_updates, contributions, strict=True)
    )
    return (1.0 if memory.reference is None else 1.0 - REFERENCE_KEEP) / max(steps, 1e-30)


def _reference(total: Flat, per_step: float, layout: Layout, memory: Memory) -> Flat:
    """Return the reference with this merge in it: the difference per step of its mean round."""
    reference = total * np.float32(per_step)
    if memory.reference is not None:
        _add(reference, memory.reference, np.float32(REFERENCE_KEEP))
    for place in layout.statistic_slices:
        reference[place] = 0
    return reference


def _sketch_of(
    parts: Sequence[float], of_start: float, contributions: Sequence[Contribution], memory: Memory
) -> Sketch | None:
    """Return the reference's sketch: sketches are linear, so it needs no vector."""
    image = np.zeros(SIZE)
    if memory.reference_sketch is not None:
        image += (REFERENCE_KEEP + of_start) * memory.reference_sketch
    for part, one in zip(parts, contributions, strict=True):
        if one.sketch is None:
            return None
        image += part * one.sketch
    return image.astype(np.float32)


def _with_momentum(total: Flat, layout: Layout, rule: Rule, memory: Memory) -> Flat | None:
    """Make `total` Nesterov's step over the differences so far; return their momentum."""
    if not rule.momentum:
        return None
    momentum = total.copy()
    for place in layout.statistic_slices:
        momentum[place] = 0
    if memory.momentum is not None:
        _add(momentum, memory.momentum, np.float32(rule.momentum))
    _add(total, momentum, np.float32(rule.momentum))
    return momentum


def _add(total: Flat, change: Flat, times: np.float32) -> None:
    """Add `times` the difference, in blocks: a product of full size costs as much again."""
    product = np.empty(min(BLOCK, total.size), dtype=np.float32)
    for start in range(0, total.size, BLOCK):
        block = change[start : start + BLOCK]
        total[start : start + BLOCK] += np.multiply(block, times, out=product[: block.size])
