"""Who takes part in a model, and when we last heard of it."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Max, QuerySet

from handcar.protocol import limits
from handcar.server.accounts.models import Volunteer
from handcar.server.catalog.models import TrainingModel
from handcar.server.rounds.models import Participation


def touch(volunteer: Volunteer, model: TrainingModel, now: datetime) -> Participation:
    """Note that we heard of a volunteer; the first time, give it its number."""
    rows = Participation.objects.filter(volunteer=volunteer, model=model)
    with transaction.atomic():
        if rows.update(heard_at=now) == 0:
            last = Participation.objects.filter(model=model).aggregate(last=Max("number"))["last"]
            number = 0 if last is None else last + 1
            Participation.objects.create(
                volunteer=volunteer, model=model, number=number, heard_at=now
            )
    return rows.get()


def present(model: TrainingModel, now: datetime) -> QuerySet[Participation]:
    """Return those who count as taking part now."""
    since = now - timedelta(seconds=limits.GONE_AFTER_S)
    rows = Participation.objects.filter(model=model, heard_at__gte=since)
    return rows.exclude(activity="leaving")
