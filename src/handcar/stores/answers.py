"""What an HTTP answer means to us: fine, "no", or "not now"."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

from handcar.errors import Broken, LinkGone, Problem, Unreachable
from handcar.stores import links

BREAKS = (httpx2.ReadError, httpx2.WriteError, httpx2.CloseError, httpx2.RemoteProtocolError)
LATER = frozenset({408, 425, 429, 502, 503, 504})
LONGEST_WAIT_S = 24 * 3600.0
"""Nobody is waited for longer, whatever they ask."""
GONE = frozenset({401, 403, 404, 410})
"""What stores answer whose link is good no more: a signed one to 403, or 401, or 410."""


def lost(error: httpx2.HTTPError) -> type[Unreachable]:
    """Return what a failure is: Broken where a connection stood, else Unreachable."""
    return Broken if isinstance(error, BREAKS) else Unreachable


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
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if given.isdigit():
            return min(float(given), LONGEST_WAIT_S)
        wait_s = (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds()
        return min(max(0.0, wait_s), LONGEST_WAIT_S)
    return None


def raise_for_file(answer: httpx2.Response) -> None:
    """Raise for an answer that should have been a file's bytes, whoever gave it.

    Like `raise_for_answer`, and LinkGone where a fresh link may help. Services that say "not
    now" in words of their own are understood: Unreachable.
    """
    status, head, url = answer.status_code, answer.content, str(answer.request.url)
    if why := links.refusal(head, answer.headers, status, url):
        later = Unreachable(f"{url}: {why}")
        later.retry_after_s = retry_after_s(answer)
        raise later
    if status in GONE or links.is_expired(head, status):
        problem = problem_of(answer)
        raise LinkGone(type=problem.type, title=problem.title, status=status, detail=problem.detail)
    raise_for_answer(answer)
