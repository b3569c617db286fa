"""The page `/metrics`: what processes counted, and what the state tables know."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Count, Min, Q, QuerySet

from handcar.server import metrics
from handcar.server.catalog.models import TrainingModel
from handcar.server.rounds import assignments, participation
from handcar.server.rounds.models import (
    ANNOUNCED,
    CHECKED,
    RECEIVED,
    UNFINISHED,
    WANTED,
    Alert,
    Update,
)

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MODELS_MOST = 500
"""Models with figures of their own: those that train, the newest first."""


def page(now: datetime) -> bytes | None:
    """Return the whole page; none without prometheus-client."""
    if metrics.ours() is None:
        return None
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry, os.environ[metrics.FOLDER])  # type: ignore[no-untyped-call]
    registry.register(Tables(now))
    return bytes(generate_latest(registry))


class Tables:
    """Figures from the state tables, as of now."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def collect(self) -> Iterator[Any]:
        """Yield each figure."""
        yield from self._models()
        yield from self._updates()
        yield _gauge(
            "handcar_disk_free_bytes",
            "Room on the disk of the server's folder",
            [((), shutil.disk_usage(settings.HANDCAR_HOME.folder).free)],
        )
        alerts = Alert.objects.filter(ended_at=None).values_list("kind").annotate(n=Count("pk"))
        yield _gauge(
            "handcar_alerts",
            "What owners should look at",
            [((kind,), n) for kind, n in alerts.order_by()],
            "kind",
        )

    def _models(self) -> Iterator[Any]:
        training = TrainingModel.objects.filter(state__in=("pending", "paused"))
        newest = training.order_by("-created_at", "-id")[:MODELS_MOST]
        rows = [one.summary for one in assignments.standings(newest, self._now)]
        here = participation.counts(self._now)
        for name, text, values in (
            ("version", "Newest version", [(row.id, row.version) for row in rows]),
            ("volunteers", "Machines there now", [(row.id, here.get(row.id, 0)) for row in rows]),
            (
                "records_merged",
                "Records merged into the newest version",
                [(row.id, row.records_merged) for row in rows],
            ),
            (
                "updates_merged",
                "Updates merged into the newest version",
                [(row.id, row.updates_merged) for row in rows],
            ),
            (
                "loss",
                "Held-out loss of the last version measured",
                [(row.id, row.loss) for row in rows if row.loss is not None],
            ),
        ):
            yield _gauge(f"handcar_{name}", text, [((id,), n) for id, n in values], "model")
        counted = newest.values_list("pk", "updates_received", "updates_refused", "bytes_received")
        counts = list(counted)
        for place, name, text in (
            (1, "updates_received", "Updates whose bytes came whole"),
            (2, "updates_refused", "Updates that did not count"),
            (3, "update_bytes_received", "Bytes of updates that came whole"),
        ):
            sums = [((str(row[0]),), float(row[place])) for row in counts]
            yield _counter(f"handcar_{name}", text, sums, "model")

    def _updates(self) -> Iterator[Any]:
        rows = Update.objects.filter(state__in=UNFINISHED).order_by()
        states = dict(rows.values_list("state").annotate(n=Count("pk")))
        yield _gauge(
            "handcar_updates_waiting",
            "Updates that are in no version yet, by state",
            [((state,), states.get(state, 0)) for state in UNFINISHED],
            "state",
        )
        lines = {
            "upload": rows.filter(state=ANNOUNCED),
            "check": rows.filter(state=RECEIVED, examined_at=None),
            "gate": rows.filter(state=RECEIVED, gate_wanted=True),
            "audit": rows.filter(state=RECEIVED, gate_wanted=False, audit=WANTED),
            "merge": rows.filter(state=CHECKED),
        }
        found = {name: self._line(line) for name, line in lines.items()}
        yield _gauge(
            "handcar_line_updates",
            "Updates in line, by what they wait for",
            [((name,), count) for name, (count, _) in found.items()],
            "for",
        )
        yield _gauge(
            "handcar_line_oldest_seconds",
            "How long the first in line has waited since its bytes came",
            [((name,), oldest) for name, (_, oldest) in found.items()],
            "for",
        )

    def _line(self, rows: QuerySet[Update]) -> tuple[int, float]:
        came = Min("received_at", filter=Q(received_at__isnull=False))
        found = rows.aggregate(count=Count("pk"), came=came, announced=Min("announced_at"))
        oldest = found["came"] or found["announced"]
        return found["count"], (self._now - oldest).total_seconds() if oldest else 0.0


Values = Iterable[tuple[tuple[str, ...], float]]


def _gauge(name: str, text: str, values: Values, *labels: str) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(name, text, labels=labels), values)


def _counter(name: str, text: str, values: Values, *labels: str) -> Any:
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(name, text, labels=labels), values)


def _filled(family: Any, values: Values) -> Any:
    for labels, value in values:
        family.add_metric(labels, value)
    return family
