"""The life of an update. Every arrow is one function here, one transaction, with a guard.

announced -> received (durable, acknowledged) -> checked -> merged (version v)
          |                                   \\-> refused (reason)
          \\-> expired (never completed)        checked -> refused when the training ends
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q

from handcar.errors import StateConflict
from handcar.protocol import limits, problems
from handcar.protocol.messages import UpdateAnnouncement, UpdateState, UpdateStatus
from handcar.server import blobs, uploads
from handcar.server.accounts.models import Volunteer
from handcar.server.catalog import services as catalog
from handcar.server.catalog.models import TrainingModel
from handcar.server.problems import Refusal
from handcar.server.rounds import participation, timing
from handcar.server.rounds.models import (
    ACCEPTED,
    ANNOUNCED,
    CHECKED,
    EXPIRED,
    MERGED,
    RECEIVED,
    REFUSED,
    UNFINISHED,
    Participation,
    Update,
    Version,
)
from handcar.server.uploads import Upload

LEASE = timedelta(seconds=30)
"""For so long nobody else takes up what one worker has begun."""
ATTEMPTS = 3
TRAINING_OVER = "training has finished"
FRAME_BYTES_A_WEIGHT = 5
FRAME_BYTES_BESIDE = 64 * 1024


# -- announced -------------------------------------------------------------------------------


def announce(volunteer: Volunteer, facts: UpdateAnnouncement, now: datetime) -> Update:
    """Take note of an update, or say why its bytes need not be sent. Repeating is harmless."""
    if (known := Update.objects.filter(id=facts.id).first()) is not None:
        return _expect_same(known, volunteer, facts)
    model = TrainingModel.objects.filter(id=facts.model_id).first()
    if model is None:
        raise catalog.no_model(facts.model_id)
    _expect_open(model)
    _expect_plausible(model, facts)
    _expect_fresh(model, facts, now)
    if not blobs.room_for(facts.size):
        raise Refusal(problems.SERVER_FULL, "the server is short of disk: try again later")
    with transaction.atomic():
        return _note(volunteer, model, facts, now)


def _note(
    volunteer: Volunteer, model: TrainingModel, facts: UpdateAnnouncement, now: datetime
) -> Update:
    if (known := Update.objects.filter(id=facts.id).first()) is not None:
        return _expect_same(known, volunteer, facts)
    _expect_few_pending(volunteer)
    participation.touch(volunteer, model, now)
    row = facts.model_dump(exclude={"model_id", "carried"})
    carried = [str(id) for id in facts.carried]
    return Update.objects.create(
        **row, carried=carried, volunteer=volunteer, model=model, announced_at=now
    )


def _expect_same(known: Update, volunteer: Volunteer, facts: UpdateAnnouncement) -> Update:
    if known.volunteer_id != volunteer.pk or known.announcement() != facts:
        raise Refusal(
            problems.CONFLICT, f"another update is known as {facts.id}: give this one a new id"
        )
    return known


def _expect_open(model: TrainingModel) -> None:
    if model.state not in ("pending", "paused"):  # what was trained before a pause counts
        raise Refusal(problems.GONE, f"{model.pk} is {model.state} and takes no updates now")


def _expect_plausible(model: TrainingModel, facts: UpdateAnnouncement) -> None:
    most = FRAME_BYTES_A_WEIGHT * model.weights + FRAME_BYTES_BESIDE
    if facts.size > most:
        raise Refusal(
            problems.TOO_LARGE,
            f"an update of {model.pk} has at most {most} bytes, not {facts.size}",
        )
    if facts.steps > max(1.0, facts.seconds * limits.STEPS_A_SECOND):
        raise Refusal(
            problems.BAD_REQUEST, f"{facts.steps} steps in {facts.seconds:g} s are not plausible"
        )
    if facts.records > facts.steps * model.batch_size:
        raise Refusal(
            problems.BAD_REQUEST,
            f"{facts.steps} steps take at most {facts.steps * model.batch_size} records, "
            f"not {facts.records}",
        )


def _expect_fresh(model: TrainingModel, facts: UpdateAnnouncement, now: datetime) -> None:
    if not Version.objects.filter(model=model, number=facts.base_version).exists():
        raise Refusal(
            problems.CONFLICT, f"{model.pk} has no version {facts.base_version} to start from"
        )
    if timing.late_weight(model, facts.base_version, now) == 0.0:
        raise Refusal(problems.GONE, timing.too_late_text(facts.base_version))


def _expect_few_pending(volunteer: Volunteer) -> None:
    pending = Update.objects.filter(volunteer=volunteer, state__in=UNFINISHED).count()
    if pending >= limits.PENDING_UPDATES:
        raise Refusal(
            problems.TOO_MANY,
            f"{pending} of your updates are not merged yet: keep this one and send it later",
            headers={"Retry-After": str(int(limits.RETRY_FIRST_S))},
        )


# -- received --------------------------------------------------------------------------------


def find(volunteer: Volunteer, id: UUID) -> Update:
    """Return an update of this volunteer; another's does not exist for it."""
    update = Update.objects.filter(id=id, volunteer=volunteer).first()
    if update is None:
        raise Refusal(problems.NOT_FOUND, f"no update of yours is known as {id}")
    return update


def upload_of(update: Update) -> Upload:
    """Return where the bytes of an update gather."""
    return Upload(key=f"update-{update.pk}", size=update.size, digest=update.sha256)


