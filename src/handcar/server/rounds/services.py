"""The life of an update. Every arrow is one function here, one transaction, with a guard.

announced -> received (durable, acknowledged) -> checked -> merged (version v)
          |                                   \\-> refused (reason)
          \\-> expired (never completed)        checked -> refused when the training ends
                                             merged -> received when its version is undone
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from uuid import UUID

import numpy as np
from django.db import IntegrityError, connection, transaction
from django.db.models import F, Max, QuerySet
from numpy.typing import NDArray

from handcar.errors import StateConflict
from handcar.merging import direction, filters, gate, trust
from handcar.merging.sketch import SIZE
from handcar.protocol import limits, problems
from handcar.protocol.messages import UpdateAnnouncement, UpdateState, UpdateStatus
from handcar.server import blobs, direct, logs, uploads, wake
from handcar.server.accounts.models import Volunteer
from handcar.server.catalog import services as catalog
from handcar.server.catalog.models import TrainingModel
from handcar.server.problems import Refusal
from handcar.server.rounds import leases, participation, pressure, series, timing
from handcar.server.rounds.leases import Lease
from handcar.server.rounds.models import (
    ACCEPTED,
    ANNOUNCED,
    CHECKED,
    EXPIRED,
    MERGED,
    OPEN_AUDIT,
    PASSED,
    RECEIVED,
    REFUSED,
    SKIPPED,
    UNFINISHED,
    WANTED,
    Audit,
    Participation,
    Update,
    Version,
)
from handcar.server.uploads import Upload

log = logging.getLogger(__name__)

ATTEMPTS = 3
MERGED_KEPT = 10
"""So many versions back what was merged can be looked at again: its bytes are kept."""
TRAINING_OVER = "training has finished"
FRAME_BYTES_A_WEIGHT = 5
FRAME_BYTES_BESIDE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Examined:
    """What looking at an update's numbers told, and what is still to be looked at."""

    norm: float
    factor: float
    late_weight: float
    cosine: float | None
    sketch: bytes | None
    objection: str = ""
    gate_wanted: bool = False
    audit: str = ""


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
    pressure.expect_room(model, now)
    if not blobs.room_for(facts.size):
        raise Refusal(problems.SERVER_FULL, "the server is short of disk: try again later")
    try:
        with transaction.atomic():
            return _note(volunteer, model, facts, now)
    except IntegrityError:  # the same request, sent twice, came in twice at once
        return _expect_same(Update.objects.get(id=facts.id), volunteer, facts)


def _note(
    volunteer: Volunteer, model: TrainingModel, facts: UpdateAnnouncement, now: datetime
) -> Update:
    if (known := Update.objects.filter(id=facts.id).first()) is not None:
        return _expect_same(known, volunteer, facts)
    participation.enter(volunteer, model.pk, now)  # and holds its row: it is counted one by one
    _expect_few_pending(volunteer)
    row = facts.model_dump(exclude={"model_id", "carried", "recipe"})
    plain = facts.model_dump(mode="json", include={"carried", "recipe"})
    update = Update.objects.create(
        **row,
        **plain,
        volunteer=volunteer,
        model=model,
        announced_at=now,
        request_id=logs.request_id(),
    )
    _tell(update, "announced by volunteer %s, %d bytes", volunteer.pk, update.size)
    return update


def _tell(update: Update, text: str, *values: object) -> None:
    """Log what became of an update, under the id of the request that announced it."""
    told = {"request_id": update.request_id}
    log.info(f"update %s of %s: {text}", update.pk, update.model_id, *values, extra=told)


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
    numbers = {start.base_version for start in facts.starts()}
    versions = {one.number: one for one in Version.objects.filter(model=model, number__in=numbers)}
    if unknown := numbers - versions.keys():
        raise Refusal(problems.CONFLICT, f"{model.pk} has no version {min(unknown)} to start from")
    oldest = min(numbers)
    # Else who hides something could begin where nobody can look.
    if len(numbers) > 1 and not series.can_be_reached(model, versions[oldest]):
        raise Refusal(
            problems.GONE,
            f"it was begun at version {oldest}, which is no longer kept: too late to count",
        )
    if timing.late_weight(model, facts.base_version, now, seconds=facts.seconds) == 0.0:
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
    if update.state == ANNOUNCED and blobs.known_size(update.sha256) == update.size:
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
        participation.rows_of(update).update(heard_at=now)
        TrainingModel.objects.filter(id=update.model_id).update(
            updates_received=F("updates_received") + 1,
            bytes_received=F("bytes_received") + update.size,
        )
        wake.workers()
    _tell(update, "received")


def settle_direct(update: Update, now: datetime) -> Update:
    """Mark an update received whose bytes are all in the bucket, and right. Raises StoreAway.

    Those that came whole through the server, while the store was away, go there first.
    """
    upload = upload_of(update)
    if update.state != ANNOUNCED:
        return update
    if uploads.is_whole(upload):
        complete = uploads.receive(upload, upload.size, ()) == upload.size
    else:
        complete = direct.complete(upload)
    if complete:
        receive(update, now)
        direct.done(upload)
        update.refresh_from_db()
    return update


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


