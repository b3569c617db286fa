"""How the next version comes about.

Everything is computed first and put on disk by digest, which is harmless to repeat; then
one transaction makes the version and names the updates in it. A crash before it repeats
the work; after it there is nothing left to do. Merging for one model is serial.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import numpy as np
from django.db import IntegrityError, InterfaceError, OperationalError, transaction
from django.db.models import F

from handcar.errors import Corrupt, DiskFull, HandcarError, StateConflict, StoreAway
from handcar.merging import cadence, trust
from handcar.merging import merge as merging
from handcar.merging.activity import Activity
from handcar.merging.cadence import Active, Waiting
from handcar.merging.merge import Contribution, Memory, MergeResult
from handcar.merging.sketch import Sketch
from handcar.merging.trust import Standing
from handcar.server import metrics
from handcar.server.accounts.models import Volunteer
from handcar.server.catalog import modelfiles
from handcar.server.catalog.models import TrainingModel
from handcar.server.rounds import (
    alerts,
    checks,
    decoding,
    leases,
    participation,
    series,
    services,
    timing,
)
from handcar.server.rounds.leases import Lease
from handcar.server.rounds.models import CHECKED, RECEIVED, Participation, Update, Version
from handcar.wire.coded import Coded
from handcar.wire.layout import Layout

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""Merges that fail in a row before the cause is looked for."""
UNNEEDED = ("sketch", "recipe", "carried")
"""What takes much room in the rows of updates that wait; images are read of those merged."""
ACTIVE_ROUNDS = 2
"""Who was not heard from for so many rounds does not count as active."""
ACTIVE_FIELDS = (
    "volunteer_id",
    "last_steps",
    "volunteer__address_block",
    "accepted",
    "audited",
    "failed",
)
"""Of thousands of volunteers, before every merge: plain values, not objects."""
DEAR_S, PLANNING = 0.05, 0.1
"""Looking for what to merge may take a tenth of a worker's time, where it takes long at all or
updates wait to be checked."""
_looked: dict[str, tuple[float, float]] = {}
"""For each model when it was looked at in vain, and how many seconds that took."""


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
        if not _is_time_to_look(model_id):
            continue
        model = TrainingModel.objects.get(id=model_id)
        if _planned(model, now) is None or (lease := leases.claim_merge(model, now)) is None:
            continue
        # Planned again: another worker may just have merged what was seen before.
        made = plan(model, now)
        if made is None:
            lease.release()
            continue
        with lease.renewed():
            _merge(lease, model, made, now)
        return True
    return False


def _is_time_to_look(model_id: str) -> bool:
    at, took = _looked.get(model_id, (0.0, 0.0))
    if time.monotonic() >= at + took / PLANNING:
        return True
    return took <= DEAR_S and not _is_any_unchecked(model_id)


def _planned(model: TrainingModel, now: datetime) -> Plan | None:
    """Return what to merge now; where it was looked for in vain, not again at once."""
    began = time.thread_time()
    made = plan(model, now)
    if made is None:
        _looked[model.pk] = time.monotonic(), time.thread_time() - began
    return made


def plan(model: TrainingModel, now: datetime) -> Plan | None:
    """Return what to merge now, or none: the oldest updates, just enough to be due.

    Just enough, because a merge moves the weights by one round's work at most: a backlog
    becomes several versions, so that no work in it is cut off.
    """
    rows = Update.objects.filter(model=model, state=CHECKED).select_related("model", "volunteer")
    rows = rows.defer(*UNNEEDED)
    waiting = list(rows.order_by("received_at", "id"))
    if not waiting:
        return None
    choice = cadence.choose(
        [
            Waiting(one.volunteer_id, one.steps, one.late_weight, one.trust, _groups(one.volunteer))
            for one in waiting
        ],
        _active(model, waiting, now),
        waited_rounds=_waited_rounds(model, now),
        rule=modelfiles.rule(model.model_file),
    )
    if choice is None:
        return None
    return Plan(tuple(waiting[: choice.count]), choice.counted_steps, choice.activity)


