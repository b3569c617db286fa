"""What rounds are asked to be: how long, where in the schedule, at which rate."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from handcar.merging import activity as activities
from handcar.merging import trust
from handcar.merging.rules import SHARE
from handcar.merging.trust import Standing
from handcar.protocol import limits
from handcar.protocol.messages import RoundLimits
from handcar.server.catalog import modelfiles
from handcar.server.catalog.models import TrainingModel
from handcar.server.memory import Kept
from handcar.server.rounds import participation
from handcar.server.rounds.models import MERGED, Update

LOOKED_AT = 100
"""Several merges are among so many updates, so that what merging costs is in the mean."""
FEWEST = 5
AWAY_S, AWAY_TIMES = 30.0, 20.0
"""What is longer between two looks, in seconds and in times the median, is counted as so much."""
LOAD = 0.5
"""How much of the worker's time updates may take."""
ROUNDS_WORTH = 50
"""A training in which everyone's rounds together are fewer ends far from what it could be."""
KEPT_S = 30.0
"""How long a process keeps what an update costs: it changes slowly."""
CROWD_KEPT_S = 10.0

FEW, FEW_KEPT_S = 100, 1.0
"""So few are looked at that often: a short training may be over before who came last is seen."""

_crowds: Kept[Crowd] = Kept(FEW_KEPT_S)
_large: Kept[Crowd] = Kept(CROWD_KEPT_S)
_costs: Kept[float] = Kept(KEPT_S)


@dataclass(frozen=True, slots=True)
class Crowd:
    """Those who train a model now."""

    records_per_second: dict[UUID, float]
    total: float
    """Of all their records per second."""
    effective: float

    def is_only(self, volunteer_id: UUID) -> bool:
        """Say whether nobody else trains."""
        return len(self.records_per_second) == (volunteer_id in self.records_per_second)

    def of_others(self, volunteer_id: UUID) -> float:
        """Return what the others train together; just 0 for who is alone."""
        if self.is_only(volunteer_id):
            return 0.0
        return max(0.0, self.total - self.records_per_second.get(volunteer_id, 0.0))


def round_limits(
    model: TrainingModel, volunteer_id: UUID, records_done: int | None, now: datetime
) -> RoundLimits:
    """Return what one volunteer is asked: its owner's limits, the server's, and the schedule.

    `records_done` is of the newest version that the same answer names.
    """
    crowd = _crowd(model, now)
    longest = None if crowd.is_only(volunteer_id) else longest_steps(model)
    return RoundLimits(
        max_steps=min(model.round_steps, longest or model.round_steps),
        max_seconds=model.round_seconds,
        min_seconds=min_seconds(model, now),
        longest_steps=longest,
        records_done=records_done,
        others_records_per_second=crowd.of_others(volunteer_id),
        rate_factor=rate_factor(model, crowd.effective, records_done or 0),
    )


def longest_steps(model: TrainingModel) -> int | None:
    """Return the steps of a round of which the whole training holds enough; none: no end is set.

    Fast machines with a small model run ahead of the worker: the training would be over before
    their work has met.
    """
    if model.records_wanted is None:
        return None
    return int(max(1, model.records_wanted // (model.batch_size * ROUNDS_WORTH)))


def rate_factor(model: TrainingModel, effective: float, records_done: int) -> float:
    """Return what inner rates are multiplied by, with so many volunteers and so far on."""
    if modelfiles.rule(model.model_file) is not SHARE:
        return 1.0
    return activities.rate_factor(effective, records_done / model.batch_size)


def _crowd(model: TrainingModel, now: datetime) -> Crowd:
    """Return those who train, as they were at most some seconds ago: each heartbeat asks."""
    return _crowds.get(model.pk, lambda: _large.find(model.pk) or _looked(model, now))


def _looked(model: TrainingModel, now: datetime) -> Crowd:
    crowd = _look(model, now)
    if len(crowd.records_per_second) > FEW:
        _large.put(model.pk, crowd)
    return crowd


def _look(model: TrainingModel, now: datetime) -> Crowd:
    rows = participation.present(model.pk, now).values_list(
        "volunteer_id", "steps_per_second", "last_steps", "accepted", "audited", "failed"
    )
    paces, steps, weights = {}, [], []
    for id, pace, last_steps, *standing in rows:
        paces[id] = pace * model.batch_size
        if last_steps is not None:
            steps.append(last_steps)
            weights.append(trust.weight(Standing(*standing)))
    capped = activities.capped(steps) if steps else []
    work = [step * weight for step, weight in zip(capped, weights, strict=True)]
    effective = activities.of_work(work).effective_volunteers
    return Crowd(paces, sum(paces.values()), effective)


# -- what the worker carries -----------------------------------------------------------------


def min_seconds(model: TrainingModel, now: datetime) -> float:
    """Return the round with which everyone's updates take half of the worker's time."""
    machines = len(_crowd(model, now).records_per_second)
    return min(limits.ROUND_S, machines * cost(model) / LOAD)


def cost(model: TrainingModel) -> float:
    """Return what one update costs the workers, as of some seconds ago."""
    return _costs.get(model.pk, lambda: seconds_an_update(model))


def seconds_an_update(model: TrainingModel) -> float:
    """Return what one update costs the workers, merging included; 0 while they wait for work.

    Several workers take less of everyone's time an update, several models more: it is measured
    by the clock, while updates of this model wait.
    """
    rows = Update.objects.filter(model=model, state=MERGED, examined_at__isnull=False)
    newest = rows.order_by("-received_at").values_list("received_at", "examined_at")[:LOOKED_AT]
    return busy_seconds([(received, examined) for received, examined in newest if examined])


def busy_seconds(looks: Sequence[tuple[datetime | None, datetime]]) -> float:
    """Return the mean time from one look at an update to the next, where the next one waited.

    `looks` are when updates were received and looked at. A worker that is often idle has few
    such pairs, and needs no longer rounds: 0. The mean, not the median: only now and then a
    merge lies between two looks, and it takes long. What is far longer still was no work: the
    worker was away, the machine slept, or its clock was set.
    """
    last = sorted((examined, received or examined) for received, examined in looks)
    gaps = [
        (examined - before).total_seconds()
        for (before, _), (examined, received) in zip(last, last[1:], strict=False)
        if received <= before
    ]
    if len(gaps) < FEWEST:
        return 0.0
    most = max(AWAY_S, AWAY_TIMES * statistics.median(gaps))
    return statistics.fmean(min(gap, most) for gap in gaps)
