"""How much work the volunteers of one model do in a round, and how many they are in effect."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

CAP = 3.0
"""A volunteer counts at most this many times the median work."""


@dataclass(frozen=True, slots=True)
class Activity:
    """The work of all active volunteers in one round, in steps, and their effective number."""

    round_steps: float
    effective_volunteers: float


def measure(last_steps: Sequence[int]) -> Activity:
    """Return the activity from each active volunteer's last accepted round, in steps.

    The effective number is (sum H)^2 / sum H^2: ten machines of which one does nearly all
    the work count as little more than one.
    """
    if not last_steps:
        return Activity(round_steps=0.0, effective_volunteers=0.0)
    steps = capped(last_steps)
    total = sum(steps)
    return Activity(total, total * total / sum(step * step for step in steps))


def capped(steps: Iterable[float]) -> list[float]:
    """Return the steps, none above three times their median: claims set weights."""
    given = list(steps)
    ceiling = CAP * statistics.median(given)
    return [min(float(step), ceiling) for step in given]


def last_rounds(rounds: Iterable[tuple[str, int]]) -> Mapping[str, int]:
    """Return each volunteer's latest steps from (volunteer, steps) pairs, oldest first."""
    return dict(rounds)
