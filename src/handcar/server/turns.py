"""Some work is dear: only so much of it goes on at once, and who comes meanwhile waits a little.

Waiting in line costs a thread that sleeps; an answer such as 503 costs another request from
everyone, at once. Only when the line itself is too long are clients asked to come back.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from handcar.protocol import problems
from handcar.server.problems import Refusal

AGAIN_S = 15


class Turns:
    """So many at once, so many in line."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._turns = threading.BoundedSemaphore(at_once)
        self._most = at_once + waiting
        self._lock = threading.Lock()
        self.here = 0
        """How many work or wait."""

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn and have it for as long as the block runs. Raises Refusal."""
        with self._lock:
            if self.here >= self._most:
                raise Refusal(
                    problems.TOO_MANY,
                    "very many volunteers begin right now: yours comes next",
                    headers={"Retry-After": str(random.randint(AGAIN_S, 4 * AGAIN_S))},  # noqa: S311
                )
            self.here += 1
        try:
            with self._turns:
                yield
        finally:
            with self._lock:
                self.here -= 1