def _active(model: TrainingModel, waiting: list[Update], now: datetime) -> dict[Hashable, Active]:
    """Return who is active, and the work of each one's last round.

    Active is who was heard from within two rounds before the oldest update that waits: when
    the worker was away, the crowd of that time shares the backlog, as it would have then.
    Who has bytes here that are not checked yet is active too.
    """
    at = min(now, waiting[0].received_at or now)
    rounds = timedelta(seconds=ACTIVE_ROUNDS * timing.round_seconds(model))
    since = at - rounds - participation.late()
    rows = Participation.objects.filter(model=model, last_steps__isnull=False)
    active = rows.filter(heard_at__gte=since).exclude(activity="leaving")
    of_waiting = rows.filter(volunteer_id__in={update.volunteer_id for update in waiting})
    known = (active | of_waiting).order_by("number").values_list(*ACTIVE_FIELDS)
    found: dict[Hashable, Active] = {
        id: Active(steps or 0, trust.weight(Standing(*standing)), (id, block or None))
        for id, steps, block, *standing in known
    }
    received = Update.objects.filter(model=model, state=RECEIVED).select_related("volunteer")
    received = received.defer(*UNNEEDED)
    for update in received.order_by("received_at"):
        newcomer = Active(update.steps, trust.NEW_WEIGHT, _groups(update.volunteer))
        found.setdefault(update.volunteer_id, newcomer)
    return found


def _groups(volunteer: Volunteer) -> tuple[Hashable, ...]:
    """Return what of a volunteer is counted for: the account, and the network it is in."""
    return (volunteer.pk, volunteer.address_block or None)


def _waited_rounds(model: TrainingModel, now: datetime) -> float:
    if _is_any_unchecked(model.pk):
        return 0.0  # those are checked first, and may go along
    waited: timedelta = now - series.newest(model.pk).published_at
    if waited < timedelta():  # the clock was set back: nobody knows, and who waits has waited
        return math.inf
    return waited.total_seconds() / timing.round_seconds(model)


def _is_any_unchecked(model_id: str) -> bool:
    rows = Update.objects.filter(model_id=model_id, state=RECEIVED, examined_at=None)
    return rows.exists()


# -- making the version ----------------------------------------------------------------------


def _merge(lease: Lease, model: TrainingModel, made: Plan, now: datetime) -> None:
    """Make the version; after a failure the lease stays, so that other work goes on first."""
    try:
        with metrics.timed("merge"):
            _publish(lease, model, made, now)
    except Unusable as error:
        services.refuse(error.update, error.reason, now)
    except StateConflict as error:
        log.info("%s: merged again from the start: %s", model.pk, error)
    except StoreAway as error:
        log.warning("%s waits for the store: %s", model.pk, error)
        return
    except (OperationalError, InterfaceError):
        raise  # the database went away, which says nothing of this merge: soon again
    except Exception as error:
        log.exception("%s could not be merged", model.pk)
        _failed(lease, made, error, now)
        return
    alerts.end(model.pk, alerts.MERGE, now)
    leases.release_merge(lease)


def _failed(lease: Lease, made: Plan, error: Exception, now: datetime) -> None:
    """Try again ever more seldom; after three failures look whether one update is the cause."""
    model = made.updates[0].model
    attempts = leases.count_failed_merge(lease, now)
    if attempts < ATTEMPTS:
        return
    culprit = None if isinstance(error, DiskFull) else _culprit(model, made)
    if culprit is not None:
        services.refuse(culprit, "it can't be merged: the server fails over it", now)
        leases.release_merge(lease)
        return
    text = (
        f"no version can be made: {attempts} merges in a row failed, the last because of "
        f"{type(error).__name__}: {error}. It is tried again, ever more seldom; updates are kept"
    )
    alerts.raise_(model.pk, alerts.MERGE, text[:2_000], now)


def _culprit(model: TrainingModel, made: Plan) -> Update | None:
    """Return the update that alone fails as well, where others don't."""
    layout = modelfiles.layout(model.model_file)
    base = series.newest(model.pk)
    failing = []
    alone = [partial(_decoded, update) for update in made.updates]
    for update, contribution in zip(made.updates, _contributions(made, base, alone), strict=True):
        try:
            merging.merge(series.raw(base.master_digest), layout, [contribution], made.activity)
        except StoreAway:
            return None
        except Exception:
            log.exception("%s can't be merged with update %s alone", model.pk, update.pk)
            failing.append(update)
    only = len(made.updates) == 1
    return failing[0] if failing and (only or len(failing) < len(made.updates)) else None


def _publish(lease: Lease, model: TrainingModel, made: Plan, now: datetime) -> None:
    layout = modelfiles.layout(model.model_file)
    base = series.newest(model.pk)
    result, reference, momentum = _merged(model, made, base, layout)
    if not np.isfinite(result.weights).all():
        raise Unusable(_longest(made), "the weights would not stay finite with it")
    version = series.encode_next(model, base, result.weights, layout)
    version.reference_digest, version.momentum_digest = reference, momentum
    _describe(version, base, made, result, now)
    _commit(lease, version, made, result.parts, now)
    log.info("%s: version %d of %d updates", model.pk, version.number, len(made.updates))
    services.tell_merged(made.updates, version)
    decoding.forget(update.pk for update in made.updates)
    services.let_go_of_merged(model.pk)
    series.prune(model)


