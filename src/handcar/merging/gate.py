"""The held-out gate: an update that makes the newest version much worse than others do.

Held-out loss with a part of the update added, over that without it, on records that volunteers
never see, the same for both. One volunteer's end is noisier than the mean of many, so honest
updates raise the loss often: what counts is how much more than the others lately.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

PART = 0.3
"""Of the update that is added."""
RECORDS = 2_000
"""As many held-out records as are looked at."""
FEWEST = 5
LOOKED_AT = 20
DEVIATIONS = 6.0
MARGIN = 0.02


def rise(with_it: float, without: float) -> float:
    """Return by which share the loss rises; infinite where it is no number any more."""
    if not math.isfinite(with_it):
        return math.inf
    return with_it / max(without, 1e-12) - 1.0


def most(last: Sequence[float]) -> float:
    """Return the rise up to which an update counts: median + 6 median deviations + 2 %.

    `last` are the rises of the last accepted updates; with fewer than 5 anything finite counts.
    """
    if len(last) < FEWEST:
        return math.inf
    middle = statistics.median(last)
    return middle + DEVIATIONS * statistics.median(abs(one - middle) for one in last) + MARGIN


def is_too_much(found: float, last: Sequence[float]) -> bool:
    """Say whether an update is to be refused."""
    return found == math.inf or found > most(last)


def text(found: float, last: Sequence[float]) -> str:
    """Say why, for a person."""
    if found == math.inf:
        return "with it, the model's loss on held-out records is no number any more"
    return (
        f"with it, the model's loss on held-out records is {found:+.1%}; "
        f"of the updates lately at most {most(last):+.1%} counts"
    )
