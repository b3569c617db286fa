"""Around every request: its id, how long it took, and headers that only pages need."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from csp.middleware import CSPMiddleware
from django.http import HttpRequest, HttpResponseBase

from handcar.server import front, logs, metrics
from handcar.server.rounds import pressure

log = logging.getLogger(__name__)

METHODS = {"GET", "HEAD", "POST", "PATCH", "OPTIONS"}


class Watch:
    """Middleware, the outermost."""

    def __init__(self, answer: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._answer = answer

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer, under the request's id, and count."""
        id = logs.taken_or_made(request.META.get("HTTP_X_REQUEST_ID", ""))
        began = request.META.get(front.ASKED_AT, time.perf_counter())
        with logs.about(id):
            response = self._answer(request)
            seconds = time.perf_counter() - began
            log.debug(
                "%s %s: %d, %.1f ms",
                request.method,
                request.path,
                response.status_code,
                1e3 * seconds,
            )
        response[logs.HEADER] = id
        _count(request, response, seconds)
        return response


def _count(request: HttpRequest, response: HttpResponseBase, seconds: float) -> None:
    method = request.method if request.method in METHODS else "other"
    match = request.resolver_match
    metrics.answered(str(method), match.route if match else "none", response.status_code, seconds)
    sent, given = request.META.get("CONTENT_LENGTH") or "0", response.get("Content-Length", "0")
    metrics.moved(up=int(sent) if sent.isdigit() else 0, down=int(given) if given.isdigit() else 0)
    pressure.requests.note(seconds)


class ContentPolicy(CSPMiddleware):
    """The content policy, for what a browser shows."""

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        """Put it on pages; JSON and bytes need none."""
        if not response.get("Content-Type", "").startswith("text/html"):
            return response
        answer: HttpResponseBase = super().process_response(request, response)
        return answer
