"""Django's SQLite, with one writer of a process at a time.

SQLite has one writer, and whoever waits for its lock looks again after ever longer naps. One that
waits has it soon; of sixty threads that do, most sleep while it is free, and the web server with
them. So the threads of a process wait for each other here, where the next one wakes at once,
and a process has at most one at SQLite's own lock, beside the worker's.
"""

from __future__ import annotations

import threading
from typing import Any

from django.db.backends.sqlite3 import base
from django.db.utils import OperationalError

WAIT_S = 20.0
WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE")

_turn = threading.Lock()


def _wait() -> None:
    if not _turn.acquire(timeout=WAIT_S):
        raise OperationalError(f"database is locked: other threads wrote for {WAIT_S:g} s")


class Cursor(base.SQLiteCursorWrapper):
    """Waits for its turn before a write that is a transaction of its own."""

    def execute(self, query: str, params: Any = None) -> Any:
        """Run one statement."""
        if self.connection.in_transaction or not query.startswith(WRITES):
            return super().execute(query, params)
        _wait()
        try:
            return super().execute(query, params)
        finally:
            _turn.release()


class DatabaseWrapper(base.DatabaseWrapper):
    """Holds the turn from the beginning of a transaction to its end, however it ends."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._has_turn = False

    def create_cursor(self, name: str | None = None) -> Any:
        """Return a cursor that waits for its turn."""
        return self.connection.cursor(factory=Cursor)

    def _start_transaction_under_autocommit(self) -> None:
        _wait()
        self._has_turn = True
        try:
            super()._start_transaction_under_autocommit()  # type: ignore[misc]
        except BaseException:
            self._end_turn()
            raise

    def _commit(self) -> None:
        super()._commit()  # type: ignore[misc] # the stubs have none of these
        self._end_turn()  # where it fails, Django rolls back

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]
        finally:
            self._end_turn()

    def _close(self) -> None:
        try:
            super()._close()  # type: ignore[misc]
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            _turn.release()
