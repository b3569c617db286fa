"""Which of the updates that wait go into the next version, and what each counts. Plain data."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handcar.merging import activity as activities
from handcar.merging import trust
from handcar.merging.activity import Activity
from handcar.merging.rules import SHARE, Rule


@dataclass(frozen=True, slots=True)
class Waiting:
    """An accepted update that is in no version yet."""

    volunteer: Hashable
    steps: int
    late_weight: float = 1.0
    trust: float = 1.0
    """What its volunteer's standing leaves of its steps."""
    groups: tuple[Hashable, ...] = ()
    """The account, address block ... that it is counted for."""


@dataclass(frozen=True, slots=True)
class Active:
    """A volunteer that is there, and the steps of its last accepted round."""

    steps: int
    trust: float = 1.0
    groups: tuple[Hashable, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """The oldest so many updates make the next version; what each counts."""

    counted_steps: tuple[float, ...]
    activity: Activity

    @property
    def count(self) -> int:
        """How many updates."""
        return len(self.counted_steps)


def choose(
    waiting: Sequence[Waiting],
    active: Mapping[Any, Active],
    *,
    waited_rounds: float,
    rule: Rule = SHARE,
) -> Choice | None:
    """Return what to merge now, or none: the oldest updates, just enough to be due.

    Just enough, because a merge moves the weights by one round's work at most: a backlog
    becomes several versions, so that no work in it is cut off. `waited_rounds` is the time since
    the last version; `active` may lack those who wait.
    """
    if not waiting:
        return None
    low, high = 1, len(waiting)
    everything = _part(waiting, active)
    if not _is_due(everything, waiting, active, rule):
        is_late = waited_rounds >= rule.patience_rounds and sum(everything.counted_steps) > 0
        return everything if is_late else None
    while low < high:
        middle = (low + high) // 2
        if _is_due(_part(waiting[:middle], active), waiting[:middle], active, rule):
            high = middle
        else:
            low = middle + 1
    return _part(waiting[:low], active)


def _is_due(
    part: Choice, waiting: Sequence[Waiting], active: Mapping[Any, Active], rule: Rule
) -> bool:
    counted = sum(part.counted_steps)
    if counted <= 0:
        return False
    if rule.counts_updates:
        return len(waiting) >= max(1.0, rule.share_to_merge * len(active))
    if rule.starts == "waits":
        return active.keys() <= {update.volunteer for update in waiting}
    return counted >= rule.share_to_merge * part.activity.round_steps


def _part(waiting: Sequence[Waiting], active: Mapping[Any, Active]) -> Choice:
    # A volunteer's round is as long as its latest update in this merge, whatever waits behind.
    in_this = {one.volunteer: Active(one.steps, one.trust, one.groups) for one in waiting}
    there = {**active, **in_this}
    ceiling = activities.CAP * statistics.median(one.steps for one in there.values())
    work = [min(float(one.steps), ceiling) * one.trust for one in there.values()]
    counted = [min(float(one.steps), ceiling) * one.late_weight * one.trust for one in waiting]
    capped = trust.within_shares(
        counted,
        [one.groups for one in waiting],
        total=sum(work),
        all_groups=[one.groups for one in there.values()],
    )
    return Choice(tuple(capped), activities.of_work(work))