def claim_received(now: datetime) -> Lease | None:
    """Take a received update that nobody looked at yet; its attempts count up.

    The oldest of those tried least, so that what a worker died of stands behind all others.
    """
    rows = Update.objects.filter(state=RECEIVED, examined_at=None)
    rows = rows.order_by("attempts", "received_at", "id")
    free = rows.filter(leases.free("leased_until", now)).select_related("model")
    while (update := free.first()) is not None:
        lease = leases.take(update, "leased_until", now, rows, attempts=F("attempts") + 1)
        if lease is not None:
            return lease
    return None


def uncount(update: Update) -> None:
    """Take back an attempt that failed through no fault of the update's; its lease stays."""
    Update.objects.filter(id=update.pk, attempts__gt=0).update(attempts=F("attempts") - 1)


def note_examined(update: Update, found: Examined, now: datetime) -> None:
    """Keep what looking at an update's numbers told; it stays received."""
    with transaction.atomic():
        rows = Update.objects.filter(id=update.pk, state=RECEIVED, examined_at=None)
        if rows.update(examined_at=now, attempts=0, leased_until=None, **asdict(found)) != 1:
            raise StateConflict(f"update {update.pk} was no longer to be examined")
        if found.cosine is not None:
            _follow(update, found.cosine)
    update.refresh_from_db()
    _tell(update, "looked at, norm %.3g", found.norm)


def _follow(update: Update, cosine: float) -> None:
    row = participation.held(update)
    row.directions += 1
    row.direction = direction.follow(row.direction, cosine, row.directions)
    row.save(update_fields=("direction", "directions"))


def accept(update: Update, now: datetime) -> None:
    """received -> checked; its volunteer's standing grows, unless it hides how it was made."""
    hides = update.audit == SKIPPED and update.recipe is None
    with transaction.atomic():
        rows = Update.objects.filter(id=update.pk, state=RECEIVED)
        if rows.update(state=CHECKED, checked_at=now) != 1:
            raise StateConflict(f"update {update.pk} was no longer received")
        standing = participation.held(update).standing()
        Update.objects.filter(id=update.pk).update(trust=trust.weight(standing))
        participation.rows_of(update).update(
            last_steps=update.steps, accepted=F("accepted") + (0 if hides else 1)
        )
        wake.workers()
    _tell(update, "checked")


def note_audit(update: Update, outcome: str) -> None:
    """Keep how an audit went."""
    with transaction.atomic():
        if Update.objects.filter(id=update.pk, state=RECEIVED).update(audit=outcome) != 1:
            raise StateConflict(f"update {update.pk} was no longer received")
        if outcome == PASSED:
            participation.rows_of(update).update(audited=F("audited") + 1)
    update.audit = outcome


def distrust(update: Update) -> None:
    """Let the volunteer of an update that failed its audit begin anew."""
    distrust_volunteer(update.volunteer_id, update.model_id)


def distrust_volunteer(volunteer_id: UUID, model_id: str) -> None:
    """Let a volunteer begin anew whose word was wrong."""
    rows = Participation.objects.filter(volunteer_id=volunteer_id, model_id=model_id)
    rows.update(accepted=0, audited=0, failed=F("failed") + 1)


def refuse(update: Update, reason: str, now: datetime) -> None:
    """received or checked -> refused, with a reason for a person; then its bytes go."""
    with transaction.atomic():
        rows = Update.objects.filter(id=update.pk, state__in=(RECEIVED, CHECKED))
        if rows.update(state=REFUSED, reason=reason, checked_at=now) != 1:
            raise StateConflict(f"update {update.pk} was neither received nor checked")
        participation.rows_of(update).update(refused=F("refused") + 1)
        _count_refused(update.model_id, 1)
    _tell(update, "refused: %s", reason)
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
        direct.forget(upload_of(old))
        _tell(old, "expired")
    return True


def mark_merged(parts: Mapping[UUID, float], version: Version) -> None:
    """checked -> merged, all or none: called inside the transaction that makes the version.

    `parts` are those of the updates' images in what merging remembers.
    """
    rows = Update.objects.filter(id__in=list(parts), state=CHECKED)
    changed = rows.update(state=MERGED, version=version)
    if changed != len(parts):
        lost = len(parts) - changed
        raise StateConflict(f"{lost} of {len(parts)} updates were no longer checked")
    # All others who write wait meanwhile: thousands of parts in one statement, not one each.
    key, table = Update._meta.pk, connection.ops.quote_name(Update._meta.db_table)
    with connection.cursor() as cursor:
        cursor.executemany(
            f"UPDATE {table} SET part = %s WHERE id = %s",  # noqa: S608 - our own name
            [(part, key.get_db_prep_value(id, connection)) for id, part in parts.items()],
        )


def tell_merged(updates: Iterable[Update], version: Version) -> None:
    """Log which version each update landed in."""
    for update in updates:
        _tell(update, "merged in version %d", version.number)


