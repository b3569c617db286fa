"""What an update that comes late still counts."""

from __future__ import annotations

FREE_ROUNDS = 4.0
HALVING_ROUNDS = 2.0
REFUSED_ROUNDS = 12.0
SENDING = 0.1
"""The share of its round that sending an update may take, where the line is thin."""


def rounds(late_s: float, *, usual_s: float, own_s: float) -> float:
    """Return how many rounds late an update is that came `late_s` after its base was superseded.

    Rounds are as long as is usual; but a thin line that makes a round of half an hour beside
    rounds of seconds needs minutes to send it, and is not late for that.
    """
    return late_s / max(usual_s, SENDING * own_s)


def weight(rounds_late: float) -> float:
    """Return how much an update counts, in [0, 1].

    `rounds_late` is the time since its base version was superseded, in rounds. Full weight
    up to 4, halved for every 2 more, none from 12 on: discounts that set in earlier only
    slowed training in simulation, since lateness is mostly a slow volunteer's lot.
    """
    if rounds_late >= REFUSED_ROUNDS:
        return 0.0
    return float(0.5 ** (max(0.0, rounds_late - FREE_ROUNDS) / HALVING_ROUNDS))
