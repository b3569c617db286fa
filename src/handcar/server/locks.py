"""Locks on open files that end with the process that holds them, kill -9 included."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handcar.errors import HandcarError

if sys.platform == "win32":
    import msvcrt

    # Far behind any content: on Windows a locked byte can't be read by others.
    PLACE = 2**31 - 2

    def _lock(descriptor: int, *, wait: bool) -> None:
        here = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, PLACE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, here, os.SEEK_SET)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, PLACE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int, *, wait: bool) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class Taken(HandcarError):
    """Another process holds the lock."""


@contextmanager
def held(descriptor: int) -> Iterator[None]:
    """Hold an open file alone; waits for who holds it now."""
    _lock(descriptor, wait=True)
    try:
        yield
    finally:
        _unlock(descriptor)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold `path` for as long as the block runs. Raises Taken at once when another does."""
    with path.open("ab") as file:
        try:
            _lock(file.fileno(), wait=False)
        except OSError:
            raise Taken(f"{path} is held by another process") from None
        try:
            yield
        finally:
            _unlock(file.fileno())
