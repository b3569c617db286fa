"""How the next version comes about.

Everything is computed first and put on disk by digest, which is harmless to repeat; then
one transaction makes the version and names the updates in it. A crash before it repeats
the work; after it there is nothing left to do. Merging for one model is serial.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from django.db import IntegrityError, transaction
from django.db.models import Count, F, Q

from handcar.errors import Corrupt, HandcarError, StateConflict
from handcar.merging import activity as activities
from handcar.merging import merge as merging
from handcar.merging.activity import Activity
from handcar.merging.merge import Contribution, MergeResult
from handcar.server.catalog import modelfiles
from handcar.server.catalog.models import TrainingModel
from handcar.server.rounds import checks, series, services, timing
from handcar.server.rounds.models import CHECKED, RECEIVED, Participation, Update, Version

log = logging.getLogger(__name__)

ACTIVE_ROUNDS = 2
"""Who was not heard from for so many rounds does not count as active."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which updates go into the next version, oldest first, and what each counts."""

    updates: tuple[Update, ...]
    counted_steps: tuple[float, ...]
    activity: Activity


class Unusable(HandcarError):
    """An accepted update can't be merged after all."""

    def __init__(self, update: Update, reason: str) -> None:
        self.update = update
        self.reason = reason
        super().__init__(reason)


def merge_one(now: datetime) -> bool:
    """Make the next version of a model that is due; say whether there was one."""
    waiting = Update.objects.filter(state=CHECKED, model__state__in=("pending", "paused"))
    for model_id in waiting.order_by().values_list("model_id", flat=True).distinct():
        model = TrainingModel.objects.get(id=model_id)
        made = plan(model, now)
        if made is not None and _claim(model, now):
            _merge(model, made, now)
            return True
    return False


def plan(model: TrainingModel, now: datetime) -> Plan | None:
    """Return what to merge now, or none: the oldest updates, just enough to be due.

    Just enough, because a merge moves the weights by one round's work at most: a backlog
    becomes several versions, so that no work in it is cut off.
    """
    rows = Update.objects.filter(model=model, state=CHECKED).select_related("model")
    waiting = list(rows.order_by("received_at", "id"))
    if not waiting:
        return None
    last_steps = _last_steps(model, waiting, now)
    for count in range(1, len(waiting) + 1):
        part = _part(waiting[:count], last_steps)
        if merging.is_due(sum(part.counted_steps), part.activity, waited_rounds=0.0):
            return part
    due = merging.is_due(
        sum(part.counted_steps), part.activity, waited_rounds=_waited_rounds(model, now)
    )
    return part if due else None


def _part(updates: list[Update], last_steps: dict[object, int]) -> Plan:
    # A volunteer's round is as long as its latest update in this merge, whatever waits behind.
    in_this: dict[object, int] = {update.volunteer_id: update.steps for update in updates}
    steps = {**last_steps, **in_this}
    ceiling = activities.CAP * statistics.median(steps.values())
    counted = tuple(min(float(update.steps), ceiling) * update.late_weight for update in updates)
    return Plan(tuple(updates), counted, activities.measure(list(steps.values())))


def _last_steps(model: TrainingModel, waiting: list[Update], now: datetime) -> dict[object, int]:
    """Return the steps of each active volunteer's last round.

    Active is who was heard from within two rounds before the oldest update that waits: when
    the worker was away, the crowd of that time shares the backlog, as it would have then.
    Who has bytes here that are not checked yet is active too.
    """
    at = min(now, waiting[0].received_at or now)
    since = at - timedelta(seconds=ACTIVE_ROUNDS * timing.round_seconds(model))
    rows = Participation.objects.filter(model=model, last_steps__isnull=False)
    active = rows.filter(heard_at__gte=since).exclude(activity="leaving")
    of_waiting = rows.filter(volunteer_id__in={update.volunteer_id for update in waiting})
    steps = dict((active | of_waiting).order_by("number").values_list("volunteer_id", "last_steps"))
    received = Update.objects.filter(model=model, state=RECEIVED).order_by("received_at")
    for volunteer_id, claimed in received.values_list("volunteer_id", "steps"):
        steps.setdefault(volunteer_id, claimed)
    return steps


