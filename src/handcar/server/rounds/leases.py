"""Who works on what: one merge or one way back for a model at a time, by any process anywhere.

A lease is the moment until which a row is taken, and that very moment proves whose it is: who
takes it later takes it until a later one. Its holder moves it on while it works. One that lost
it, because it stood still too long, can't commit: `expect` says so inside the transaction.
"""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import Error, connection
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from handcar.errors import StateConflict
from handcar.server.beside import beside
from handcar.server.catalog.models import TrainingModel
from handcar.server.rounds.models import Audit, Update, Version

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=30)
"""For so long nobody else takes up what one worker has begun."""
RENEW_EVERY = LEASE / 3
LONGEST = timedelta(hours=1)
"""What fails is tried again after this at the latest."""
OPEN = ("pending", "paused")
"""States of a model whose next version can be made."""


@dataclass(slots=True)
class Lease:
    """A row that this process works on alone."""

    row: Any
    name: str
    """Of the field that says until when."""
    until: datetime
    _change: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, **holds: Any) -> None:
        """Hold the row until the transaction ends. Raises StateConflict if it is another's now.

        `holds` is what must be true of the row as well.
        """
        with self._change:
            if self._set(self.until, **holds) != 1:
                raise StateConflict(f"{self.row} is another worker's by now, or was changed")

    def renew(self, now: datetime) -> bool:
        """Move it on; say whether it was still ours."""
        with self._change:
            until = max(now + LEASE, self.until)
            renewed = self._set(until) == 1
            if renewed:
                self.until = until
            return renewed

    def keep(self, until: datetime) -> None:
        """Keep it for a time, though nobody works on it: that failed, and other work goes first."""
        with self._change:
            if self._set(until) == 1:
                self.until = until

    def release(self, **changes: Any) -> None:
        """Let others take it at once."""
        with self._change:
            self._rows().update(**{self.name: None}, **changes)

    def renewed(self) -> AbstractContextManager[None]:
        """Renew it for as long as the block runs, from a thread that only does this."""
        return beside(self._renew_until)

    def _renew_until(self, done: threading.Event) -> None:
        try:
            while not done.wait(RENEW_EVERY.total_seconds()):
                try:
                    if not self.renew(timezone.now()):
                        return
                except Error as error:
                    # The next attempt comes well before the lease is over.
                    log.warning("the lease of %s could not be renewed: %s", self.row, error)
                    connection.close()
        finally:
            connection.close()

    def _rows(self) -> Any:
        return type(self.row)._default_manager.filter(pk=self.row.pk, **{self.name: self.until})

    def _set(self, until: datetime, **holds: Any) -> int:
        changed: int = self._rows().filter(**holds).update(**{self.name: until})
        return changed


def take(
    row: Any, name: str, now: datetime, among: QuerySet[Any] | None = None, **changes: Any
) -> Lease | None:
    """Take a row that is free, and still `among` those to be taken; none when it is not."""
    every = type(row)._default_manager.all() if among is None else among
    rows = every.filter(free(name, now), pk=row.pk)
    until = now + LEASE
    return Lease(row, name, until) if rows.update(**{name: until}, **changes) == 1 else None


def free(name: str, now: datetime) -> Q:
    """Return the condition that nobody has a row.

    Nobody takes one for so long as a clock that was set back would make of it.
    """
    past, never = Q(**{f"{name}__lt": now}), Q(**{f"{name}__gt": now + 2 * LONGEST})
    return Q(**{f"{name}__isnull": True}) | past | never


# -- merges ----------------------------------------------------------------------------------


def claim_merge(model: TrainingModel, now: datetime) -> Lease | None:
    """Take a model to make its next version; none when somebody else has it."""
    return take(model, "merge_leased_until", now)


def release_merge(lease: Lease) -> None:
    """Let the next one be made at once: this one went well."""
    lease.release(merge_attempts=0)


def count_failed_merge(lease: Lease, now: datetime) -> int:
    """Keep a model for a while after a failure, twice as long each time; return how many."""
    rows = TrainingModel.objects.filter(id=lease.row.pk)
    rows.update(merge_attempts=F("merge_attempts") + 1)
    attempts: int = rows.values_list("merge_attempts", flat=True).get()
    lease.keep(now + min(LEASE * 2 ** min(attempts - 1, 20), LONGEST))
    return attempts


def release_all() -> None:
    """Forget who works on what: for a server with one worker, which was killed."""
    for rows, name in (
        (Update.objects, "leased_until"),
        (Version.objects, "leased_until"),
        (Audit.objects, "leased_until"),
        (TrainingModel.objects, "merge_leased_until"),
    ):
        rows.filter(**{f"{name}__isnull": False}).update(**{name: None})
