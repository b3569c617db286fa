"""Filters that compare an update with others can be wrong about everyone.

One that would refuse most of the work of a model is suspended, and the model's owner is alerted:
a training that stands still helps nobody.
"""

from __future__ import annotations

from datetime import datetime

from django.db.models import Q, QuerySet

from handcar.merging import activity as activities
from handcar.merging import direction
from handcar.server.rounds import alerts
from handcar.server.rounds.models import FAILED, PASSED, Update

LENGTH, DIRECTION, GATE, AUDIT = "length", "direction", "gate", "audit"
WORDS = {
    LENGTH: "the filter that compares lengths",
    DIRECTION: "the filter that compares directions",
    GATE: "the test on held-out records",
    AUDIT: "the audit",
}


def refuses(update: Update, kind: str, now: datetime) -> bool:
    """Note that a filter objects to an update; say whether it is refused for that."""
    Update.objects.filter(id=update.pk).update(objection=kind)
    update.objection = kind
    if not is_suspended(update.model_id, kind):
        return True
    text = (
        f"{WORDS[kind]} would refuse most of the work of late, so it refuses nothing: is the data "
        f"sound, does the training diverge, or are most of the volunteers not what they say?"
    )
    alerts.raise_(update.model_id, _alert(kind), text, now)
    return False


def passes(update: Update, kind: str, now: datetime) -> None:
    """Note that a filter lets an update pass; end its alert when it works again."""
    if not is_suspended(update.model_id, kind):
        alerts.end(update.model_id, _alert(kind), now)


def is_suspended(model_id: str, kind: str) -> bool:
    """Say whether a filter would refuse most of the work that it judged last."""
    rows = list(
        _judged(model_id, kind)
        .order_by("-examined_at")
        .values_list("objection", "steps")[: direction.LOOKED_AT]
    )
    if not rows:
        return False
    steps = activities.capped(steps for _, steps in rows)
    return direction.is_suspended(
        [(objection == kind, count) for (objection, _), count in zip(rows, steps, strict=True)]
    )


def _judged(model_id: str, kind: str) -> QuerySet[Update]:
    rows = Update.objects.filter(model_id=model_id, examined_at__isnull=False)
    if kind == GATE:
        return rows.filter(Q(rise__isnull=False) | Q(objection=GATE))
    if kind == AUDIT:
        return rows.filter(audit__in=(PASSED, FAILED))
    return rows


def _alert(kind: str) -> str:
    return f"{alerts.FILTER} {kind}"
