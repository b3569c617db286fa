"""What a model's owner should look at: raised once, shown until it is over."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q, QuerySet

from handcar.server.catalog.models import TrainingModel
from handcar.server.rounds.models import Alert

log = logging.getLogger(__name__)

SHOWN_FOR = timedelta(days=7)
"""An alert that is over is shown for so long."""

FILTER, MERGE, EVALUATOR, ROLLBACK = "filter", "merge", "evaluator", "rollback"
AUDIT = "audit"


def raise_(model_id: str, kind: str, text: str, now: datetime) -> None:
    """Alert the owner, unless an alert of this kind is open already: then renew its words."""
    if Alert.objects.filter(model_id=model_id, kind=kind, ended_at=None).update(text=text):
        return
    with transaction.atomic():
        # One after the other: two workers may find the same thing at once.
        list(TrainingModel.objects.select_for_update(no_key=True).filter(id=model_id))
        if Alert.objects.filter(model_id=model_id, kind=kind, ended_at=None).update(text=text):
            return
        Alert.objects.create(model_id=model_id, kind=kind, text=text, raised_at=now)
    log.warning("%s: %s", model_id, text)


def note(model_id: str, kind: str, text: str, now: datetime) -> None:
    """Tell of something that happened and is over."""
    log.warning("%s: %s", model_id, text)
    Alert.objects.create(model_id=model_id, kind=kind, text=text, raised_at=now, ended_at=now)


def end(model_id: str, kind: str, now: datetime) -> None:
    """What was wrong is over."""
    Alert.objects.filter(model_id=model_id, kind=kind, ended_at=None).update(ended_at=now)


def shown(model_id: str, now: datetime) -> QuerySet[Alert]:
    """Return those that are open, and those that ended lately, newest first."""
    recent = Q(ended_at=None) | Q(ended_at__gte=now - SHOWN_FOR)
    return Alert.objects.filter(recent, model_id=model_id).order_by("-raised_at", "-id")
