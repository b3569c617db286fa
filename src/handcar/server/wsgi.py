"""The WSGI application, for any server that speaks it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from django.core.wsgi import get_wsgi_application

from handcar.server import configuration, lean, lifeline
from handcar.server.front import Front

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "handcar.server.settings")

lean.leave_out(configuration.read(os.environ))
application: Callable[..., Iterable[Any]] = get_wsgi_application()


def watched() -> Front:
    """Return what answers, in a process that ends with the web server that started it."""
    lifeline.watch(os.getppid())
    return Front(application, configuration.read(os.environ).threads)
