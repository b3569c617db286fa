"""A volunteer says where it is and hears where everything stands.

Ten thousand volunteers do so every minute, so what is the same for all of them is read once a
second, what is known of one is remembered, and what one tells is written with what others tell.
Left to each heartbeat are at most the reads of its own updates and of its own receipts.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from handcar.protocol.messages import Heartbeat, HeartbeatReply, Order, UpdateStatus
from handcar.server.accounts import services as accounts
from handcar.server.accounts.models import Volunteer
from handcar.server.catalog import services as catalog
from handcar.server.catalog.models import Message, MessageReceipt, TrainingModel
from handcar.server.memory import Kept
from handcar.server.rounds import auditors, pace, participation, pressure, services
from handcar.server.rounds.models import Update, Version

log = logging.getLogger(__name__)

MESSAGES_AT_ONCE = 16
LARGEST = 2**31 - 1
SAME_FOR_ALL_S = 1.0
RECEIPTS_S = 600.0

_moments: Kept[Moment] = Kept(SAME_FOR_ALL_S)
_shown: Kept[int] = Kept(RECEIPTS_S, most=200_000)
"""The last message that a volunteer has seen, with all before it."""


@dataclass(frozen=True, slots=True)
class Moment:
    """How a model stood a moment ago: the same for all who train it."""

    model: TrainingModel
    newest: int
    records_done: int | None
    """Records merged into the newest version."""
    messages: tuple[Message, ...]
    """To its volunteers or to everyone, oldest first."""
    others_wait: bool
    """Whether another model wants volunteers; looked for where this one does not."""


def hear(volunteer: Volunteer, heartbeat: Heartbeat, now: datetime) -> HeartbeatReply:
    """Note a heartbeat and answer it."""
    moment = _moment(heartbeat.model_id)
    _note(volunteer, heartbeat, now)
    _note_seen(volunteer, moment, heartbeat)
    _note_liars(volunteer, heartbeat)
    moment, updates = _where_all_stands(moment, volunteer, heartbeat)
    unseen = _unseen(volunteer, moment)
    order, reason = _order(heartbeat, moment, volunteer, unseen)
    limits = pace.round_limits(moment.model, volunteer.pk, moment.records_done, now)
    return HeartbeatReply(
        newest=_told(heartbeat, moment),
        model_state=moment.model.state,
        order=order,
        reason=reason,
        messages=tuple(catalog.as_message(message) for message in unseen),
        updates=updates,
        round=limits,
        audit=_audit(volunteer, heartbeat, now),
        heartbeat_s=pressure.heartbeat_s(moment.model, now),
    )


def _told(heartbeat: Heartbeat, moment: Moment) -> int:
    """Return the newest version; in a crowd the volunteer's own, so that fewer ask at once.

    A whole crowd would fetch it within a minute, three requests each. The next heartbeat tells.
    """
    if 0 <= heartbeat.version < moment.newest and pressure.is_crowded():
        return heartbeat.version
    return moment.newest


def _audit(volunteer: Volunteer, heartbeat: Heartbeat, now: datetime) -> UUID | None:
    if heartbeat.audits_on is None:
        return None
    return auditors.offered(volunteer, heartbeat.model_id, now)


def _moment(model_id: str) -> Moment:
    return _moments.get(model_id, lambda: _look(model_id))


def _look(model_id: str) -> Moment:
    model = TrainingModel.objects.filter(id=model_id).first()
    if model is None:
        raise catalog.no_model(model_id)
    rows = Version.objects.filter(model_id=model_id).order_by("-number")
    newest, done = rows.values_list("number", "records_merged").first() or (-1, None)
    others = model.state in ("finished", "failed")
    return Moment(
        model,
        newest,
        done,
        tuple(catalog.messages_to(model_id)),
        others and TrainingModel.objects.filter(state="pending").exists(),
    )


def _note(volunteer: Volunteer, heartbeat: Heartbeat, now: datetime) -> None:
    told = heartbeat.model_dump(include=set(participation.TOLD_FIELDS))
    told["version"] = max(-1, min(heartbeat.version, LARGEST))
    participation.hear(volunteer, heartbeat.model_id, told, now)


def _note_seen(volunteer: Volunteer, moment: Moment, heartbeat: Heartbeat) -> None:
    ids = set(heartbeat.seen_messages)
    seen = [one for one in _addressed(volunteer, moment) if one.pk in ids]
    if seen:
        MessageReceipt.objects.bulk_create(
            [MessageReceipt(message=message, volunteer=volunteer) for message in seen],
            ignore_conflicts=True,
        )


def _note_liars(volunteer: Volunteer, heartbeat: Heartbeat) -> None:
    """Let whoever runs the server find a broken mirror. One volunteer's word is no proof."""
    if heartbeat.liars:
        hosts = ", ".join(heartbeat.liars)
        log.warning(
            "%s: volunteer %s got wrong bytes from %s", heartbeat.model_id, volunteer.pk, hosts
        )


