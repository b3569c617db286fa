"""What there is to train, how it stands, and what one volunteer is told to do."""

from __future__ import annotations

import random
from datetime import datetime
from uuid import UUID

from django.db.models import Count, Q, Sum

from handcar.protocol import problems
from handcar.protocol.messages import (
    Assignment,
    ChunkLink,
    DatasetSummary,
    ModelStatus,
    ModelSummary,
    VersionInfo,
    VolunteerInfo,
)
from handcar.server import blobs
from handcar.server.accounts.models import Volunteer
from handcar.server.catalog import services as catalog
from handcar.server.catalog.models import Chunk, TrainingModel
from handcar.server.problems import Refusal
from handcar.server.rounds import pace, participation, series
from handcar.server.rounds.models import CHECKED, RECEIVED, REFUSED, Update, Version

HISTORY_MOST = 1_000
TRAINING_MOST = 200
NOTHING = (
    "no model is waiting for volunteers on this server: try again later, or see `handcar list` "
    "for what is paused, prepared or finished"
)


# -- assignments -----------------------------------------------------------------------------


def pick(volunteer: Volunteer, now: datetime, root: str) -> Assignment:
    """Return the assignment of the pending model that has the fewest machines, oldest first."""
    models = list(TrainingModel.objects.filter(state="pending").order_by("created_at", "id"))
    if not models:
        raise Refusal(problems.NOTHING_TO_TRAIN, NOTHING)
    neediest = min(models, key=lambda model: participation.present(model, now).count())
    return assign(volunteer, neediest, now, root)


def assign_named(volunteer: Volunteer, model_id: str, now: datetime, root: str) -> Assignment:
    """Return the assignment of the model that the volunteer asks for."""
    model = find(model_id)
    if model.state in ("finished", "failed"):
        raise Refusal(problems.GONE, f"{model_id} is {model.state}; `handcar list` shows others")
    return assign(volunteer, model, now, root)


def assign(volunteer: Volunteer, model: TrainingModel, now: datetime, root: str) -> Assignment:
    """Return what this volunteer trains, with the chunks in its own order."""
    frames = series.of(model.pk, root)
    number = participation.touch(volunteer, model, now).number
    chunks = list(Chunk.objects.filter(dataset_id=model.dataset_id, split="train"))
    name = model.dataset.name
    return Assignment(
        id=model.pk,
        state=model.state,
        configuration=series.configuration(model, root),
        dataset=tuple(
            _chunk_link(chunk, name, root) for chunk in order(chunks, volunteer.pk, number)
        ),
        series=frames,
        round=pace.round_limits(model, now),
    )


def order(chunks: list[Chunk], volunteer_id: UUID, number: int) -> list[Chunk]:
    """Return the chunks shuffled by the volunteer's id, the one for its number in front.

    Never one order for all: volunteers who stop early have covered the data between them.
    """
    first = chunks[number % len(chunks)]
    rest = [chunk for chunk in chunks if chunk is not first]
    random.Random(volunteer_id.int).shuffle(rest)  # noqa: S311 - an order, not a secret
    return [first, *rest]


def _chunk_link(chunk: Chunk, dataset_name: str, root: str) -> ChunkLink:
    urls = list(chunk.urls)
    if chunk.on_server:
        urls.append(root + chunk.digest.removeprefix(blobs.PREFIX))
    return ChunkLink(
        url=urls[0],
        mirrors=tuple(urls[1:]),
        sha256=chunk.digest,
        size=chunk.size,
        file_name=chunk.file_name,
        dataset_name=dataset_name,
        records=chunk.records,
        codec=chunk.codec,
    )


# -- how models stand ------------------------------------------------------------------------


def find(model_id: str) -> TrainingModel:
    """Return a model by name; a Refusal when there is none."""
    model = TrainingModel.objects.filter(id=model_id).select_related("dataset").first()
    if model is None:
        raise catalog.no_model(model_id)
    return model


def summaries(now: datetime) -> list[ModelSummary]:
    """Return one row for every model, oldest first."""
    models = TrainingModel.objects.select_related("dataset").order_by("created_at", "id")
    return [summary(model, now) for model in models]


def summary(model: TrainingModel, now: datetime) -> ModelSummary:
    """Return how one model stands, in a row."""
    versions = Version.objects.filter(model=model)
    newest = versions.order_by("-number").first()
    evaluated = versions.filter(loss__isnull=False).order_by("-number").first()
    chunks = Chunk.objects.filter(dataset_id=model.dataset_id, split="train")
    total = chunks.aggregate(size=Sum("size"), records=Sum("records"))
    return ModelSummary(
        id=model.pk,
        dataset=DatasetSummary(name=model.dataset.name, description=model.dataset.description),
        model_description=model.description,
        state=model.state,
        weights=model.weights,
        version=newest.number if newest else -1,
        dataset_bytes=total["size"] or 0,
        dataset_records=total["records"] or 0,
        begin_bytes=_begin_bytes(model, newest, chunks.first()),
        batch_size=model.batch_size,
        volunteers=participation.present(model, now).count(),
        updates_merged=versions.aggregate(count=Sum("updates"))["count"] or 0,
        records_merged=newest.records_merged if newest else 0,
        records_wanted=model.records_wanted,
        loss=evaluated.loss if evaluated else None,
        accuracy=evaluated.accuracy if evaluated else None,
    )


def _begin_bytes(model: TrainingModel, newest: Version | None, chunk: Chunk | None) -> int:
    first_chunk: int = chunk.size if chunk else 0
    model_file: int = model.model_file_size
    return model_file + series.begin_bytes(newest) + first_chunk


def status(model_id: str, now: datetime) -> ModelStatus:
    """Return how one model stands, its history and who trains it."""
    model = find(model_id)
    updates = Update.objects.filter(model=model)
    counts = updates.aggregate(
        waiting=Count("id", filter=Q(state__in=(RECEIVED, CHECKED))),
        refused=Count("id", filter=Q(state=REFUSED)),
        size=Sum("size", filter=Q(received_at__isnull=False)),
    )
    return ModelStatus(
        **summary(model, now).model_dump(),
        failure=model.failure,
        history=tuple(history(model)),
        training=tuple(training(model, now)),
        updates_waiting=counts["waiting"],
        updates_refused=counts["refused"],
        bytes_up=counts["size"] or 0,
    )


def history(model: TrainingModel) -> list[VersionInfo]:
    """Return the last versions, oldest first."""
    rows = Version.objects.filter(model=model).order_by("-number")[:HISTORY_MOST]
    return [_version_info(row) for row in reversed(rows)]


def _version_info(row: Version) -> VersionInfo:
    return VersionInfo(
        number=row.number,
        published_at=row.published_at,
        updates=row.updates,
        records_merged=row.records_merged,
        loss=row.loss,
        accuracy=row.accuracy,
        delta_bytes=row.delta_size,
        keyframe_bytes=row.keyframe_size,
    )


def training(model: TrainingModel, now: datetime) -> list[VolunteerInfo]:
    """Return the machines that train now, those heard from last first."""
    rows = participation.present(model, now).select_related("volunteer").order_by("-heard_at")
    fields = set(VolunteerInfo.model_fields) - {"name"}
    return [
        VolunteerInfo(name=row.volunteer.name, **{field: getattr(row, field) for field in fields})
        for row in rows[:TRAINING_MOST]
    ]
