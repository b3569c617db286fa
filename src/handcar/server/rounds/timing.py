"""How long a round takes, and how late an update is, in rounds."""

from __future__ import annotations

import statistics
from datetime import datetime

from handcar.merging import staleness
from handcar.protocol import limits
from handcar.server.catalog.models import TrainingModel
from handcar.server.rounds.models import ACCEPTED, Update, Version

ROUNDS_LOOKED_AT = 20
SHORTEST_S = 1.0


def round_seconds(model: TrainingModel) -> float:
    """Return the median length of the last accepted rounds, at least a second."""
    usual = usual_seconds(model)
    return float(model.round_seconds) if usual is None else max(SHORTEST_S, usual)


def usual_seconds(model: TrainingModel) -> float | None:
    """Return the median length of the last accepted rounds; none before the first."""
    rows = Update.objects.filter(model=model, state__in=ACCEPTED).order_by("-checked_at")
    last = list(rows.values_list("seconds", flat=True)[:ROUNDS_LOOKED_AT])
    return statistics.median(last) if last else None


def late_weight(model: TrainingModel, base_version: int, at: datetime, *, seconds: float) -> float:
    """Return how much an update that came `at` this time counts, in [0, 1].

    Late is what came after its base version was superseded, in rounds of time: versions would
    count a fast crowd's merges against a slow volunteer. `seconds` is how long its round was.
    """
    following = Version.objects.filter(model=model, number=base_version + 1)
    superseded = following.values_list("published_at", flat=True).first()
    if superseded is None:
        return 1.0
    late_s = max(0.0, (at - superseded).total_seconds())
    own_s = min(seconds, limits.ROUND_S)
    late = staleness.rounds(late_s, usual_s=round_seconds(model), own_s=own_s)
    return staleness.weight(late)


def too_late_text(base_version: int) -> str:
    """Say why an update is too late."""
    return (
        f"it started from version {base_version}, superseded more than "
        f"{staleness.REFUSED_ROUNDS:g} rounds ago: too late to count"
    )
