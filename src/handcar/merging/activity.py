"""How much work the volunteers of one model do in a round, and how many they are in effect."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CAP = 3.0
"""A volunteer counts at most this many times the median work."""
FEW, MANY = 4.0, 8.0
"""Up to so many effective volunteers the owner's rate is best, and twice that from so many on."""
GAIN_EXPONENT = 1 / 3
GAIN_MOST = 2.5
YOUNG = 100.0
"""Steps that an optimizer makes before its rate is at its height, where there are several."""


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
    return of_work(capped(last_steps))


def of_work(work: Sequence[float]) -> Activity:
    """Return the activity of volunteers whose rounds count so many steps each."""
    total, squares = sum(work), sum(one * one for one in work)
    return Activity(total, total * total / squares if squares else 0.0)


def capped(steps: Iterable[float]) -> list[float]:
    """Return the steps, none above three times their median: claims set weights."""
    given = list(steps)
    ceiling = CAP * statistics.median(given)
    return [min(float(step), ceiling) for step in given]


def gain(effective_volunteers: float) -> float:
    """Return how far a round moves the weights, in units of the mean difference."""
    return float(min(max(effective_volunteers, 1.0) ** GAIN_EXPONENT, GAIN_MOST))


def rate_factor(effective_volunteers: float, steps_done: float) -> float:
    """Return what inner rates are multiplied by: 1 up to 4 volunteers, then up to 2 at 8.

    Less at first. `steps_done`, everyone's together, are shared by as many optimizers, each of
    which begins afresh; an owner's warm-up, told in everyone's steps, is over when they have
    made few. So rates rise until each has made 100 of its own. Who is alone has the owner's.
    """
    full = 1.0 + min(1.0, max(0.0, (effective_volunteers - FEW) / (MANY - FEW)))
    return full * min(1.0, max(1.0, steps_done / YOUNG) / max(1.0, effective_volunteers))
