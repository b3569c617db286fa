"""Virtual time: what happens when, in order."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Clock:
    """Calls what is due in the order of its time; what is due at once, in the order given."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the simulation began."""
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call `call` in so many seconds."""
        heapq.heappush(self._due, (self.now + seconds, next(self._order), call))

    def step(self) -> bool:
        """Let the next thing happen; say whether there was one."""
        if not self._due:
            return False
        self.now, _, call = heapq.heappop(self._due)
        call()
        return True
