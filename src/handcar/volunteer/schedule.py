"""Where a round is in the schedule of the learning rate. Pure numbers, safe to share by threads.

The place is what was trained into the weights that the round starts from: the records merged
into its base version and those of the own updates carried on top. While it lasts the others
train on. So who trains alone follows the schedule step by step, and with others it does not
matter who they are.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from handcar.protocol.messages import RatePlan, RoundLimits

KEPT = 32
"""Versions whose records are remembered: rounds start from one of the newest."""


@dataclass(frozen=True, slots=True)
class Own:
    """What a volunteer knows of its own training when a round begins."""

    base_version: int
    carried_records: int = 0
    """Of the own updates that the round starts from beside its base version."""
    steps: int = 0
    """Made on this model so far."""
    records_per_second: float | None = None


class Schedule:
    """What the server said of the place, and the places of rounds."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._lock = threading.Lock()
        self._done: dict[int, int] = {}
        self._said = RoundLimits()

    def hear(self, version: int, said: RoundLimits) -> None:
        """Take what the server said together with its newest version."""
        with self._lock:
            self._said = said
            if said.records_done is not None:
                self._done[version] = said.records_done
                for old in sorted(self._done)[:-KEPT]:
                    del self._done[old]

    def plan(self, own: Own) -> RatePlan:
        """Return the place of a round that begins now, and how fast it moves on."""
        with self._lock:
            said, done = self._said, self._records_of(own.base_version)
        if done is None:
            return RatePlan(first=own.steps, factor=said.rate_factor)
        others = said.others_records_per_second
        pace = 1.0 + others / own.records_per_second if own.records_per_second else 1.0
        first = (done + own.carried_records) / self._batch_size
        return RatePlan(first=first, pace=pace, factor=said.rate_factor)

    def _records_of(self, version: int) -> int | None:
        """Return the records merged into a version, or into the nearest that was told of."""
        nearest = min(self._done, key=lambda told: (abs(told - version), told), default=None)
        return None if nearest is None else self._done[nearest]
