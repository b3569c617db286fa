"""What there is to build and to evaluate; here without Keras, which does it in `evaluate`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import Exists, F, Max, OuterRef, QuerySet, Subquery
from django.utils import timezone

from handcar.server.catalog.models import Chunk, TrainingModel
from handcar.server.rounds import leases
from handcar.server.rounds.leases import Lease
from handcar.server.rounds.models import AGAIN, RECEIVED, WANTED, Audit, Update, Version

ATTEMPTS = 3
"""A model that kills its process so often is given up."""
FIELDS = {
    TrainingModel: "merge_leased_until",
    Version: "leased_until",
    Update: "leased_until",
    Audit: "leased_until",
}
"""Which field says who works on what; until a model has a version 0 nobody merges it."""


def waits() -> bool:
    """Say whether there is work for a process with Keras that no other process has taken."""
    now = timezone.now()
    kinds = (to_prepare, to_gate, to_audit, to_recheck, to_measure)
    return any(_free(rows(), now).exists() for rows in kinds)


def claim(rows: QuerySet[Any], now: datetime) -> Lease | None:
    """Take the first row that nobody else works on."""
    while (row := _free(rows, now).first()) is not None:
        lease = leases.take(row, FIELDS[type(row)], now, among=rows)
        if lease is not None:
            return lease
    return None


def _free(rows: QuerySet[Any], now: datetime) -> QuerySet[Any]:
    return rows.filter(leases.free(FIELDS[rows.model], now))


def uncount_attempt(row: TrainingModel | Version | Update) -> None:
    """Take back an attempt that came to nothing because the store was away."""
    if isinstance(row, TrainingModel):
        TrainingModel.objects.filter(id=row.pk).update(prepare_attempts=F("prepare_attempts") - 1)
    elif isinstance(row, Update):
        Update.objects.filter(pk=row.pk).update(attempts=F("attempts") - 1)
    else:
        Version.objects.filter(pk=row.pk).update(evaluation_attempts=F("evaluation_attempts") - 1)


def to_prepare() -> QuerySet[TrainingModel]:
    """Return the models without a version 0, the oldest first."""
    return TrainingModel.objects.filter(state="preparing").order_by("created_at")


def to_measure() -> QuerySet[Version]:
    """Return newest versions that are not evaluated yet, of models with validation chunks."""
    chunks = Chunk.objects.filter(dataset=OuterRef("model__dataset"), split="validation")
    later = Version.objects.filter(model=OuterRef("model")).order_by().values("model")
    newest = later.annotate(newest=Max("number")).values("newest")
    rows = Version.objects.filter(evaluated_at=None, evaluation_attempts__lt=ATTEMPTS)
    live = rows.exclude(model__state__in=("preparing", "failed"))
    return live.filter(Exists(chunks), number=Subquery(newest)).order_by("published_at")


def to_gate() -> QuerySet[Update]:
    """Return the updates to be tried on held-out records, the one that waits longest first."""
    return _examined().filter(gate_wanted=True)


def to_audit() -> QuerySet[Update]:
    """Return the updates to be computed again, the one that waits longest first."""
    return _examined().filter(gate_wanted=False, audit=WANTED)


def to_recheck() -> QuerySet[Audit]:
    """Return the audits by volunteers to be made again here, the one that waits longest first."""
    rows = Audit.objects.filter(state=AGAIN).select_related("update__model")
    return rows.order_by("drawn_at")


def _examined() -> QuerySet[Update]:
    rows = Update.objects.filter(state=RECEIVED, examined_at__isnull=False)
    return rows.order_by("examined_at", "id")


def count_attempt(row: TrainingModel | Version | Update | Audit) -> int:
    """Count an attempt before it is made, as it may not live to tell; return the number."""
    if isinstance(row, TrainingModel):
        TrainingModel.objects.filter(id=row.pk).update(prepare_attempts=F("prepare_attempts") + 1)
        return int(row.prepare_attempts) + 1
    if isinstance(row, Update | Audit):
        type(row).objects.filter(pk=row.pk).update(attempts=F("attempts") + 1)
        return int(row.attempts) + 1
    Version.objects.filter(pk=row.pk).update(evaluation_attempts=F("evaluation_attempts") + 1)
    return int(row.evaluation_attempts) + 1
