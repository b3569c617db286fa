"""`GET /api/v1/health`: for whoever watches the server."""

from __future__ import annotations

from typing import Literal

from django.db import connection
from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from handcar import __version__
from handcar.protocol import limits
from handcar.protocol.messages import Body
from handcar.server import bodies


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
