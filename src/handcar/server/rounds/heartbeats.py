"""A volunteer says where it is and hears where everything stands."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Q, QuerySet

from handcar.protocol.messages import Heartbeat, HeartbeatReply, Order, UpdateStatus
from handcar.server.accounts import services as accounts
from handcar.server.accounts.models import Volunteer
from handcar.server.catalog import services as catalog
from handcar.server.catalog.models import Message, MessageReceipt, TrainingModel
from handcar.server.rounds import assignments, pace, participation, series, services
from handcar.server.rounds.models import Participation, Update

MESSAGES_AT_ONCE = 16
LARGEST = 2**31 - 1


def hear(volunteer: Volunteer, heartbeat: Heartbeat, now: datetime) -> HeartbeatReply:
    """Note a heartbeat and answer it.

    The newest version is read before the states of the updates, as the reply promises.
    """
    model = assignments.find(heartbeat.model_id)
    newest = series.newest_number(model.pk)
    _note(volunteer, model, heartbeat, now)
    _note_seen(volunteer, model, heartbeat)
    updates = _statuses(volunteer, heartbeat)
    unseen = list(_unseen(volunteer, model)[:MESSAGES_AT_ONCE])
    order, reason = _order(heartbeat, model, volunteer, unseen)
    return HeartbeatReply(
        newest=newest,
        model_state=model.state,
        order=order,
        reason=reason,
        messages=tuple(catalog.as_message(message) for message in unseen),
        updates=updates,
        round=pace.round_limits(model, now),
    )


def _note(volunteer: Volunteer, model: TrainingModel, heartbeat: Heartbeat, now: datetime) -> None:
    told = {"step", "records", "steps_per_second", "loss", "chunks", "activity"}
    told |= {"bytes_up", "bytes_down"}
    participation.touch(volunteer, model, now)
    Participation.objects.filter(volunteer=volunteer, model=model).update(
        version=max(-1, min(heartbeat.version, LARGEST)), **heartbeat.model_dump(include=told)
    )


def _note_seen(volunteer: Volunteer, model: TrainingModel, heartbeat: Heartbeat) -> None:
    ids = [id for id in heartbeat.seen_messages if 0 <= id <= LARGEST]
    if not ids:
        return
    seen = _addressed(volunteer, model).filter(id__in=ids)
    MessageReceipt.objects.bulk_create(
        [MessageReceipt(message=message, volunteer=volunteer) for message in seen],
        ignore_conflicts=True,
    )


def _statuses(volunteer: Volunteer, heartbeat: Heartbeat) -> tuple[UpdateStatus, ...]:
    """Return the states of those that we know; the others may not have been announced yet."""
    rows = Update.objects.filter(volunteer=volunteer, id__in=heartbeat.pending)
    return tuple(services.status(row) for row in rows.select_related("version"))


def _addressed(volunteer: Volunteer, model: TrainingModel) -> QuerySet[Message]:
    to_it = Q(model__isnull=True) | Q(model=model)
    return Message.objects.filter(to_it, sent_at__gte=volunteer.created_at).order_by("id")


def _unseen(volunteer: Volunteer, model: TrainingModel) -> QuerySet[Message]:
    seen = MessageReceipt.objects.filter(volunteer=volunteer).values("message_id")
    return _addressed(volunteer, model).exclude(id__in=seen)


def _order(
    heartbeat: Heartbeat, model: TrainingModel, volunteer: Volunteer, unseen: list[Message]
) -> tuple[Order, str | None]:
    if not accounts.speaks_our_protocol(heartbeat.protocol_version):
        return "upgrade", accounts.upgrade_text(heartbeat.protocol_version)
    if model.state in ("finished", "failed"):
        others = TrainingModel.objects.filter(state="pending").exists()
        return ("switch" if others else "stop"), f"{model.pk} is {model.state}."
    if model.state == "paused":
        return "pause", f"{model.pk} is paused by its owner."
    return _order_of_messages(volunteer, model, unseen)


def _order_of_messages(
    volunteer: Volunteer, model: TrainingModel, unseen: list[Message]
) -> tuple[Order, str | None]:
    """Return the newest unseen order; a pause holds until a newer message ends it."""
    orders = [message for message in unseen if message.order != "carry on"]
    if orders:
        return orders[-1].order, orders[-1].text
    last = _addressed(volunteer, model).last()
    if last is not None and last.order == "pause":
        return "pause", last.text
    return "carry on", None
