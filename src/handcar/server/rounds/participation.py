"""Who takes part in a model, and when we last heard of it.

What heartbeats tell is kept in memory and written every few seconds, in one transaction: it
says how things stand, and nobody was promised that it is on the disk. A crash loses the last
moments of it, which the next heartbeats tell again. What was acknowledged is never kept here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing.util import Finalize
from typing import Any

from django.db import DatabaseError, connection, transaction
from django.db.models import Count, Max, QuerySet

from handcar.protocol import limits
from handcar.server.accounts.models import Volunteer
from handcar.server.catalog.models import TrainingModel
from handcar.server.memory import Kept
from handcar.server.rounds.models import Participation, Update

log = logging.getLogger(__name__)

WRITE_EVERY_S = 2.0
"""0 writes at once, for tests."""
AT_ONCE = 500
"""Rows in one transaction: other writers wait for some milliseconds at most."""
GIVEN_UP = timedelta(minutes=1)
COUNTED_S = 5.0
TOLD = ("version", "step", "records", "steps_per_second", "loss", "chunks", "activity")
TOLD_FIELDS = (*TOLD, "bytes_up", "bytes_down", "audits_on")

_known: Kept[int] = Kept(3600, most=200_000)
_counts: Kept[dict[str, int]] = Kept(COUNTED_S)


def enter(volunteer: Volunteer, model_id: str, now: datetime) -> Participation:
    """Note that we heard of a volunteer; the first time, give it its number."""
    rows = Participation.objects.filter(volunteer=volunteer, model_id=model_id)
    with transaction.atomic():
        if rows.update(heard_at=now) == 0:
            # One newcomer after the other: the model's row is held until its number is taken.
            list(TrainingModel.objects.select_for_update(no_key=True).filter(pk=model_id))
        if rows.update(heard_at=now) == 0:
            last = Participation.objects.filter(model_id=model_id).aggregate(last=Max("number"))
            number = 0 if last["last"] is None else last["last"] + 1
            Participation.objects.create(
                volunteer=volunteer, model_id=model_id, number=number, heard_at=now
            )
    row = rows.get()
    _known.put((volunteer.pk, model_id), row.pk)
    return row


def hear(volunteer: Volunteer, model_id: str, told: Mapping[str, Any], now: datetime) -> None:
    """Keep what a heartbeat told, to be written with what others tell."""
    known = _known.find((volunteer.pk, model_id))
    if known is None:
        known = _row(volunteer, model_id, now)
    waiting.add(known, Told(now, tuple(told[name] for name in TOLD_FIELDS)))


def _row(volunteer: Volunteer, model_id: str, now: datetime) -> int:
    rows = Participation.objects.filter(volunteer=volunteer, model_id=model_id)
    known = rows.values_list("pk", flat=True).first()
    if known is None:
        return int(enter(volunteer, model_id, now).pk)
    _known.put((volunteer.pk, model_id), known)
    return int(known)


# -- what waits to be written ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """What one heartbeat told, as the fields of its row."""

    at: datetime
    values: tuple[Any, ...]


class Waiting:
    """What was heard and is not written yet: the last of each volunteer."""

    def __init__(self) -> None:
        self._told: dict[int, Told] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._told)

    def add(self, row: int, told: Told) -> None:
        """Let it be written within seconds."""
        with self._lock:
            self._told[row] = told
            if WRITE_EVERY_S and (self._thread is None or not self._thread.is_alive()):
                self._start()
        if not WRITE_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write all of it; what is locked by somebody else, the next time."""
        with self._writing:
            with self._lock:
                told, self._told = self._told, {}
            rows, left = sorted(told), dict(told)
            try:
                for first in range(0, len(rows), AT_ONCE):
                    for row in _write({row: told[row] for row in rows[first : first + AT_ONCE]}):
                        del left[row]
            finally:
                # What is locked or could not be written waits for the next time.
                with self._lock:
                    self._told = {**left, **self._told}

    def _start(self) -> None:
        # Unlike atexit, it also runs at the end of a web server's forked workers.
        Finalize(None, self._end, exitpriority=10)
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeats")
        self._thread.start()

    def _run(self) -> None:
        while not self._ends.wait(WRITE_EVERY_S):
            try:
                self.write()
            except DatabaseError as error:
                log.warning("what heartbeats told was not written: %s", error)
                connection.close()
            except Exception:
                log.exception("what heartbeats told was not written")
                connection.close()

    def _end(self) -> None:
        self._ends.set()
        if self._told:
            self.write()


waiting = Waiting()


def _write(told: Mapping[int, Told]) -> list[int]:
    """Write rows in one transaction; return all but those that another transaction holds.

    Nobody is waited for while rows are held, so that no two processes wait for each other.
    """
    with transaction.atomic():
        rows = Participation.objects.select_for_update(skip_locked=True).filter(pk__in=list(told))
        free = sorted(rows.values_list("pk", flat=True))
        with connection.cursor() as cursor:
            cursor.executemany(
                _statement(),
                [(*told[row].values, *_times(told[row].at), row) for row in free],
            )
    # What another transaction holds for a minute is gone rather than held.
    newest = max(one.at for one in told.values())
    gone = [row for row, one in told.items() if newest - one.at > GIVEN_UP]
    return list({*free, *gone})


def _times(at: datetime) -> tuple[Any, ...]:
    adapt = connection.ops.adapt_datetimefield_value
    return adapt(at), adapt(at + timedelta(seconds=limits.GONE_AFTER_S)), adapt(at)


def _statement() -> str:
    """Return the update of one row; who was heard from a moment later keeps that time.

    One that is far later is of a clock that was set back since.
    """
    table = connection.ops.quote_name(Participation._meta.db_table)
    fields = ", ".join(f"{connection.ops.quote_name(name)} = %s" for name in TOLD_FIELDS)
    later = "heard_at = CASE WHEN heard_at > %s AND heard_at <= %s THEN heard_at ELSE %s END"
    return f"UPDATE {table} SET {fields}, {later} WHERE id = %s"  # noqa: S608 - our own names


def late() -> timedelta:
    """Return how late what a heartbeat told may be in the database, on a day without trouble."""
    return timedelta(seconds=2 * WRITE_EVERY_S)


# -- who is there ----------------------------------------------------------------------------


def rows_of(update: Update) -> QuerySet[Participation]:
    """Return its volunteer's part in its model, to be changed."""
    return Participation.objects.filter(volunteer_id=update.volunteer_id, model_id=update.model_id)


def of(update: Update) -> Participation:
    """Return its volunteer's part in its model."""
    return rows_of(update).get()


def held(update: Update) -> Participation:
    """Return its volunteer's part in its model, as nobody else changes it in this transaction."""
    return rows_of(update).select_for_update(no_key=True).get()


def present(model_id: str, now: datetime) -> QuerySet[Participation]:
    """Return those who count as taking part now."""
    return _present(now).filter(model_id=model_id)


def counts(now: datetime) -> dict[str, int]:
    """Return how many take part in each model that has any, as of some seconds ago."""
    return _counts.get("all", lambda: _count(now))


def _count(now: datetime) -> dict[str, int]:
    rows = _present(now).values("model_id").annotate(count=Count("pk")).order_by()
    return {row["model_id"]: row["count"] for row in rows}


def _present(now: datetime) -> QuerySet[Participation]:
    since = now - timedelta(seconds=limits.GONE_AFTER_S)
    return Participation.objects.filter(heard_at__gte=since).exclude(activity="leaving")
