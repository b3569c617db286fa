"""What there is to train, how it stands, and what one volunteer is told to do."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import OuterRef, Q, QuerySet, Subquery

from handcar.merging import trust
from handcar.protocol import problems
from handcar.protocol.messages import (
    AlertInfo,
    Assignment,
    ChunkLink,
    DatasetSummary,
    ModelStatus,
    ModelSummary,
    RefusalInfo,
    VersionInfo,
    VolunteerInfo,
)
from handcar.protocol.signature import sign
from handcar.server import blobs
from handcar.server.accounts.models import Volunteer
from handcar.server.catalog import links, modelfiles
from handcar.server.catalog import services as catalog
from handcar.server.catalog.models import Chunk, TrainingModel
from handcar.server.memory import Kept
from handcar.server.problems import Refusal
from handcar.server.rounds import alerts, auditors, pace, participation, series, services
from handcar.server.rounds.models import (
    CHECKED,
    RECEIVED,
    REFUSED,
    Participation,
    Update,
    Version,
)
from handcar.server.turns import Turns

SMALL = 1.5
"""A volunteer begins with a chunk of at most so many times the smallest: training starts early."""
AT_ONCE, WAITING = 2, 24
"""Assignments that are worked out at once, and that wait for their turn: enough threads are left
for heartbeats."""
PENDING_S = 5.0
_pending: Kept[list[str]] = Kept(PENDING_S)
at_once = Turns(AT_ONCE, WAITING)
GOLDEN = (math.sqrt(5) - 1) / 2
HISTORY_MOST = 1_000
TRAINING_MOST = 200
LISTED, LISTED_MOST = 100, 500
REFUSALS_MOST = 20
ALERTS_MOST = 10
NOTHING = (
    "no model is waiting for volunteers on this server: try again later, or see `handcar list` "
    "for what is paused, prepared or finished"
)


# -- assignments -----------------------------------------------------------------------------


def pick(volunteer: Volunteer, now: datetime, root: str) -> Assignment:
    """Return the assignment of the pending model that has the fewest machines, oldest first."""
    pending = _pending.get("all", _look_for_pending)
    if not pending:
        raise Refusal(problems.NOTHING_TO_TRAIN, NOTHING)
    here = participation.counts(now)
    neediest = min(pending, key=lambda id: here.get(id, 0))
    # It counts at once, so that a crowd that comes within seconds does not all go to one.
    here[neediest] = here.get(neediest, 0) + 1
    return assign(volunteer, find(neediest), now, root)


def _look_for_pending() -> list[str]:
    rows = TrainingModel.objects.filter(state="pending").order_by("created_at", "id")
    return list(rows.values_list("pk", flat=True))


def assign_named(volunteer: Volunteer, model_id: str, now: datetime, root: str) -> Assignment:
    """Return the assignment of the model that the volunteer asks for."""
    model = find(model_id)
    if model.state in ("finished", "failed"):
        raise Refusal(problems.GONE, f"{model_id} is {model.state}; `handcar list` shows others")
    return assign(volunteer, model, now, root)


def assign(volunteer: Volunteer, model: TrainingModel, now: datetime, root: str) -> Assignment:
    """Return what this volunteer trains, with the chunks in its own order."""
    with at_once.turn():
        return _assign(volunteer, model, now, root)


def _assign(volunteer: Volunteer, model: TrainingModel, now: datetime, root: str) -> Assignment:
    frames = series.of(model.pk, root)
    done = Version.objects.filter(model=model, number=frames.newest)
    number = participation.enter(volunteer, model.pk, now).number
    chunks = list(Chunk.objects.filter(dataset_id=model.dataset_id, split="train"))
    name = model.dataset.name
    assignment = Assignment(
        id=model.pk,
        state=model.state,
        configuration=series.configuration(model, root),
        dataset=tuple(_chunk_link(chunk, name, root, now) for chunk in order(chunks, number)),
        series=frames,
        round=pace.round_limits(
            model, volunteer.pk, done.values_list("records_merged", flat=True).first(), now
        ),
        update_step=modelfiles.update_step(model.model_file),
        starts=modelfiles.rule(model.model_file).starts,
    )
    return sign(assignment, settings.HANDCAR_SIGNING_KEY)


def order(chunks: list[Chunk], number: int) -> list[Chunk]:
    """Return the chunks in the order of the volunteer of that number, a small one in front.

    All go round one shuffled circle, and each begins in the widest gap that those before it
    left: however early they stop, they have covered nearly as much between them as there is to
    cover. docs/decisions/0010-downloads.md says how much.
    """
    circle = chunks.copy()
    # By the data set, so that the small ones, which are cut first, lie scattered.
    random.Random(chunks[0].digest).shuffle(circle)  # noqa: S311 - an order, not a secret
    start = beginning(number, len(circle))
    mine = circle[start:] + circle[:start]
    smallest = min(chunk.size for chunk in chunks)
    small = [chunk for chunk in chunks if chunk.size <= SMALL * smallest]
    first = mine[0] if mine[0] in small else small[number % len(small)]
    return [first, *(chunk for chunk in mine if chunk is not first)]


def beginning(number: int, places: int) -> int:
    """Return where on a circle of so many places the volunteer of that number begins.

    Steps of the golden ratio leave no gap much wider than the others, however many there are
    (V. T. Sos, 1957); each place is begun at once before any is begun at twice.
    """
    number %= places
    step = number * GOLDEN % 1.0
    return sum(other * GOLDEN % 1.0 < step for other in range(places))


def _ours(chunk: Chunk, root: str) -> str:
    return root + str(chunk.digest).removeprefix(blobs.PREFIX)


def _chunk_link(chunk: Chunk, dataset_name: str, root: str, now: datetime) -> ChunkLink:
    urls = links.given(chunk.urls, now)
    # Without any: the credentials for its bucket are gone. The server's "no" says where to ask.
    if chunk.on_server or not urls:
        urls.append(blobs.link(chunk.digest, root) if chunk.on_server else _ours(chunk, root))
    return ChunkLink(
        url=urls[0],
        mirrors=tuple(urls[1:]),
        sha256=chunk.digest,
        size=chunk.size,
        file_name=chunk.file_name,
        dataset_name=dataset_name,
        records=chunk.records,
        decoded=chunk.decoded,
        codec=chunk.codec,
    )


# -- how models stand ------------------------------------------------------------------------


def find(model_id: str) -> TrainingModel:
    """Return a model by name; a Refusal when there is none."""
    model = TrainingModel.objects.filter(id=model_id).select_related("dataset").first()
    if model is None:
        raise catalog.no_model(model_id)
    return model


def summaries(now: datetime, *, after: str | None = None, most: int = LISTED) -> list[ModelSummary]:
    """Return one row for each model, oldest first, from the one after `after` on."""
    models = TrainingModel.objects.order_by("created_at", "id")
    if after is not None:
        last = TrainingModel.objects.filter(id=after).values_list("created_at", flat=True).first()
        if last is None:
            raise catalog.no_model(after)
        models = models.filter(Q(created_at__gt=last) | Q(created_at=last, id__gt=after))
    return [standing.summary for standing in standings(models[:most], now)]


@dataclass(frozen=True, slots=True)
class Standing:
    """How one model stands, in a row, and its newest version, if there is one."""

    summary: ModelSummary
    newest: Version | None


def standings(models: QuerySet[TrainingModel], now: datetime) -> list[Standing]:
    """Return how these models stand, in as many queries for one as for many."""
    versions = Version.objects.filter(model=OuterRef("pk")).order_by("-number")
    measured = versions.filter(loss__isnull=False, undone=False)
    rows: list[Any] = list(
        models.select_related("dataset")
        .defer("model_file")
        .annotate(
            newest_id=Subquery(versions.values("pk")[:1]),
            measured_id=Subquery(measured.values("pk")[:1]),
        )
    )
    named = {id for row in rows for id in (row.newest_id, row.measured_id) if id is not None}
    found = Version.objects.in_bulk(named)
    here = participation.counts(now)
    return [
        _standing(row, found.get(row.newest_id), found.get(row.measured_id), here.get(row.pk, 0))
        for row in rows
    ]


def _standing(
    model: TrainingModel, newest: Version | None, measured: Version | None, volunteers: int
) -> Standing:
    dataset = model.dataset
    begin_bytes = newest.begin_bytes if newest else 0
    summary = ModelSummary(
        id=model.pk,
        dataset=DatasetSummary(name=dataset.name, description=dataset.description),
        model_description=model.description,
        state=model.state,
        weights=model.weights,
        version=newest.number if newest else -1,
        dataset_bytes=dataset.size,
        dataset_records=dataset.records,
        begin_bytes=model.model_file_size + begin_bytes + dataset.first_size,
        batch_size=model.batch_size,
        volunteers=volunteers,
        updates_merged=newest.updates_merged if newest else 0,
        records_merged=newest.records_merged if newest else 0,
        records_wanted=model.records_wanted,
        loss=measured.loss if measured else None,
        accuracy=measured.accuracy if measured else None,
    )
    return Standing(summary, newest)


def status(model_id: str, now: datetime) -> ModelStatus:
    """Return how one model stands, its history and who trains it."""
    model = find(model_id)
    waiting = Update.objects.filter(model=model, state__in=(RECEIVED, CHECKED)).count()
    standing = standings(TrainingModel.objects.filter(id=model_id), now)[0]
    return ModelStatus(
        **standing.summary.model_dump(),
        failure=model.failure,
        history=tuple(history(model)),
        training=tuple(training(model, now)),
        updates_waiting=waiting,
        updates_refused=model.updates_refused,
        bytes_up=model.bytes_received,
        refusals=tuple(refusals(model)),
        alerts=tuple(
            AlertInfo(kind=row.kind, text=row.text, raised_at=row.raised_at, ended_at=row.ended_at)
            for row in alerts.shown(model.pk, now)[:ALERTS_MOST]
        ),
    )


def refusals(model: TrainingModel) -> list[RefusalInfo]:
    """Return the last updates that did not count, newest first."""
    rows = Update.objects.filter(model=model, state=REFUSED, checked_at__isnull=False)
    last = rows.exclude(reason=services.TRAINING_OVER).select_related("volunteer")
    return [
        RefusalInfo(
            at=row.checked_at, name=row.volunteer.name, steps=row.steps, reason=row.reason or ""
        )
        for row in last.order_by("-checked_at")[:REFUSALS_MOST]
    ]


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
        rolled_back_to=row.rolled_back_to,
        undone=row.undone,
    )


def training(model: TrainingModel, now: datetime) -> list[VolunteerInfo]:
    """Return the machines that train now, those heard from last first."""
    rows = participation.present(model.pk, now).select_related("volunteer").order_by("-heard_at")
    fields = set(VolunteerInfo.model_fields) - {"name", "standing", "updates_refused", "audits"}
    audits = auditors.counts(model.pk)
    return [
        VolunteerInfo(
            name=row.volunteer.name,
            standing=standing_word(row),
            updates_refused=row.refused,
            audits=audits.get(row.volunteer_id, 0),
            **{field: getattr(row, field) for field in fields},
        )
        for row in rows[:TRAINING_MOST]
    ]


def standing_word(row: Participation) -> str:
    """Say in a word what a volunteer's work counts here."""
    standing = row.standing()
    if standing.failed and not standing.is_trusted:
        return "under suspicion"
    if standing.is_trusted:
        return "trusted"
    return "new" if trust.weight(standing) < 1 else "known"
