"""For whoever watches the server: `/api/v1/health`, `/api/v1/ready` and `/metrics`."""

from __future__ import annotations

import hmac
from typing import Literal

from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from handcar import __version__
from handcar.errors import HandcarError
from handcar.protocol import limits, problems
from handcar.protocol.messages import Body
from handcar.server import blobs, bodies, figures, limiting, setup
from handcar.server.memory import Kept
from handcar.server.openapi import refusals
from handcar.server.problems import Refusal

MIGRATED_S = 60.0
_migrated: Kept[tuple[str, ...]] = Kept(MIGRATED_S)
STORE_S = 10.0
_store: Kept[bool] = Kept(STORE_S)
"""A bucket costs money to ask, and balancers ask often."""
NOBODYS = f"{blobs.PREFIX}{'0' * 64}"
FORWARDED = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA")
NO_CLIENT = "prometheus-client is not installed: pip install 'handcar[scale]'\n"


class HealthReply(Body):
    """The server answers, and its database too."""

    status: Literal["ok"] = "ok"
    version: str = __version__
    protocol_version: str = limits.PROTOCOL_VERSION


class Health(APIView):
    """Whether the server works."""

    authentication_classes = ()

    @extend_schema(responses={200: HealthReply})
    def get(self, request: Request) -> HttpResponse:
        """Say that the server and its database answer."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return bodies.answer(HealthReply())


class ReadyReply(Body):
    """Everything that requests need is there."""

    status: Literal["ready"] = "ready"


class Ready(APIView):
    """Whether this process should be given requests."""

    authentication_classes = ()
    throttle_classes = (limiting.of("reads"),)

    @extend_schema(responses={200: ReadyReply, **refusals(429, 503)})
    def get(self, request: Request) -> HttpResponse:
        """Try database, tables and store; say all that is wrong."""
        wrong = (*database_faults(), *store_faults())
        if wrong:
            raise Refusal(problems.NOT_READY, "; ".join(wrong), errors=wrong)
        return bodies.answer(ReadyReply())


def database_faults() -> tuple[str, ...]:
    """Return what is wrong with the database and its tables, a sentence each."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return _migrated.get("all", _tables_faults)
    except DatabaseError as error:
        return (f"the database does not answer: {str(error).strip() or type(error).__name__}",)


def _tables_faults() -> tuple[str, ...]:
    missing = setup.missing_migrations()
    if not missing:
        return ()
    return (f"{len(missing)} migrations are to be run: start `handcar serve` of this version",)


def store_faults() -> tuple[str, ...]:
    """Return what is wrong with the store, a sentence each."""
    try:
        if not blobs.room_for(0):
            return ("the server is short of disk: volunteers' bytes are refused",)
        _store.get("all", lambda: blobs.present(NOBODYS))
    except (OSError, HandcarError) as error:
        return (f"the store does not answer: {error}",)
    return ()


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Give figures to Prometheus: with the token that the settings name, or on this machine."""
    if not _may_read(request):
        text = "give `Authorization: Bearer` and HANDCAR_METRICS_TOKEN, or ask from this machine\n"
        return HttpResponse(text, status=403, content_type="text/plain")
    page = figures.page(timezone.now())
    if page is None:
        return HttpResponse(NO_CLIENT, status=501, content_type="text/plain")
    return HttpResponse(page, content_type=figures.MEDIA_TYPE)


def _may_read(request: HttpRequest) -> bool:
    token = settings.HANDCAR.metrics_token
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if token:
        return hmac.compare_digest(given.encode(), token.encode())
    # What a proxy on this machine passes on seems to come from it, but for what it adds.
    forwarded = any(name in request.META for name in FORWARDED)
    return limiting.address_of(request) is None and not forwarded