def kept(versions: QuerySet[Version]) -> set[str]:
    """Return the digests, of what was merged in some versions, whose bytes are still kept."""
    rows = Update.objects.filter(version__in=versions, state=MERGED)
    return set(blobs.sizes(rows.values_list("sha256", flat=True)))


def reopen(versions: QuerySet[Version], here: Collection[str]) -> int:
    """merged -> received, for what is in versions that are undone; return how many.

    Called inside the transaction that undoes them. Such an update is looked at again, and
    audited; it counts once, in the version that it is merged in next. One whose bytes are not
    `here`, as `kept` told before, stays where it is, in a version that is undone.
    """
    rows = list(Update.objects.filter(version__in=versions, state=MERGED))
    back = [row for row in rows if row.sha256 in here]
    Update.objects.filter(id__in=[row.pk for row in back], state=MERGED).update(
        state=RECEIVED,
        version=None,
        attempts=0,
        leased_until=None,
        examined_at=None,
        sketch=None,
        part=None,
        gate_wanted=False,
        rise=None,
        objection="",
        audit=WANTED,
        undone=F("undone") + 1,
    )
    for row in rows:
        Participation.objects.filter(volunteer_id=row.volunteer_id, model_id=row.model_id).update(
            updates_merged=F("updates_merged") - 1
        )
    for row in back:
        Participation.objects.filter(
            volunteer_id=row.volunteer_id, model_id=row.model_id, accepted__gt=0
        ).update(accepted=F("accepted") - 1)
    return len(back)


def finish(model_id: str, now: datetime) -> None:
    """pending or paused -> finished; what is not merged by then is refused."""
    with transaction.atomic():
        # Updates first, as whatever else changes both does, so that none waits for the other.
        left = Update.objects.filter(model_id=model_id, state__in=UNFINISHED)
        count = left.update(state=REFUSED, reason=TRAINING_OVER, checked_at=now)
        catalog.move(model_id, "finished")
        _count_refused(model_id, count)


def _count_refused(model_id: str, count: int) -> None:
    rows = TrainingModel.objects.filter(id=model_id)
    rows.update(updates_refused=F("updates_refused") + count)


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
    wake.workers()


def remove_bytes(digests: Iterable[str]) -> None:
    """Let go of updates' bytes, unless another update that still counts has the same."""
    for digest in set(digests):
        if not is_named(digest):
            blobs.remove(digest)


def is_named(digest: str) -> bool:
    """Say whether an update needs these bytes: to be merged, taken out again, or audited."""
    rows = Update.objects.filter(sha256=digest)
    if rows.filter(state__in=UNFINISHED).exists():
        return True
    merged = rows.filter(state=MERGED).values_list("model_id", "version__number")
    if any(number > oldest_merged(model_id) for model_id, number in merged):
        return True
    audits = Audit.objects.filter(state__in=OPEN_AUDIT).values_list("needs", flat=True)
    needed = {id for needs in audits for id in needs}
    return bool(needed) and rows.filter(id__in=needed).exists()


def oldest_merged(model_id: str) -> int:
    """Return the version up to which merged updates' bytes have been let go."""
    newest = Version.objects.filter(model_id=model_id).aggregate(newest=Max("number"))["newest"]
    return (newest or 0) - MERGED_KEPT


def let_go_of_merged(model_id: str) -> None:
    """Remove the bytes of updates that are too long merged to be looked at again."""
    oldest = oldest_merged(model_id)
    since = oldest - MERGED_KEPT - 1  # those before went when their versions' turn came
    rows = Update.objects.filter(
        model_id=model_id, version__number__lte=oldest, version__number__gt=since
    )
    remove_bytes(rows.values_list("sha256", flat=True))


def last_norms(model: TrainingModel) -> list[float]:
    """Return the norms of the last updates that were examined, refused ones too, oldest first."""
    rows = Update.objects.filter(model=model, examined_at__isnull=False, norm__gt=0.0)
    newest = rows.order_by("-examined_at").values_list("norm", flat=True)
    return list(newest[: filters.NORMS_KEPT])[::-1]


def last_rises(model: TrainingModel) -> list[float]:
    """Return by how much the last accepted updates let the held-out loss rise, oldest first."""
    return _last_accepted(model, "rise", gate.LOOKED_AT)


def _last_accepted(model: TrainingModel, field: str, count: int) -> list[float]:
    rows = Update.objects.filter(model=model, state__in=ACCEPTED, **{f"{field}__isnull": False})
    return list(rows.order_by("-checked_at").values_list(field, flat=True)[:count])[::-1]


def last_sketches(update: Update) -> NDArray[np.float32]:
    """Return the images of the last other updates that counted or may, of shape (count, 1024)."""
    rows = Update.objects.filter(
        model_id=update.model_id, state__in=(RECEIVED, *ACCEPTED), sketch__isnull=False
    )
    newest = rows.exclude(id=update.pk).order_by("-examined_at").values_list("sketch", flat=True)
    images = [np.frombuffer(image, "<f4") for image in newest[: filters.SKETCHES_KEPT]]
    return np.array(images[::-1], np.float32).reshape(len(images), SIZE)
