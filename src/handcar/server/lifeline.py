"""A child process ends when the one that started it is gone, even by kill -9.

Nothing that the children do is lost when they just stop, so they just stop.
"""

from __future__ import annotations

import os
import threading
import time

import psutil

PARENT = "HANDCAR_PARENT"
"""Environment variable: the process id without which a child ends."""
POLL_S = 0.25


def environment() -> dict[str, str]:
    """Return the environment for a child that ends with this process."""
    # Else each of a web process's many threads gets a heap of its own, and keeps it.
    return {"MALLOC_ARENA_MAX": "2", **os.environ, PARENT: str(os.getpid())}


def watch(parent: int | None = None) -> None:
    """End this process soon after its parent; the parent is named by HANDCAR_PARENT or given."""
    named = parent or int(os.environ.get(PARENT, "0"))
    if named:
        threading.Thread(target=_end_with, args=(named,), daemon=True, name="lifeline").start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent and psutil.pid_exists(parent):
        time.sleep(POLL_S)
    os._exit(0)
