"""Whether a version is worse than chance explains, so that it is to be taken back."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

LOOKED_AT = 10
FEWEST = 5
DEVIATIONS = 6.0
MARGIN = 0.25
"""A loss that is larger by less than this share is noise, however steady those before it were."""


def is_worse(loss: float | None, earlier: Sequence[float]) -> bool:
    """Say whether a held-out loss is worse than those of the versions before it, oldest first.

    Worse is what lies above their median by 6 median deviations and by a quarter; a loss that is no
    number always is. Losses fall while a model learns, which the median of those before leaves
    room for; with fewer than 5 of them only a loss that is no number is worse.
    """
    if loss is None or not math.isfinite(loss):
        return True
    last = [one for one in earlier[-LOOKED_AT:] if math.isfinite(one)]
    if len(last) < FEWEST:
        return False
    middle = statistics.median(last)
    deviation = statistics.median(abs(one - middle) for one in last)
    return loss > middle + max(DEVIATIONS * deviation, MARGIN * abs(middle))
