"""What a server that can't keep up says: come back later, and each at another moment.

Heartbeats become rarer while requests are slow or updates wait long for the worker; updates are
refused, to be kept and announced later, while more of them wait than the workers do in minutes.
"""

from __future__ import annotations

import math
import random
import threading
import time
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Min

from handcar.protocol import limits, problems
from handcar.server import front
from handcar.server.catalog.models import TrainingModel
from handcar.server.memory import Kept
from handcar.server.problems import Refusal
from handcar.server.rounds import pace
from handcar.server.rounds.models import RECEIVED, Update

SLOW_S = 0.25
"""Requests that take so long in the mean make heartbeats rarer."""
WINDOW_S = 15.0
BEHIND_S = 300.0
"""Workers may be so far behind before updates are asked to wait at their volunteers'."""
FEW = 8
"""So few updates may wait for any time: what one of them does must not close the door."""
CROWDED = 16
"""So many requests under way in a process are some tenths of a second for each of them."""
RAREST = 3.0
"""Times the usual pause between heartbeats: two still fit into the time after which one is gone."""
SPREAD = 0.15
LOOK_S = 2.0

_lines: Kept[Line] = Kept(LOOK_S)
_short_at: dict[str, float] = {}
"""When few updates of a model waited, as this process last saw it, by the monotonic clock."""


class Recent:
    """The mean of what was noted in the last moments, cheap to note."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._lock = threading.Lock()
        self._since = 0.0
        self._now = self._before = (0.0, 0)

    def note(self, value: float) -> None:
        """Count one more."""
        with self._lock:
            self._turn()
            total, count = self._now
            self._now = (total + value, count + 1)

    def mean(self) -> float:
        """Return the mean; 0 where nothing was noted of late."""
        with self._lock:
            self._turn()
            total, count = (sum(pair) for pair in zip(self._now, self._before, strict=True))
        return total / count if count else 0.0

    def _turn(self) -> None:
        now = time.monotonic()
        if now - self._since < self._window_s:
            return
        old = now - self._since >= 2 * self._window_s
        self._before, self._now = (0.0, 0) if old else self._now, (0.0, 0)
        self._since = now


@dataclass(frozen=True, slots=True)
class Line:
    """The updates of a model that wait to be looked at."""

    waiting: int
    oldest_s: float
    """How long the first of them has waited."""
    seconds_an_update: float

    @property
    def behind_s(self) -> float:
        """How long what came last will wait, as far as is known."""
        if self.waiting <= FEW:
            return 0.0
        return max(self.oldest_s, self.waiting * self.seconds_an_update)


requests = Recent()
"""Seconds that requests took which are short if the server is well."""


def heartbeat_s(model: TrainingModel, now: datetime) -> float:
    """Return when a volunteer should be heard from next."""
    busy = max(requests.mean() / SLOW_S, 2 * line(model, now).behind_s / BEHIND_S)
    if busy <= 1.0:
        return limits.HEARTBEAT_S
    return limits.HEARTBEAT_S * min(busy, RAREST) * _spread()


def is_crowded() -> bool:
    """Say whether what can be told later should be."""
    return front.under_way() > CROWDED


def expect_room(model: TrainingModel, now: datetime) -> None:
    """Refuse an update for now, while more wait than the workers do in some minutes."""
    found = line(model, now)
    if found.behind_s <= BEHIND_S:
        return
    wait_s = min(max(found.behind_s - BEHIND_S, limits.RETRY_FIRST_S), limits.RETRY_MOST_S / 2)
    raise Refusal(
        problems.TOO_MANY,
        f"{found.waiting} updates of {model.pk} wait to be looked at, the first for "
        f"{found.oldest_s:.0f} s: keep this one and send it later",
        headers={"Retry-After": str(round(wait_s * (1 + random.random())))},  # noqa: S311
    )


def line(model: TrainingModel, now: datetime) -> Line:
    """Return what waits for the workers, as of some seconds ago."""
    return _lines.get(model.pk, lambda: _look(model, now))


def _look(model: TrainingModel, now: datetime) -> Line:
    rows = Update.objects.filter(model=model, state=RECEIVED, examined_at=None)
    found = rows.aggregate(count=Count("pk"), oldest=Min("received_at"))
    oldest_s = (now - found["oldest"]).total_seconds() if found["oldest"] else 0.0
    # A clock that was set must not send everyone away: no line is older than it is long.
    moment = time.monotonic()
    if found["count"] <= FEW:
        _short_at[model.pk] = moment
    oldest_s = min(oldest_s, moment - _short_at.get(model.pk, -math.inf))
    return Line(found["count"], oldest_s, pace.cost(model))


def _spread() -> float:
    return 1.0 + random.uniform(-SPREAD, SPREAD)  # noqa: S311 - no secret
