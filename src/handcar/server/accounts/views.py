"""`POST /volunteers`."""

from __future__ import annotations

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from handcar.protocol.messages import JoinReply, JoinRequest
from handcar.server import bodies, limiting
from handcar.server.accounts import services
from handcar.server.openapi import refusals


class Volunteers(APIView):
    """Joining, without an account."""

    authentication_classes = ()
    throttle_classes = (limiting.of("joins"),)

    @extend_schema(request=JoinRequest, responses={201: JoinReply, **refusals(400, 413, 426, 429)})
    def post(self, request: Request) -> HttpResponse:
        """Join: a token, to be kept by the client."""
        return bodies.answer(services.join(bodies.parse(request, JoinRequest)), status=201)