def _where_all_stands(
    moment: Moment, volunteer: Volunteer, heartbeat: Heartbeat
) -> tuple[Moment, tuple[UpdateStatus, ...]]:
    """Return the newest version, read before the states of the updates, as the reply promises.

    How much earlier does not matter but for one thing: going back makes merged updates received
    again. When that came between, both are read anew.
    """
    if not heartbeat.pending:
        return moment, ()
    while True:
        updates = _statuses(volunteer, heartbeat)
        later = Version.objects.filter(model_id=moment.model.pk, number__gt=moment.newest)
        if not later.filter(rolled_back_to__isnull=False).exists():
            return moment, updates
        moment = _look(moment.model.pk)


def _statuses(volunteer: Volunteer, heartbeat: Heartbeat) -> tuple[UpdateStatus, ...]:
    """Return the states of those that we know; the others may not have been announced yet."""
    rows = Update.objects.filter(volunteer=volunteer, id__in=heartbeat.pending)
    rows = rows.defer("sketch", "recipe", "carried", "version__model")
    return tuple(services.status(row) for row in rows.select_related("version"))


def _addressed(volunteer: Volunteer, moment: Moment) -> list[Message]:
    return [one for one in moment.messages if one.sent_at >= volunteer.created_at]


def _unseen(volunteer: Volunteer, moment: Moment) -> list[Message]:
    """Return the messages to be shown; who has seen all is not looked up again."""
    addressed = _addressed(volunteer, moment)
    if not addressed:
        return []
    key = (volunteer.pk, moment.model.pk)
    last = _shown.find(key)
    addressed = [one for one in addressed if last is None or one.pk > last]
    if not addressed:
        return []
    seen = _seen(volunteer.pk, addressed)
    unseen = [one for one in addressed if one.pk not in seen]
    if not unseen:
        _shown.put(key, addressed[-1].pk)
    return unseen[:MESSAGES_AT_ONCE]


def _seen(volunteer_id: UUID, messages: list[Message]) -> set[int]:
    ids = [message.pk for message in messages]
    rows = MessageReceipt.objects.filter(volunteer_id=volunteer_id, message_id__in=ids)
    return set(rows.values_list("message_id", flat=True))


def _order(
    heartbeat: Heartbeat, moment: Moment, volunteer: Volunteer, unseen: list[Message]
) -> tuple[Order, str | None]:
    model = moment.model
    if not accounts.speaks_our_protocol(heartbeat.protocol_version):
        return "upgrade", accounts.upgrade_text(heartbeat.protocol_version)
    if model.state in ("finished", "failed"):
        return ("switch" if moment.others_wait else "stop"), f"{model.pk} is {model.state}."
    if model.state == "paused":
        return "pause", f"{model.pk} is paused by its owner."
    return _order_of_messages(volunteer, moment, unseen)


def _order_of_messages(
    volunteer: Volunteer, moment: Moment, unseen: list[Message]
) -> tuple[Order, str | None]:
    """Return the newest unseen order; a pause holds until a newer message ends it."""
    orders = [message for message in unseen if message.order != "carry on"]
    if orders:
        return orders[-1].order, orders[-1].text
    addressed = _addressed(volunteer, moment)
    if addressed and addressed[-1].order == "pause":
        return "pause", addressed[-1].text
    return "carry on", None
