"""What there is to build and to evaluate; here without Keras, which does it in `evaluate`."""

from __future__ import annotations

from django.db.models import Exists, F, OuterRef

from handcar.server.catalog.models import Chunk, TrainingModel
from handcar.server.rounds.models import Version

ATTEMPTS = 3
"""A model that kills its process so often is given up."""


def waits() -> bool:
    """Say whether there is work for a process with Keras."""
    return next_to_prepare() is not None or next_to_measure() is not None


def next_to_prepare() -> TrainingModel | None:
    """Return the oldest model without a version 0."""
    return TrainingModel.objects.filter(state="preparing").order_by("created_at").first()


def next_to_measure() -> Version | None:
    """Return a newest version that is not evaluated yet, of a model with validation chunks."""
    chunks = Chunk.objects.filter(dataset=OuterRef("dataset"), split="validation")
    models = TrainingModel.objects.filter(Exists(chunks)).exclude(state__in=("preparing", "failed"))
    for model in models:
        newest = Version.objects.filter(model=model).order_by("-number").first()
        if newest and newest.evaluated_at is None and newest.evaluation_attempts < ATTEMPTS:
            return newest
    return None


def count_attempt(row: TrainingModel | Version) -> int:
    """Count an attempt before it is made, as it may not live to tell; return the number."""
    if isinstance(row, TrainingModel):
        TrainingModel.objects.filter(id=row.pk).update(prepare_attempts=F("prepare_attempts") + 1)
        return int(row.prepare_attempts) + 1
    Version.objects.filter(pk=row.pk).update(evaluation_attempts=F("evaluation_attempts") + 1)
    return int(row.evaluation_attempts) + 1
