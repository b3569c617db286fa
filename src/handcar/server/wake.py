"""Tell the workers that there is something to do, where a broker carries the word.

Nothing rests on it: what there is to do stands in the state tables, and workers look there
anyway. So a request only leaves word and goes on; one thread of this process passes it on, many
at once as one, and what a broker doesn't take within seconds is dropped.
"""

from __future__ import annotations

import logging
import threading
import time

from django.conf import settings
from django.db import transaction

log = logging.getLogger(__name__)

TOGETHER_S = 0.05
"""What comes within so long is passed on as one."""
AFTER_FAULT_S = 5.0
"""A broker that didn't answer is left alone for so long."""


def workers() -> None:
    """Wake the workers once this transaction is committed."""
    if settings.HANDCAR.broker is not None:
        transaction.on_commit(_bell.ring)


class Bell:
    """The thread that passes the word on; it is started by the first who rings."""

    def __init__(self) -> None:
        self._rung = threading.Event()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None

    def ring(self) -> None:
        """Leave word; returns at once, whatever the broker does."""
        self._rung.set()
        with self._start:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, daemon=True, name="bell")
                self._thread.start()

    def _run(self) -> None:
        from handcar.server import celery

        while True:
            self._rung.wait()
            time.sleep(TOGETHER_S)
            self._rung.clear()
            try:
                celery.send()
            except Exception as error:
                # Whatever it was: workers look for themselves, only a little later.
                log.warning("the broker takes no word for the workers: %s", error)
                time.sleep(AFTER_FAULT_S)


_bell = Bell()
