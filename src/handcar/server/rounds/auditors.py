"""Who trains a round again, of those for which the evaluator has no time: trusted volunteers.

drawn by lot -> answered -> looked at (`verdicts`)
   |-> unable (it lacks what it takes, and says what)
   \\-> expired (it never answered)

No update waits for this: the work counts as what was not audited does, and what is found
changes what its volunteer counts from then on. docs/decisions/0020-audits-by-volunteers.md
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
from django.db import IntegrityError, transaction
from django.db.models import Count, Q, QuerySet

from handcar.errors import Corrupt, RecipeError, StateConflict
from handcar.files import MB
from handcar.merging import trust
from handcar.merging.sketch import SIZE
from handcar.protocol import problems
from handcar.protocol.messages import AuditAnswer, AuditTask, Recipe, SentUpdate, Start
from handcar.server import blobs, wake
from handcar.server.accounts.models import Volunteer
from handcar.server.memory import Kept
from handcar.server.problems import Refusal
from handcar.server.rounds import participation, series, services
from handcar.server.rounds.models import (
    ANSWERED,
    DONE_AUDIT,
    DRAWN,
    EXPIRED,
    OPEN_AUDIT,
    UNABLE,
    UNFINISHED,
    UNSETTLED,
    Audit,
    Participation,
    Update,
)

LEASE = timedelta(minutes=10)
"""For so long an answer is waited for; frames that are no longer listed are kept for longer."""
SETTLED = timedelta(minutes=20)
"""What was answered and could not be looked at for so long after is let go."""
SHARE = 0.03
"""Of a volunteer's time, at most; and one audit at a time."""
BEGIN_S = 10.0
"""To fetch what it takes, beside the steps themselves."""
LONGEST_S = 120.0
SENT_BYTES = 64 * MB
"""Updates' bytes that an audit may take."""
MEMORY_BYTES = 1_000 * MB
FACTOR_MOST = 2.0
"""As `pace.rate_factor` gives at most."""
OFFERED_S = 1.0
"""Who was drawn is looked up so often."""
AMONG = 1_000
"""The lot is drawn among so many of those heard from last."""

_offers: Kept[dict[UUID, UUID]] = Kept(OFFERED_S)


# -- drawn -----------------------------------------------------------------------------------


def draw(update: Update, now: datetime) -> Audit | None:
    """Draw by lot who trains a round again; none when there is nobody who can.

    It is nobody's choice: who is drawn does not know before, and can't be of the network that
    the update came from.
    """
    if update.recipe is None or not update.volunteer.address_block or _is_audited(update):
        return None
    told = _told(update)
    if not told or not all(map(_is_plausible, told)):
        return None
    steps = sum(one.steps for one in told)
    rows = list(_able(update, steps, now).order_by("-heard_at")[:AMONG])
    if not rows:
        return None
    others = _others(told)
    if not _is_small(update, told, others):
        return None
    needs = [str(id) for id in {update.pk: None, **others}]
    try:
        return _drawn(update, secrets.choice(rows), steps, needs, now)
    except IntegrityError:  # another process has drawn for it
        return None


def _is_audited(update: Update) -> bool:
    """Say whether somebody trains a round of this volunteer again already: one at a time."""
    rows = Audit.objects.filter(model_id=update.model_id, state__in=OPEN_AUDIT)
    return bool(rows.filter(update__volunteer_id=update.volunteer_id).exists())


def _told(update: Update) -> list[Update]:
    """Return the rounds to be trained, the one in question last; none if one is not known."""
    return _own(update, [*Recipe.model_validate(update.recipe).after, update.pk])


def expect_plausible(update: Update, recipe: Recipe) -> None:
    """Refuse a recipe of other work than was announced. Raises RecipeError."""
    steps = sum(drawn.steps for drawn in recipe.drawn)
    if steps != update.steps:
        raise RecipeError(f"expected {update.steps} steps, as announced, got {steps}")
    earlier = sum(one.steps for one in recipe.earlier_starts)
    if earlier > steps:
        raise RecipeError(f"expected at most {steps} steps from its earlier starts, got {earlier}")
    if recipe.rate.factor > FACTOR_MOST:
        factor = recipe.rate.factor
        raise RecipeError(f"expected at most twice the model's learning rate, got {factor:g} times")


