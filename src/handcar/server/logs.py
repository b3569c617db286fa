"""What the server's processes write about what they do: lines for people, or JSON for programs.

Every line names the request that it is about. An update keeps the id of the request that
announced it, so one id leads from the volunteer through web and worker to the version that the
update landed in.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

HEADER = "X-Request-ID"
WELL_FORMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,63}")

_current: ContextVar[str] = ContextVar("request_id", default="")


def request_id() -> str:
    """Return the id of the request that this thread works on; empty where there is none."""
    return _current.get()


def taken_or_made(given: str) -> str:
    """Return the id that a client gave, if it may stand in a log; else a new one."""
    return given if WELL_FORMED.fullmatch(given) else secrets.token_hex(12)


@contextmanager
def about(id: str) -> Iterator[None]:
    """Let all that is logged in the block name this request."""
    token = _current.set(id)
    try:
        yield
    finally:
        _current.reset(token)


class Named(logging.Filter):
    """Puts the request's id on every record, unless the record has one."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass."""
        if not hasattr(record, "request_id"):
            record.request_id = request_id()
        return True


class Line(logging.Formatter):
    """One line, the request's id at its end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line without a traceback."""
        id = getattr(record, "request_id", "")
        return super().formatMessage(record) + (f" [{id}]" if id else "")


class Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON; a traceback is one of its texts."""
        told: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if id := getattr(record, "request_id", ""):
            told["request_id"] = id
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def settings(level: str, format: str) -> dict[str, Any]:
    """Return Django's LOGGING."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"named": {"()": Named}},
        "formatters": {"line": {"()": Line}, "json": {"()": Json}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": format, "filters": ["named"]}
        },
        # A "no" to a client is no trouble of the server's.
        "loggers": {"django.request": {"level": "ERROR"}},
        "root": {"handlers": ["stderr"], "level": level},
    }
