"""A server that is being moved answers "in a moment" to everyone, and its worker waits.

A file in its folder says so. Whoever moves it touches the file every few seconds, so that a
move that was killed does not stop a server for ever; once it has moved, the file says that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from handcar import files
from handcar.protocol import problems
from handcar.server.beside import beside
from handcar.server.home import Home
from handcar.server.problems import Refusal, document

FRESH_S = 30.0
TOUCH_EVERY_S = 2.0
RETRY_S = "10"
MOVED = b"moved"
TEXT = "this server is being moved to other engines: try again in a moment; nothing is lost"


class Pausing:
    """Answers every request while the server is paused."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer a request."""
        if is_paused():
            return document(Refusal(problems.MOVING, TEXT, headers={"Retry-After": RETRY_S}))
        return self._get_response(request)


def is_paused() -> bool:
    """Say whether this server is being moved, or has been, and still runs as it was."""
    if not settings.HANDCAR.is_embedded:
        return False
    path = marker(settings.HANDCAR_HOME)
    try:
        return time.time() - path.stat().st_mtime < FRESH_S or path.read_bytes() == MOVED
    except FileNotFoundError:
        return False


def marker(home: Home) -> Path:
    """Return the file that says so."""
    return home.folder / "moving"


@contextmanager
def paused(home: Home) -> Iterator[None]:
    """Pause a server for as long as the block runs, and for good once `moved` was called."""
    path = marker(home)
    files.write(path, b"")
    try:
        with beside(partial(_keep_fresh, path)):
            yield
    finally:
        if path.read_bytes() != MOVED:
            path.unlink()


def moved(home: Home) -> None:
    """Pause a server until it is started again, with its new settings."""
    files.write(marker(home), MOVED)


def _keep_fresh(path: Path, done: threading.Event) -> None:
    while not done.wait(TOUCH_EVERY_S):
        path.touch()
