"""What an HTTP answer means to us: fine, "no", or "not now"."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

from handcar.errors import Problem, Unreachable

LATER = frozenset({408, 425, 429, 502, 503, 504})


def raise_for_answer(answer: httpx2.Response) -> None:
    """Raise Unreachable for "not now", Problem for any other "no".

    Unreachable then carries `retry_after_s` when the other side said how long to wait.
    """
    if answer.status_code < 400:
        return
    problem = problem_of(answer)
    if answer.status_code in LATER:
        later = Unreachable(f"{problem} (HTTP {answer.status_code})")
        later.retry_after_s = retry_after_s(answer)
        raise later
    raise problem


def problem_of(answer: httpx2.Response) -> Problem:
    """Read a problem document (RFC 9457), or make one of whatever came instead."""
    body: object = None
    if "json" in answer.headers.get("Content-Type", ""):
        with contextlib.suppress(ValueError):
            body = answer.json()
    facts = body if isinstance(body, dict) else {}
    title = str(facts.get("title") or f"{answer.request.url} answered HTTP {answer.status_code}")
    return Problem(
        type=str(facts.get("type") or "about:blank"),
        title=title,
        status=answer.status_code,
        detail=str(facts.get("detail") or ""),
    )


def retry_after_s(answer: httpx2.Response) -> float | None:
    """Return the seconds that Retry-After asks to wait, given as a number or a date."""
    given = answer.headers.get("Retry-After", "")
    if given.isdigit():
        return float(given)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds())
    return None
