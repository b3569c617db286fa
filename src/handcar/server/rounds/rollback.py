"""Going back: the series goes on, with a version whose weights are those of an earlier one.

Nothing that was published is taken away. Version newest + 1 leads back to the last good one,
the versions between are undone, and what was merged in them is received again, to be looked at;
all in one transaction, so nothing counts twice. Volunteers just follow.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import OuterRef, Q, QuerySet, Subquery

from handcar.errors import Corrupt, StateConflict
from handcar.merging import watch
from handcar.protocol import problems
from handcar.server import wake
from handcar.server.catalog import modelfiles
from handcar.server.catalog.models import TrainingModel
from handcar.server.problems import Refusal
from handcar.server.rounds import alerts, leases, series, services
from handcar.server.rounds.leases import OPEN, Lease
from handcar.server.rounds.models import Version
from handcar.wire.layout import Flat

log = logging.getLogger(__name__)

STEP = 1 / 8
"""k of the delta that leads back: after a bad version, what a coarse one rounds off is bad too."""
AUTOMATIC_MOST = 3
"""So many times in so many versions the watch goes back by itself; then people must look."""
AUTOMATIC_IN = 30
MEASURED_LATELY = timedelta(hours=1)
"""Looked at so long, each second: who was found well then is well until it is measured again."""


# -- by hand ---------------------------------------------------------------------------------


def ask(model: TrainingModel, number: int | None) -> int:
    """Note that the owner wants to go back; the worker does it. Return the version meant."""
    if model.state not in OPEN:
        raise StateConflict(f"{model.pk} is {model.state}: only what is trained can go back")
    target = _before_newest(model) if number is None else _version(model, number)
    back_to: int = target.number
    _expect_possible(model, target)
    TrainingModel.objects.filter(id=model.pk).update(rollback_wanted=back_to)
    wake.workers()
    return back_to


def _version(model: TrainingModel, number: int) -> Version:
    version = Version.objects.filter(model=model, number=number).first()
    if version is None:
        raise Refusal(problems.NOT_FOUND, f"{model.pk} has no version {number}")
    return version


def _before_newest(model: TrainingModel) -> Version:
    """Return the version whose weights the newest one's were made from."""
    newest = series.newest(model.pk)
    same_as = newest.number if newest.rolled_back_to is None else newest.rolled_back_to
    before = _live(model).filter(number__lt=same_as).order_by("-number").first()
    if before is None:
        raise Refusal(problems.CONFLICT, f"{model.pk} has no version before this one")
    return before


def _expect_possible(model: TrainingModel, target: Version) -> None:
    if target.number == series.newest_number(model.pk):
        raise Refusal(
            problems.CONFLICT, f"version {target.number} is the newest: name an older one"
        )
    if target.undone:
        raise Refusal(
            problems.CONFLICT,
            f"version {target.number} was undone, and the work in it is merged anew: "
            f"name one that counts",
        )
    if not series.can_be_reached(model, target):
        raise Refusal(
            problems.GONE, f"the frames that lead to version {target.number} are no longer kept"
        )


# -- by the worker ---------------------------------------------------------------------------


def roll_back_one(now: datetime) -> bool:
    """Take one model back, as its owner asked or because it got worse; say if there was one."""
    for model in _to_look_at(now):
        if _target(model, now) is None or (lease := leases.claim_merge(model, now)) is None:
            continue
        # Looked at again: another worker may just have gone back.
        model.refresh_from_db()
        target = _target(model, now)
        if target is None:
            lease.release()
            continue
        with lease.renewed():
            _guarded(lease, model, target, now)
        return True
    return False


def _to_look_at(now: datetime) -> QuerySet[TrainingModel]:
    """Return the models whose owner asked, and those that were measured lately."""
    measured = Version.objects.filter(model=OuterRef("pk"), evaluated_at__isnull=False)
    last = measured.order_by("-number").values("evaluated_at")[:1]
    models = TrainingModel.objects.filter(state__in=OPEN).annotate(measured_at=Subquery(last))
    return models.filter(
        Q(rollback_wanted__isnull=False) | Q(measured_at__gte=now - MEASURED_LATELY)
    )


def _target(model: TrainingModel, now: datetime) -> Version | None:
    return _asked(model) or _worse(model, now)


