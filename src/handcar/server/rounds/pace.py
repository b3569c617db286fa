"""How long rounds must be at least, so that the worker keeps up with everyone's updates."""

from __future__ import annotations

import statistics
from datetime import datetime

from handcar.protocol import limits
from handcar.protocol.messages import RoundLimits
from handcar.server.catalog.models import TrainingModel
from handcar.server.rounds import participation
from handcar.server.rounds.models import MERGED, Update

LOOKED_AT = 20
FEWEST = 5
LOAD = 0.5
"""How much of the worker's time updates may take."""


def round_limits(model: TrainingModel, now: datetime) -> RoundLimits:
    """Return what volunteers of a model are asked: its owner's limits, and the server's."""
    return RoundLimits(
        max_steps=model.round_steps,
        max_seconds=model.round_seconds,
        min_seconds=min_seconds(model, now),
    )


def min_seconds(model: TrainingModel, now: datetime) -> float:
    """Return the round with which everyone's updates take half of the worker's time."""
    machines = participation.present(model, now).count()
    return min(limits.ROUND_S, machines * seconds_an_update(model) / LOAD)


def seconds_an_update(model: TrainingModel) -> float:
    """Return what one update costs the worker, merging included; 0 while it waits for work.

    Measured where one update was taken up right after another: from the one's check to the
    other's. A worker that is often idle has no such pairs, and needs no longer rounds.
    """
    rows = Update.objects.filter(model=model, state=MERGED, checked_at__isnull=False)
    newest = rows.order_by("-received_at").values_list("received_at", "checked_at")[:LOOKED_AT]
    last = sorted((checked, received) for received, checked in newest)
    gaps = [
        (checked - before).total_seconds()
        for (before, _), (checked, received) in zip(last, last[1:], strict=False)
        if received <= before
    ]
    return statistics.median(gaps) if len(gaps) >= FEWEST else 0.0