def _waited_rounds(model: TrainingModel, now: datetime) -> float:
    if Update.objects.filter(model=model, state=RECEIVED).exists():
        return 0.0  # those are checked first, and may go along
    waited: timedelta = now - series.newest(model.pk).published_at
    return waited.total_seconds() / timing.round_seconds(model)


# -- making the version ----------------------------------------------------------------------


def _merge(model: TrainingModel, made: Plan, now: datetime) -> None:
    """Make the version; after a failure the lease stays, so that other work goes on first."""
    try:
        _publish(model, made, now)
    except Unusable as error:
        services.refuse(error.update, error.reason, now)
    except StateConflict as error:
        log.info("%s: merged again from the start: %s", model.pk, error)
    except Exception:
        log.exception("%s could not be merged; it is tried again in %s", model.pk, services.LEASE)
        return
    TrainingModel.objects.filter(id=model.pk).update(merge_leased_until=None)


def _publish(model: TrainingModel, made: Plan, now: datetime) -> None:
    layout = modelfiles.layout(model.model_file)
    base = series.newest(model.pk)
    master = series.raw(base.master_digest)
    result = merging.merge(master, layout, _contributions(made), made.activity)
    if not np.isfinite(result.weights).all():
        raise Unusable(_longest(made), "the weights would not stay finite with it")
    version = series.encode_next(model, base, result.weights, layout)
    _describe(version, base, made, result, now)
    _commit(model, version, made, now)
    log.info("%s: version %d of %d updates", model.pk, version.number, len(made.updates))
    services.remove_bytes(update.sha256 for update in made.updates)
    series.prune(model)


def _contributions(made: Plan) -> Iterator[Contribution]:
    for update, counted in zip(made.updates, made.counted_steps, strict=True):
        try:
            change = checks.decoded(update)
        except Corrupt as error:
            raise Unusable(update, str(error)) from error
        yield Contribution(change, counted, update.factor)


def _longest(made: Plan) -> Update:
    return max(made.updates, key=lambda update: (update.norm or 0.0) * update.factor)


def _describe(
    version: Version, base: Version, made: Plan, result: MergeResult, now: datetime
) -> None:
    version.updates = len(made.updates)
    version.counted_steps = result.counted_steps
    version.gain = result.gain
    version.records_merged = base.records_merged + _records(made)
    # Never before the version it follows, whatever the clock did.
    version.published_at = max(now, base.published_at)


def _records(made: Plan) -> int:
    """Return the records that count: a claim beyond the cap must not end a training."""
    return sum(
        min(update.records, round(counted * update.model.batch_size))
        for update, counted in zip(made.updates, made.counted_steps, strict=True)
    )


def _commit(model: TrainingModel, version: Version, made: Plan, now: datetime) -> None:
    """Make the version and flip its updates, in one transaction."""
    try:
        with transaction.atomic():
            version.save(force_insert=True)
            services.mark_merged([update.pk for update in made.updates], version)
            _count_for_volunteers(model, made)
            if model.records_wanted is not None and version.records_merged >= model.records_wanted:
                services.finish(model.pk, now)
    except IntegrityError as error:
        raise StateConflict(f"{version} was made by another worker") from error


def _count_for_volunteers(model: TrainingModel, made: Plan) -> None:
    ids = [update.pk for update in made.updates]
    counts = Update.objects.filter(id__in=ids).values("volunteer_id").annotate(count=Count("id"))
    for row in counts.order_by():
        Participation.objects.filter(model=model, volunteer_id=row["volunteer_id"]).update(
            updates_merged=F("updates_merged") + row["count"]
        )


def _claim(model: TrainingModel, now: datetime) -> bool:
    free = Q(merge_leased_until__isnull=True) | Q(merge_leased_until__lt=now)
    rows = TrainingModel.objects.filter(free, id=model.pk)
    return rows.update(merge_leased_until=now + services.LEASE) == 1
