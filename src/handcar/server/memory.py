"""What a web process remembers for a moment, so that a crowd asks the database once.

Only what may be some seconds old is kept here. Nothing is shared between processes: each looks
for itself, and none has to be told.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakSet

Value = TypeVar("Value")

LONGEST_S = float("inf")
"""Tests set it to 0: then nothing is remembered."""
_all: WeakSet[Kept] = WeakSet()  # type: ignore[type-arg]


class Kept(Generic[Value]):
    """Values by key, each made anew when it is older than so many seconds."""

    def __init__(self, seconds: float, *, most: int = 1_000) -> None:
        self._seconds = seconds
        self._most = most
        self._values: dict[Hashable, tuple[float, Value]] = {}
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()
        _all.add(self)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value; while one thread makes it anew, the others go on with the last.

        They wait where that is ten times as old as it may be, or where there is none.
        """
        found = self._values.get(key)
        if found is not None and self._is_young(found[0]):
            return found[1]
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        if found is not None and self._is_young(found[0], times=10):
            if not making.acquire(blocking=False):
                return found[1]
        else:
            making.acquire()
        try:
            found = self._values.get(key)  # another thread may have made it meanwhile
            if found is not None and self._is_young(found[0]):
                return found[1]
            # As old as when it was asked for, not when it was answered.
            began, value = time.monotonic(), make()
            self._put(key, began, value)
        finally:
            making.release()
            self._tidy(key)
        return value

    def find(self, key: Hashable) -> Value | None:
        """Return the value if there is one that is young enough."""
        found = self._values.get(key)
        return found[1] if found is not None and self._is_young(found[0]) else None

    def put(self, key: Hashable, value: Value) -> None:
        """Remember a value from now on."""
        self._put(key, time.monotonic(), value)

    def drop(self, key: Hashable) -> None:
        """Forget one value."""
        with self._lock:
            self._values.pop(key, None)
            self._making.pop(key, None)

    def clear(self) -> None:
        """Forget all values."""
        with self._lock:
            self._values.clear()
            self._making.clear()

    def _is_young(self, made_at: float, *, times: int = 1) -> bool:
        return time.monotonic() - made_at < times * min(self._seconds, LONGEST_S)

    def _put(self, key: Hashable, made_at: float, value: Value) -> None:
        with self._lock:
            if key not in self._values and len(self._values) >= self._most:
                self._make_room()
            self._values[key] = (made_at, value)

    def _tidy(self, key: Hashable) -> None:
        """Keep no lock for what could not be made: strangers choose some of the keys."""
        with self._lock:
            if key not in self._values:
                self._making.pop(key, None)

    def _make_room(self) -> None:
        """Forget what is too old; where that is nothing, the half that came first."""
        old = [key for key, (made_at, _) in self._values.items() if not self._is_young(made_at)]
        for key in old or list(self._values)[: self._most // 2 + 1]:
            self._values.pop(key)
            self._making.pop(key, None)


def forget() -> None:
    """Forget everything, in this process."""
    for kept in list(_all):
        kept.clear()
