"""What the pages show, read in one go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from django.db.models import Count, Max, QuerySet, Sum

from handcar.protocol.messages import ModelStatus, ModelSummary, VersionInfo, VolunteerInfo
from handcar.server.catalog.models import Chunk, Dataset, TrainingModel
from handcar.server.rounds import assignments
from handcar.server.rounds.models import Participation, Update, Version

Row = TypeVar("Row")
POINTS_MOST = 300
"""More points than this are finer than a screen."""
TABLE_ROWS = 12
TRAINING_SHOWN = 50
HELPERS_SHOWN = 20
STATE_ORDER = ("pending", "preparing", "paused", "finished", "failed")


@dataclass(frozen=True, slots=True)
class Card:
    """A model in the list of all, and when its newest version came."""

    summary: ModelSummary
    published_at: datetime | None


@dataclass(frozen=True, slots=True)
class Overview:
    """All models, those that want volunteers first."""

    cards: tuple[Card, ...]

    @property
    def volunteers(self) -> int:
        """How many machines train now."""
        return sum(card.summary.volunteers for card in self.cards)

    @property
    def updates_merged(self) -> int:
        """How many updates have been merged, into any model."""
        return sum(card.summary.updates_merged for card in self.cards)


@dataclass(frozen=True, slots=True)
class Point:
    """A version that was measured: where it lies on one curve."""

    version: int
    records: int
    value: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One measure over the versions."""

    name: str
    points: tuple[Point, ...]

    @property
    def rows(self) -> list[Point]:
        """The points that its table shows, newest first."""
        return thin(self.points, TABLE_ROWS)[::-1]

    @property
    def data_id(self) -> str:
        """Where in the page the chart finds its columns."""
        return f"{self.name}-data"

    def as_columns(self) -> dict[str, list[float]]:
        """Return what the chart draws, column by column."""
        return {
            "versions": [point.version for point in self.points],
            "records": [point.records for point in self.points],
            "values": [point.value for point in self.points],
        }


@dataclass(frozen=True, slots=True)
class Helper:
    """A machine whose updates were merged."""

    rank: int
    name: str
    updates_merged: int
    bytes_up: int
    heard_at: datetime


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What a volunteer will download, and what it may be used for."""

    name: str
    description: str
    licence: str
    chunks: int


@dataclass(frozen=True, slots=True)
class Saved:
    """What coding saves, against float32 weights."""

    bytes: int
    """Of all updates received and all versions published."""
    update: float | None
    """How many times smaller than the weights an update is, in the mean."""
    version: float | None
    """The same for the delta of a version."""


@dataclass(frozen=True, slots=True)
class ModelPage:
    """One model's page. The lists are cut; `status` has the numbers."""

    status: ModelStatus
    published_at: datetime | None
    dataset: DatasetFacts
    curves: tuple[Curve, ...]
    versions: tuple[VersionInfo, ...]
    versions_more: int
    training: tuple[VolunteerInfo, ...]
    training_more: int
    helpers: tuple[Helper, ...]
    helpers_more: int
    bytes_down: int
    """As the volunteers' machines counted."""
    saved: Saved


def overview(now: datetime) -> Overview:
    """Return every model, those that want volunteers first, then those with newer versions."""
    rows = Version.objects.order_by().values_list("model_id")
    newest = dict(rows.annotate(newest=Max("published_at")))
    cards = [Card(row, newest.get(row.id)) for row in assignments.summaries(now)]
    cards.sort(key=_newest_first, reverse=True)
    cards.sort(key=lambda card: STATE_ORDER.index(card.summary.state))
    return Overview(tuple(cards))


def _newest_first(card: Card) -> float:
    return card.published_at.timestamp() if card.published_at else 0.0


def model_page(model_id: str, now: datetime, *, versions_shown: int | None) -> ModelPage:
    """Return one model's page; None shows all versions. Raises Refusal for an unknown model."""
    status = assignments.status(model_id, now)
    newest_first = status.history[::-1]
    versions = newest_first[:versions_shown]
    helpers = _helpers(model_id)
    return ModelPage(
        status=status,
        published_at=newest_first[0].published_at if newest_first else None,
        dataset=_dataset(status.dataset.name),
        curves=_curves(model_id),
        versions=versions,
        versions_more=len(newest_first) - len(versions),
        training=status.training[:TRAINING_SHOWN],
        training_more=max(0, status.volunteers - TRAINING_SHOWN),
        helpers=_ranked(helpers[:HELPERS_SHOWN]),
        helpers_more=max(0, helpers.count() - HELPERS_SHOWN),
        bytes_down=_bytes_down(model_id),
        saved=_saved(model_id),
    )


def _curves(model_id: str) -> tuple[Curve, ...]:
    """Return the curves that have a point, thinned to what a screen can show."""
    rows = Version.objects.filter(model_id=model_id).order_by("number")
    measured = list(rows.values_list("number", "records_merged", "loss", "accuracy"))
    columns = {
        "loss": [
            Point(number, records, loss)
            for number, records, loss, _ in measured
            if loss is not None
        ],
        "accuracy": [
            Point(number, records, share)
            for number, records, _, share in measured
            if share is not None
        ],
    }
    return tuple(
        Curve(name, tuple(thin(points, POINTS_MOST))) for name, points in columns.items() if points
    )


def thin(rows: Sequence[Row], most: int) -> list[Row]:
    """Return at most `most` of the rows, evenly spread, with the first and the last."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(index * (len(rows) - 1) / (most - 1))] for index in range(most)]


def _helpers(model_id: str) -> QuerySet[Participation]:
    rows = Participation.objects.filter(model_id=model_id, updates_merged__gt=0)
    return rows.select_related("volunteer").order_by("-updates_merged", "number")


def _ranked(rows: Iterable[Participation]) -> tuple[Helper, ...]:
    return tuple(
        Helper(rank, row.volunteer.name, row.updates_merged, row.bytes_up, row.heard_at)
        for rank, row in enumerate(rows, start=1)
    )


def _dataset(name: str) -> DatasetFacts:
    row = Dataset.objects.get(name=name)
    chunks = Chunk.objects.filter(dataset=row, split="train").count()
    return DatasetFacts(row.name, row.description, row.licence, chunks)


def _bytes_down(model_id: str) -> int:
    rows = Participation.objects.filter(model_id=model_id)
    return rows.aggregate(total=Sum("bytes_down"))["total"] or 0


def _saved(model_id: str) -> Saved:
    plain = 4 * TrainingModel.objects.values_list("weights", flat=True).get(id=model_id)
    received = Update.objects.filter(model_id=model_id, received_at__isnull=False)
    deltas = Version.objects.filter(model_id=model_id, delta_size__gt=0)
    update_count, update_bytes = _count_and_bytes(received, "size")
    delta_count, delta_bytes = _count_and_bytes(deltas, "delta_size")
    return Saved(
        bytes=max(0, plain * (update_count + delta_count) - update_bytes - delta_bytes),
        update=plain * update_count / update_bytes if update_bytes else None,
        version=plain * delta_count / delta_bytes if delta_bytes else None,
    )


def _count_and_bytes(rows: QuerySet[Any], field: str) -> tuple[int, int]:
    found = rows.aggregate(count=Count("pk"), bytes=Sum(field))
    return found["count"], found["bytes"] or 0
