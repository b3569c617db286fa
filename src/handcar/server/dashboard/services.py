"""What the pages show, read in one go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from django.db.models import Case, Count, F, OuterRef, Q, QuerySet, Subquery, Sum, Value, When

from handcar.protocol.messages import (
    AlertInfo,
    ModelStatus,
    ModelSummary,
    VersionInfo,
    VolunteerInfo,
)
from handcar.server.catalog.models import Dataset, TrainingModel
from handcar.server.memory import Kept
from handcar.server.rounds import assignments, participation
from handcar.server.rounds.models import Participation, Version

Row = TypeVar("Row")
POINTS_MOST = 300
"""More points than this are finer than a screen."""
TABLE_ROWS = 12
TRAINING_SHOWN = 50
HELPERS_SHOWN = 20
CARDS_A_PAGE = 50
SUMS_KEPT_S = 10.0
"""For so long a process keeps what it adds up over all of something."""
_totals: Kept[Totals] = Kept(SUMS_KEPT_S)
_parts: Kept[Parts] = Kept(SUMS_KEPT_S)
_curves_kept: Kept[tuple[Curve, ...]] = Kept(SUMS_KEPT_S)
STATE_ORDER = ("pending", "preparing", "paused", "finished", "failed")


@dataclass(frozen=True, slots=True)
class Card:
    """A model in the list of all, and when its newest version came."""

    summary: ModelSummary
    published_at: datetime | None


@dataclass(frozen=True, slots=True)
class Overview:
    """Models, those that want volunteers first, a page of them; and sums over all."""

    cards: tuple[Card, ...]
    totals: Totals
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all models."""

    models: int
    volunteers: int
    """Machines that train now."""
    updates_merged: int


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
    events: tuple[AlertInfo, ...]
    """What happened lately and is over, as when a version was taken back."""


def overview(now: datetime, page: int = 1) -> Overview:
    """Return a page of models, those that want volunteers first, then those with newer versions."""
    totals = _totals.get("all", lambda: _sums(now))
    pages = max(1, -(-totals.models // CARDS_A_PAGE))
    page = min(max(1, page), pages)
    first = (page - 1) * CARDS_A_PAGE
    rows = assignments.standings(_in_order()[first : first + CARDS_A_PAGE], now)
    cards = tuple(
        Card(row.summary, row.newest.published_at if row.newest else None) for row in rows
    )
    return Overview(cards, totals, page, pages)


def _in_order() -> QuerySet[TrainingModel]:
    ranks = [When(state=state, then=Value(rank)) for rank, state in enumerate(STATE_ORDER)]
    newest = _newest().values("published_at")[:1]
    rows = TrainingModel.objects.annotate(rank=Case(*ranks), newest_at=Subquery(newest))
    return rows.order_by("rank", F("newest_at").desc(nulls_last=True), "created_at", "id")


def _newest() -> QuerySet[Version]:
    return Version.objects.filter(model=OuterRef("pk")).order_by("-number")


def _sums(now: datetime) -> Totals:
    merged = TrainingModel.objects.annotate(merged=Subquery(_newest().values("updates_merged")[:1]))
    found = merged.aggregate(models=Count("pk"), updates=Sum("merged"))
    here = participation.counts(now)
    return Totals(found["models"], sum(here.values()), found["updates"] or 0)


def model_page(model_id: str, now: datetime, *, versions_shown: int | None) -> ModelPage:
    """Return one model's page; None shows all versions. Raises Refusal for an unknown model."""
    status = assignments.status(model_id, now)
    newest_first = status.history[::-1]
    versions = newest_first[:versions_shown]
    helpers, sums = _helpers(model_id), _parts.get(model_id, lambda: _parts_of(model_id))
    return ModelPage(
        status=status,
        published_at=newest_first[0].published_at if newest_first else None,
        dataset=_dataset(status.dataset.name),
        curves=_curves_kept.get(model_id, lambda: _curves(model_id)),
        versions=versions,
        versions_more=len(newest_first) - len(versions),
        training=status.training[:TRAINING_SHOWN],
        training_more=max(0, status.volunteers - TRAINING_SHOWN),
        helpers=_ranked(helpers[:HELPERS_SHOWN]),
        helpers_more=max(0, sums.helpers - HELPERS_SHOWN),
        bytes_down=sums.bytes_down,
        saved=_saved(model_id),
        events=tuple(alert for alert in status.alerts if alert.ended_at is not None),
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
    return DatasetFacts(row.name, row.description, row.licence, row.chunks)


@dataclass(frozen=True, slots=True)
class Parts:
    """Sums over all who ever took part in a model."""

    helpers: int
    bytes_down: int


def _parts_of(model_id: str) -> Parts:
    rows = Participation.objects.filter(model_id=model_id)
    helped = Count("pk", filter=Q(updates_merged__gt=0))
    found = rows.aggregate(helpers=helped, total=Sum("bytes_down"))
    return Parts(found["helpers"], found["total"] or 0)


def _saved(model_id: str) -> Saved:
    model = TrainingModel.objects.defer("model_file").get(id=model_id)
    newest = Version.objects.filter(model=model).order_by("-number").first()
    plain, updates, update_bytes = 4 * model.weights, model.updates_received, model.bytes_received
    # Each version but the first has a delta.
    deltas, delta_bytes = (newest.number, newest.deltas_bytes) if newest else (0, 0)
    return Saved(
        bytes=max(0, plain * (updates + deltas) - update_bytes - delta_bytes),
        update=plain * updates / update_bytes if update_bytes else None,
        version=plain * deltas / delta_bytes if delta_bytes else None,
    )
