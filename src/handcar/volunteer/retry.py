"""How long to wait before trying again: longer each time, never two machines alike."""

from __future__ import annotations

import random

from handcar.protocol import limits


def pause(attempt: int, rng: random.Random, *, first_s: float = limits.RETRY_FIRST_S) -> float:
    """Return the pause in seconds after the `attempt`-th failure in a row (1 for the first).

    Doubles from `first_s` up to 15 minutes; then a random half of it is taken away, so
    that a server that comes back is not met by everyone at once ("equal jitter").
    """
    longest = min(first_s * 2.0 ** min(attempt - 1, 20), limits.RETRY_MOST_S)
    return longest * (0.5 + 0.5 * rng.random())
