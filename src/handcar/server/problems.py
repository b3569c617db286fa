"""Every "no" of the API as an RFC 9457 problem document."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.views import defaults
from rest_framework import exceptions

from handcar.errors import (
    BadInput,
    DiskFull,
    ModelFileError,
    Problem,
    StateConflict,
    StoreAway,
)
from handcar.protocol import problems
from handcar.protocol.messages import Body
from handcar.protocol.problems import ProblemType
from handcar.server import logs

log = logging.getLogger(__name__)

LATER = "the server's store does not answer just now: try again later"
RETRY_S = "30"


class ProblemDocument(Body):
    """What the API answers when it says no."""

    type: str
    title: str
    status: int
    detail: str = ""
    errors: tuple[str, ...] = ()
    """Each thing wrong with a model file or a body, by its path."""
    request_id: str = ""
    """By which the server's log names this request."""


class Refusal(Problem):
    """A "no" with the headers and the list of faults that go with it."""

    def __init__(
        self,
        kind: ProblemType,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: tuple[str, ...] = (),
    ) -> None:
        super().__init__(type=kind.type, title=kind.title, status=kind.status, detail=detail)
        self.headers = dict(headers or {})
        self.errors = errors


def document(problem: Problem) -> HttpResponse:
    """Return a problem as the response that says it."""
    body = ProblemDocument(
        type=problem.type,
        title=problem.title,
        status=problem.status,
        detail=problem.detail,
        errors=getattr(problem, "errors", ()),
        request_id=logs.request_id(),
    )
    text = json.dumps(body.model_dump(exclude_defaults=True))
    response = HttpResponse(text, status=problem.status, content_type=problems.MEDIA_TYPE)
    for name, value in getattr(problem, "headers", {}).items():
        response[name] = value
    return response


def handle(error: Exception, context: dict[str, Any]) -> HttpResponse | None:
    """Answer an error of a view; what we don't know goes on to Django, which logs it."""
    problem = translate(error)
    return document(problem) if problem is not None else None


def translate(error: Exception) -> Problem | None:
    """Return the problem that an exception stands for, or none."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, exceptions.APIException):
        return _from_framework(error)
    if isinstance(error, ModelFileError):
        faults = tuple(str(problem) for problem in error.problems)
        return Refusal(problems.MODEL_FILE, str(error), errors=faults)
    if isinstance(error, StoreAway):
        log.warning("%s", error)
        return Refusal(problems.STORE_AWAY, LATER, headers={"Retry-After": RETRY_S})
    for kind, problem in OURS:
        if isinstance(error, kind):
            return Refusal(problem, str(error))
    return None


OURS: tuple[tuple[type[Exception], ProblemType], ...] = (
    (BadInput, problems.BAD_REQUEST),
    (StateConflict, problems.CONFLICT),
    (DiskFull, problems.SERVER_FULL),
    (Http404, problems.NOT_FOUND),
    (PermissionDenied, problems.FORBIDDEN),
)

FRAMEWORK: tuple[tuple[type[exceptions.APIException], ProblemType], ...] = (
    (exceptions.NotAuthenticated, problems.UNAUTHENTICATED),
    (exceptions.AuthenticationFailed, problems.UNAUTHENTICATED),
    (exceptions.PermissionDenied, problems.FORBIDDEN),
    (exceptions.NotFound, problems.NOT_FOUND),
    (exceptions.MethodNotAllowed, problems.METHOD),
    (exceptions.Throttled, problems.TOO_MANY),
)


def _from_framework(error: exceptions.APIException) -> Refusal:
    kinds = [problem for kind, problem in FRAMEWORK if isinstance(error, kind)]
    headers = {}
    if kinds and kinds[0] is problems.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    if (wait_s := getattr(error, "wait", None)) is not None:
        headers["Retry-After"] = str(int(wait_s) + 1)
    kind = kinds[0] if kinds else problems.BAD_REQUEST
    return Refusal(kind, str(error.detail), headers=headers)


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer an address that does not exist: a document under /api/, else a page."""
    if not request.path.startswith("/api/"):
        return defaults.page_not_found(request, exception)
    detail = f"{request.path} is not an address of this server; see /api/v1/openapi.json"
    return document(Refusal(problems.NOT_FOUND, detail))


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer a request that Django itself could not read."""
    if not request.path.startswith("/api/"):
        return defaults.bad_request(request, exception)
    return document(Refusal(problems.BAD_REQUEST, "its address or its headers are malformed"))


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer when the server failed; the log has the traceback."""
    if not request.path.startswith("/api/"):
        return defaults.server_error(request)
    detail = "the fault is the server's and in its log; trying again later is safe"
    return document(Refusal(problems.SERVER_FAULT, detail))