def _guarded(lease: Lease, model: TrainingModel, target: Version, now: datetime) -> None:
    try:
        _roll_back(lease, model, target, now)
    except StateConflict as error:
        log.info("%s: taken back from the start: %s", model.pk, error)
    except Exception as error:
        log.exception("%s could not go back to version %d", model.pk, target.number)
        leases.count_failed_merge(lease, now)
        text = f"it could not go back to version {target.number}: {error}; it is tried again"
        alerts.raise_(model.pk, alerts.MERGE, text[:2_000], now)
        return
    leases.release_merge(lease)


def _asked(model: TrainingModel) -> Version | None:
    if model.rollback_wanted is None:
        return None
    target = Version.objects.get(model=model, number=model.rollback_wanted)
    try:
        _expect_possible(model, target)
    except Refusal as refusal:
        log.warning("%s: not taken back after all: %s", model.pk, refusal)
        TrainingModel.objects.filter(id=model.pk).update(rollback_wanted=None)
        return None
    return target


def _worse(model: TrainingModel, now: datetime) -> Version | None:
    """Return the last good version when what was measured last is worse beyond noise."""
    measured = _live(model).filter(evaluated_at__isnull=False).order_by("-number")
    rows = list(measured[: watch.LOOKED_AT + 1])
    if not rows or rows[0].rolled_back_to is not None:
        return None
    last, before = rows[0], rows[1:]
    losses = [row.loss for row in reversed(before) if row.loss is not None]
    if not losses or not watch.is_worse(last.loss, losses):
        return None
    good = next((row for row in before if series.can_be_reached(model, row)), None)
    if good is None or _too_often(model):
        text = (
            f"version {last.number} is worse on held-out records (loss {last.loss}), and is kept: "
            "going back did not help, or nothing to go back to is kept. Look at the data, and at "
            "the learning rate; `handcar rollback` goes back by hand"
        )
        alerts.raise_(model.pk, alerts.ROLLBACK, text, now)
        return None
    return good


def _too_often(model: TrainingModel) -> bool:
    recent = Version.objects.filter(
        model=model, number__gt=series.newest_number(model.pk) - AUTOMATIC_IN
    )
    return recent.filter(rolled_back_to__isnull=False).count() >= AUTOMATIC_MOST


def _roll_back(lease: Lease, model: TrainingModel, target: Version, now: datetime) -> None:
    layout = modelfiles.layout(model.model_file)
    base = series.newest(model.pk)
    version = series.encode_next(model, base, _weights(model, target), layout, k=STEP)
    version.rolled_back_to = target.number
    version.records_merged = target.records_merged
    version.updates_merged = target.updates_merged
    version.reference_digest = target.reference_digest
    version.momentum_digest = target.momentum_digest
    version.published_at = max(now, base.published_at)
    try:
        back = _commit(lease, version, target, now)
    except IntegrityError as error:
        raise StateConflict(f"{version} was made by another worker") from error
    log.info("%s: %d updates are looked at again", model.pk, back)
    services.let_go_of_merged(model.pk)
    series.prune(model)


def _weights(model: TrainingModel, target: Version) -> Flat:
    """Return the exact weights of a version; where they are gone, those that were published."""
    if target.master_digest is not None:
        try:
            return series.raw(target.master_digest)
        except Corrupt:
            log.warning("%s: its exact weights are damaged; the published ones do", target)
    return series.weights_of(model, target)


def _commit(lease: Lease, version: Version, target: Version, now: datetime) -> int:
    model = version.model
    undone = Version.objects.filter(
        model=model, number__gt=target.number, number__lt=version.number, undone=False
    )
    here = services.kept(undone)
    with transaction.atomic():
        lease.expect(state__in=OPEN)
        version.save(force_insert=True)
        back = services.reopen(undone, here)
        undone.update(undone=True)
        TrainingModel.objects.filter(id=model.pk).update(rollback_wanted=None)
        why = (
            "its owner asked for it"
            if model.rollback_wanted is not None
            else ("what came after it was worse on records that no volunteer sees")
        )
        text = (
            f"version {version.number} goes back to version {target.number}: {why}; "
            f"{back} updates are looked at again"
        )
        alerts.note(model.pk, alerts.ROLLBACK, text, now)
    return back


def _live(model: TrainingModel) -> QuerySet[Version]:
    return Version.objects.filter(model=model, undone=False)