def _is_plausible(update: Update) -> bool:
    if update.recipe is None:
        return False
    try:
        expect_plausible(update, Recipe.model_validate(update.recipe))
    except RecipeError:
        return False
    return True


def _others(told: list[Update]) -> dict[UUID, Update]:
    """Return what came before the last round, and what the rounds carried, as far as is known."""
    ids = {id: None for start in _starts(told) for id in start.carried}
    carried = _own(told[-1], list(ids))
    return {one.pk: one for one in (*told[:-1], *carried)}


def _starts(told: list[Update]) -> list[Start]:
    return [start for one in told for start in one.announcement().starts()]


def _own(update: Update, ids: list[UUID]) -> list[Update]:
    rows = Update.objects.filter(volunteer_id=update.volunteer_id, model_id=update.model_id)
    found = rows.defer("sketch").select_related("version").in_bulk(ids)
    return [found[id] for id in ids] if found.keys() >= set(ids) else []


def _is_small(update: Update, told: list[Update], others: dict[UUID, Update]) -> bool:
    """Say whether all of it is here, and fits on a volunteer's machine."""
    starts, oldest = _starts(told), services.oldest_merged(update.model_id)
    carried = {id for start in starts for id in start.carried}
    if not carried <= others.keys() or not all(_is_kept(one, oldest) for one in others.values()):
        return False
    if sum(one.size for one in others.values()) > SENT_BYTES:
        return False
    # The versions, what was sent, and the start that is made of them.
    arrays = len({start.base_version for start in starts}) + len(others) + 1
    return bool(4 * update.model.weights * arrays <= MEMORY_BYTES)


def _is_kept(update: Update, oldest: int) -> bool:
    """Say whether the bytes of an update are kept, when those up to a version are not."""
    if update.version is None:
        return update.state in UNFINISHED
    return int(update.version.number) > oldest


def _able(update: Update, steps: int, now: datetime) -> QuerySet[Participation]:
    """Return those who may train it again: trusted, elsewhere, fast enough, and rested."""
    rested = Q(audits_after__isnull=True) | Q(audits_after__lte=now)
    rows = participation.present(update.model_id, now).filter(
        rested,
        audits_on=Recipe.model_validate(update.recipe).backend,
        accepted__gte=trust.TRUSTED_FROM,
        audited__gte=trust.ALWAYS_AUDITED,
        steps_per_second__gte=max(steps, 1) / LONGEST_S,
    )
    same = Q(volunteer=update.volunteer_id)
    near = Q(volunteer__address_block__in=("", update.volunteer.address_block))
    return rows.exclude(same | near)


def _drawn(
    update: Update, row: Participation, steps: int, needs: list[str], now: datetime
) -> Audit | None:
    busy_s = (BEGIN_S + steps / row.steps_per_second) / SHARE
    after = now + max(LEASE, timedelta(seconds=busy_s))
    with transaction.atomic():
        rows = Participation.objects.filter(pk=row.pk, audits_after=row.audits_after)
        if rows.update(audits_after=after) != 1:
            return None  # drawn for another one at the same moment
        return Audit.objects.create(
            update=update,
            model_id=update.model_id,
            auditor_id=row.volunteer_id,
            key=secrets.token_hex(16),
            needs=needs,
            drawn_at=now,
            until=now + LEASE,
        )


# -- told ------------------------------------------------------------------------------------


def offered(volunteer: Volunteer, model_id: str, now: datetime) -> UUID | None:
    """Return the audit that this volunteer was drawn for, if it was.

    Looked up for everyone at once: a heartbeat of a crowd costs no read of its own.
    """
    return _offers.get(model_id, lambda: _all_offered(model_id, now)).get(volunteer.pk)


def _all_offered(model_id: str, now: datetime) -> dict[UUID, UUID]:
    rows = Audit.objects.filter(model_id=model_id, state=DRAWN, until__gt=now)
    return dict(rows.values_list("auditor_id", "pk"))