def _merged(
    model: TrainingModel, made: Plan, base: Version, layout: Layout
) -> tuple[MergeResult, str | None, str | None]:
    """Return the new weights, and what merging remembers by its digests.

    It goes to the disk at once, and the weights before go too: memory is for what comes next.
    """
    with decoding.ahead(made.updates) as changes:
        result = merging.merge(
            series.raw(base.master_digest),
            layout,
            _contributions(
                made,
                base,
                [partial(_usable, *one) for one in zip(made.updates, changes, strict=True)],
            ),
            made.activity,
            rule=modelfiles.rule(model.model_file),
            memory=_remembered(base, layout),
        )
    vectors = (result.memory.reference, result.memory.momentum)
    reference, momentum = (None if one is None else series.put_raw(one) for one in vectors)
    checks.image_of(reference, result.memory.reference, layout)  # while the numbers are at hand
    return replace(result, memory=merging.NOTHING), reference, momentum


def _contributions(
    made: Plan, base: Version, changes: Sequence[Callable[[], Coded]]
) -> list[Contribution]:
    rows = Update.objects.filter(id__in=[update.pk for update in made.updates])
    images = dict(rows.values_list("pk", "sketch"))
    return [
        Contribution(
            change,
            float(update.steps),
            counted,
            update.factor,
            _image(images.get(update.pk)),
            staleness=base.number - update.base_version,
        )
        for update, counted, change in zip(made.updates, made.counted_steps, changes, strict=True)
    ]


def _image(sketch: bytes | None) -> Sketch | None:
    return None if sketch is None else np.frombuffer(sketch, "<f4")


def _remembered(base: Version, layout: Layout) -> Memory:
    """Return what merging remembers since the version; what is lost of it costs little."""
    try:
        reference = series.raw(base.reference_digest) if base.reference_digest else None
        momentum = series.raw(base.momentum_digest) if base.momentum_digest else None
    except Corrupt as error:
        log.warning("%s: merging begins without what it remembered: %s", base, error)
        return merging.NOTHING
    if reference is None:
        return Memory(momentum=momentum)
    # Sketches are linear, so that of the reference need not be kept.
    return Memory(reference, checks.image_of(base.reference_digest, reference, layout), momentum)


def _decoded(update: Update) -> Coded:
    return _usable(update, partial(decoding.decode, update))


def _usable(update: Update, decode: Callable[[], Coded]) -> Coded:
    try:
        return decode()
    except Corrupt as error:
        raise Unusable(update, str(error)) from error


def _longest(made: Plan) -> Update:
    return max(made.updates, key=lambda update: (update.norm or 0.0) * update.factor)


def _describe(
    version: Version, base: Version, made: Plan, result: MergeResult, now: datetime
) -> None:
    version.updates = len(made.updates)
    version.counted_steps = result.counted_steps
    version.gain = result.gain
    version.updates_merged = base.updates_merged + version.updates
    version.records_merged = base.records_merged + _records(made)
    # Never before the version it follows, whatever the clock did.
    version.published_at = max(now, base.published_at)


def _records(made: Plan) -> int:
    """Return the records that count: a claim beyond the cap must not end a training.

    A newcomer's records were trained on, however little they weigh yet.
    """
    return sum(
        min(update.records, round(counted / update.trust * update.model.batch_size))
        for update, counted in zip(made.updates, made.counted_steps, strict=True)
    )


def _commit(
    lease: Lease, version: Version, made: Plan, parts: tuple[float, ...], now: datetime
) -> None:
    """Make the version and flip its updates, in one transaction."""
    model = version.model
    try:
        with transaction.atomic():
            lease.expect(state__in=leases.OPEN)
            version.save(force_insert=True)
            ids = [update.pk for update in made.updates]
            services.mark_merged(dict(zip(ids, parts, strict=True)), version)
            _count_for_volunteers(model, made)
            if model.records_wanted is not None and version.records_merged >= model.records_wanted:
                services.finish(model.pk, now)
    except IntegrityError as error:
        raise StateConflict(f"{version} was made by another worker") from error


def _count_for_volunteers(model: TrainingModel, made: Plan) -> None:
    counts = Counter(update.volunteer_id for update in made.updates)
    for count in set(counts.values()):
        ids = [id for id, updates in counts.items() if updates == count]
        rows = Participation.objects.filter(model=model, volunteer_id__in=ids)
        rows.update(updates_merged=F("updates_merged") + count)