def settle(update: Update, now: datetime) -> Update:
    """Mark an update received whose bytes are all here; a crash between the two is mended so."""
    if update.state == ANNOUNCED and blobs.size(update.sha256) == update.size:
        receive(update, now)
        update.refresh_from_db()
    return update


def receive(update: Update, now: datetime) -> None:
    """announced -> received: from here on the update is never lost."""
    with transaction.atomic():
        rows = Update.objects.filter(id=update.pk, state=ANNOUNCED)
        if rows.update(state=RECEIVED, received_at=now) != 1:
            return
        Volunteer.objects.filter(id=update.volunteer_id).update(
            bytes_up=F("bytes_up") + update.size
        )
        Participation.objects.filter(
            volunteer_id=update.volunteer_id, model_id=update.model_id
        ).update(heard_at=now)


def status(update: Update, upload_url: str | None = None) -> UpdateStatus:
    """Return where an update is in its life."""
    announced = update.state == ANNOUNCED
    state: UpdateState = update.state
    return UpdateStatus(
        id=update.pk,
        state=state,
        offset=uploads.offset(upload_of(update)) if announced else update.size,
        upload_url=upload_url if announced else None,
        version=update.version.number if update.version else None,
        reason=update.reason,
    )


# -- checked, refused, expired, merged -------------------------------------------------------


def claim_received(now: datetime) -> Update | None:
    """Take the oldest received update that nobody works on; its attempts count up."""
    free = Q(leased_until__isnull=True) | Q(leased_until__lt=now)
    rows = Update.objects.filter(free, state=RECEIVED)
    update = rows.select_related("model").order_by("received_at", "id").first()
    if update is None:
        return None
    taken = rows.filter(id=update.pk).update(leased_until=now + LEASE, attempts=F("attempts") + 1)
    return update if taken == 1 else None


def accept(
    update: Update, *, norm: float, factor: float, late_weight: float, now: datetime
) -> None:
    """received -> checked."""
    with transaction.atomic():
        rows = Update.objects.filter(id=update.pk, state=RECEIVED)
        changed = rows.update(
            state=CHECKED, checked_at=now, norm=norm, factor=factor, late_weight=late_weight
        )
        if changed != 1:
            raise StateConflict(f"update {update.pk} was no longer received")
        Participation.objects.filter(
            volunteer_id=update.volunteer_id, model_id=update.model_id
        ).update(last_steps=update.steps)


def refuse(update: Update, reason: str, now: datetime) -> None:
    """received or checked -> refused, with a reason for a person; then its bytes go."""
    rows = Update.objects.filter(id=update.pk, state__in=(RECEIVED, CHECKED))
    if rows.update(state=REFUSED, reason=reason, checked_at=now) != 1:
        raise StateConflict(f"update {update.pk} was neither received nor checked")
    remove_bytes([update.sha256])


def expire(now: datetime) -> bool:
    """announced -> expired, for those whose bytes did not come in time; say if there was one."""
    before = now - timedelta(seconds=limits.UPLOAD_EXPIRES_S)
    old = Update.objects.filter(state=ANNOUNCED, announced_at__lt=before).first()
    if old is None:
        return False
    reason = f"its bytes did not all come within {limits.UPLOAD_EXPIRES_S / 3600:g} hours"
    rows = Update.objects.filter(id=old.pk, state=ANNOUNCED)
    if rows.update(state=EXPIRED, reason=reason) == 1:
        uploads.forget(upload_of(old))
    return True


def mark_merged(ids: list[UUID], version: Version) -> None:
    """checked -> merged, all or none: called inside the transaction that makes the version."""
    rows = Update.objects.filter(id__in=ids, state=CHECKED)
    changed = rows.update(state=MERGED, version=version)
    if changed != len(ids):
        raise StateConflict(f"{len(ids) - changed} of {len(ids)} updates were no longer checked")


def finish(model_id: str, now: datetime) -> None:
    """pending or paused -> finished; what is not merged by then is refused."""
    with transaction.atomic():
        catalog.move(model_id, "finished")
        Update.objects.filter(model_id=model_id, state__in=UNFINISHED).update(
            state=REFUSED, reason=TRAINING_OVER, checked_at=now
        )


def change_state(model_id: str, state: str, now: datetime) -> None:
    """Do what a model's owner asks: pause, go on, finish. Asking twice is harmless."""
    if TrainingModel.objects.filter(id=model_id, state=state).exists():
        return
    if state == "finished":
        finish(model_id, now)
        return
    if state == "pending" and not Version.objects.filter(model_id=model_id).exists():
        raise StateConflict(f"{model_id} is still being prepared; it starts by itself")
    catalog.move(model_id, state)


def remove_bytes(digests: Iterable[str]) -> None:
    """Let go of updates' bytes, unless another update that still counts has the same."""
    for digest in set(digests):
        if not Update.objects.filter(sha256=digest, state__in=UNFINISHED).exists():
            blobs.remove(digest)


def last_norms(model: TrainingModel, count: int) -> list[float]:
    """Return the norms of the last accepted updates, oldest first."""
    rows = Update.objects.filter(model=model, state__in=ACCEPTED, norm__isnull=False)
    newest = rows.order_by("-checked_at").values_list("norm", flat=True)[:count]
    return [norm for norm in reversed(newest) if norm is not None]


def release_leases() -> None:
    """Forget who works on what: for a server that starts, whose worker was killed."""
    Update.objects.filter(leased_until__isnull=False).update(leased_until=None)
    TrainingModel.objects.filter(merge_leased_until__isnull=False).update(merge_leased_until=None)