def take(volunteer: Volunteer, id: UUID, block: str, root: str, now: datetime) -> AuditTask:
    """Return what there is to train again, from anywhere but the network that it came from."""
    audit = _mine(volunteer, id, now)
    update = audit.update
    if block in ("", update.volunteer.address_block):
        close(audit, UNABLE, reason="it asks from the network that the update came from")
        raise _over()
    told = _told(update)
    if not told:
        raise _over()
    return AuditTask(
        model_id=audit.model_id,
        seconds_left=(audit.until - now).total_seconds(),
        key=audit.key,
        rounds=tuple(one.announcement() for one in told),
        series=series.way_to(update.model, {start.base_version for start in _starts(told)}, root),
        updates=tuple(
            SentUpdate(id=one.pk, sha256=one.sha256, size=one.size)
            for one in _others(told).values()
        ),
    )


def sent(volunteer: Volunteer, id: UUID, update_id: UUID, now: datetime) -> bytes:
    """Return the bytes of an update that an audit takes: to who was drawn for it, and only then.

    Those of the update in question are not among them.
    """
    audit = _mine(volunteer, id, now)
    if update_id == audit.update_id or str(update_id) not in audit.needs:
        raise Refusal(problems.NOT_FOUND, f"update {update_id} is no part of this audit")
    try:
        return blobs.read(Update.objects.get(id=update_id).sha256)
    except Corrupt as error:
        raise _over() from error


def _mine(volunteer: Volunteer, id: UUID, now: datetime) -> Audit:
    rows = Audit.objects.filter(id=id, auditor=volunteer)
    audit = rows.select_related("update__model", "update__volunteer").first()
    if audit is None:
        raise Refusal(problems.NOT_FOUND, f"you were not drawn for an audit {id}")
    if audit.state != DRAWN or audit.until <= now:
        raise _over()
    return audit


def _over() -> Refusal:
    return Refusal(problems.GONE, "this audit is over, or can't be made any more: train on")


def counts(model_id: str) -> dict[UUID, int]:
    """Return how many audits each volunteer has made of a model."""
    rows = Audit.objects.filter(model_id=model_id, state__in=DONE_AUDIT)
    counted = rows.order_by().values("auditor_id").annotate(count=Count("pk"))
    return {row["auditor_id"]: row["count"] for row in counted}


# -- answered --------------------------------------------------------------------------------


def answer(volunteer: Volunteer, id: UUID, told: AuditAnswer, now: datetime) -> None:
    """drawn -> answered, or unable."""
    audit = _mine(volunteer, id, now)
    try:
        if told.image is None:
            close(audit, UNABLE, reason=told.reason or "")
        else:
            move(audit, ANSWERED, image=_image(told.image))
            wake.workers()
    except StateConflict as error:
        raise _over() from error


def _image(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise Refusal(problems.BAD_REQUEST, f"image: {error}") from error
    if len(data) != 4 * SIZE or not np.isfinite(np.frombuffer(data, "<f4")).all():
        raise Refusal(problems.BAD_REQUEST, f"image: expected {SIZE} finite numbers of float32")
    return data


# -- over ------------------------------------------------------------------------------------


def move(audit: Audit, state: str, **changes: Any) -> None:
    """Move an audit on from the state that it was read in. Raises StateConflict."""
    rows = Audit.objects.filter(pk=audit.pk, state=audit.state)
    if rows.update(state=state, leased_until=None, attempts=0, **changes) != 1:
        raise StateConflict(f"{audit} was no longer {audit.state}")
    audit.state = state


def close(audit: Audit, state: str, **changes: Any) -> None:
    """End an audit; bytes that only it needed go."""
    move(audit, state, image=None, **changes)
    let_go(audit.needs)


def let_go(needs: Iterable[str]) -> None:
    """Remove the bytes of updates that nothing else needs."""
    rows = Update.objects.filter(id__in=list(needs))
    services.remove_bytes(rows.values_list("sha256", flat=True))


def expire(now: datetime) -> bool:
    """End one audit that nobody waits for any more; say whether there was one."""
    silent = Q(state=DRAWN, until__lte=now)
    left = Q(state__in=OPEN_AUDIT, until__lte=now - SETTLED)
    audit = Audit.objects.filter(silent | left).order_by("until").first()
    if audit is None:
        return False
    try:
        close(audit, EXPIRED if audit.state == DRAWN else UNSETTLED)
    except StateConflict:
        return True  # it was answered at this moment
    return True
