"""The API of the training itself. Each view reads, calls one service, and answers."""

from __future__ import annotations

import uuid

from django.http import HttpResponse, HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import RootModel
from rest_framework.request import Request
from rest_framework.views import APIView

from handcar.files import MB
from handcar.protocol import problems
from handcar.protocol.messages import (
    Assignment,
    Export,
    Heartbeat,
    HeartbeatReply,
    ModelChange,
    ModelStatus,
    ModelSummary,
    PublishRequest,
    Series,
    UpdateAnnouncement,
    UpdateStatus,
)
from handcar.server import blobs, bodies, uploading
from handcar.server.authentication import IsOwner, IsVolunteer, owner, volunteer
from handcar.server.catalog import services as catalog
from handcar.server.openapi import refusals
from handcar.server.problems import Refusal
from handcar.server.rounds import assignments, downloads, heartbeats, series, services
from handcar.server.rounds.models import ANNOUNCED, Update

PUBLISH_BYTES = 64 * MB
"""A manifest of 100,000 chunks, with room for links."""


class ModelSummaries(RootModel[tuple[ModelSummary, ...]]):
    """`GET /list`."""


def files_root(request: Request) -> str:
    """Return the address under which this server serves files."""
    return request.build_absolute_uri("/api/v1/files/")


class ModelList(APIView):
    """All models, for everyone."""

    authentication_classes = ()

    @extend_schema(responses={200: ModelSummaries})
    def get(self, request: Request) -> HttpResponse:
        """List every model."""
        return bodies.answer(assignments.summaries(timezone.now()))


class Default(APIView):
    """The model that needs volunteers most."""

    permission_classes = (IsVolunteer,)

    @extend_schema(responses={200: Assignment, **refusals(401, 403, 404)})
    def get(self, request: Request) -> HttpResponse:
        """Pick a model for this volunteer."""
        return bodies.answer(
            assignments.pick(volunteer(request), timezone.now(), files_root(request))
        )


class Model(APIView):
    """One model to train."""

    permission_classes = (IsVolunteer,)

    @extend_schema(
        parameters=[OpenApiParameter("model_id", str, required=True)],
        responses={200: Assignment, **refusals(400, 401, 403, 404, 410)},
    )
    def get(self, request: Request) -> HttpResponse:
        """Assign this model to this volunteer."""
        model_id = request.query_params.get("model_id", "")
        if not model_id:
            raise Refusal(problems.BAD_REQUEST, "expected ?model_id=NAME; GET /list tells names")
        now, root = timezone.now(), files_root(request)
        return bodies.answer(assignments.assign_named(volunteer(request), model_id, now, root))


class Heartbeats(APIView):
    """I am here."""

    permission_classes = (IsVolunteer,)

    @extend_schema(
        request=Heartbeat, responses={200: HeartbeatReply, **refusals(400, 401, 403, 404, 413)}
    )
    def post(self, request: Request) -> HttpResponse:
        """Say where this volunteer is; hear where everything stands."""
        heartbeat = bodies.parse(request, Heartbeat)
        return bodies.answer(heartbeats.hear(volunteer(request), heartbeat, timezone.now()))


class Updates(APIView):
    """Updates, announced."""

    permission_classes = (IsVolunteer,)

    @extend_schema(
        request=UpdateAnnouncement,
        responses={200: UpdateStatus, **refusals(400, 401, 403, 404, 409, 410, 413, 429, 507)},
    )
    def post(self, request: Request) -> HttpResponse:
        """Announce an update; repeating it is harmless."""
        facts = bodies.parse(request, UpdateAnnouncement)
        now = timezone.now()
        update = services.settle(services.announce(volunteer(request), facts, now), now)
        return _status(request, update)


class OneUpdate(APIView):
    """One update of this volunteer."""

    permission_classes = (IsVolunteer,)

    @extend_schema(responses={200: UpdateStatus, **refusals(401, 403, 404)})
    def get(self, request: Request, id: uuid.UUID) -> HttpResponse:
        """Tell where it is in its life."""
        return _status(request, services.find(volunteer(request), id))


class UpdateBytes(APIView):
    """The bytes of one update, sent at an offset."""

    permission_classes = (IsVolunteer,)

    @extend_schema(request=None, responses={200: None, **refusals(401, 403, 404)})
    def head(self, request: Request, id: uuid.UUID) -> HttpResponse:
        """Tell the offset in `Upload-Offset`."""
        update = services.settle(services.find(volunteer(request), id), timezone.now())
        return uploading.tell(services.upload_of(update))

    @extend_schema(
        parameters=[uploading.OFFSET],
        request={uploading.MEDIA_TYPE: OpenApiTypes.BINARY},
        responses={200: UpdateStatus, **refusals(400, 401, 403, 404, 409, 413, 460, 507)},
    )
    def patch(self, request: Request, id: uuid.UUID) -> HttpResponse:
        """Append bytes at the offset; the answer to the last ones says `received`."""
        update = services.settle(services.find(volunteer(request), id), timezone.now())
        if update.state == ANNOUNCED:
            uploading.take(request, services.upload_of(update))
            update = services.settle(update, timezone.now())
        return _status(request, update)


class SeriesOfModel(APIView):
    """The frames of a model's versions."""

    authentication_classes = ()

    @extend_schema(responses={200: Series, **refusals(404)})
    def get(self, request: Request, model_id: str) -> HttpResponse:
        """List the newest keyframe and the deltas."""
        frames = series.of(model_id, files_root(request))
        return bodies.answer(frames, headers={"Cache-Control": "no-cache"})


class Files(APIView):
    """Public bytes by digest."""

    authentication_classes = ()

    @extend_schema(
        parameters=[OpenApiParameter("Range", str, OpenApiParameter.HEADER)],
        responses={
            (200, "application/octet-stream"): OpenApiTypes.BINARY,
            (206, "application/octet-stream"): OpenApiTypes.BINARY,
            304: None,
            416: None,
            **refusals(404),
        },
    )
    def get(self, request: Request, name: str) -> HttpResponseBase:
        """Fetch a chunk, a frame or a model file, or one range of it."""
        return downloads.serve(request, blobs.PREFIX + name)

    @extend_schema(responses={200: None, 206: None, 304: None, 416: None, **refusals(404)})
    def head(self, request: Request, name: str) -> HttpResponseBase:
        """Tell the size of a file."""
        return downloads.serve(request, blobs.PREFIX + name)


class Models(APIView):
    """Publishing."""

    permission_classes = (IsOwner,)

    @extend_schema(
        request=PublishRequest,
        responses={
            200: ModelStatus,
            201: ModelStatus,
            **refusals(400, 401, 403, 409, 413, 422, 507),
        },
    )
    def post(self, request: Request) -> HttpResponse:
        """Publish a model and its data set; the same content again is harmless."""
        publication = bodies.parse(request, PublishRequest, most=PUBLISH_BYTES)
        model, is_new = catalog.publish(owner(request), publication)
        status = assignments.status(model.pk, timezone.now())
        return bodies.answer(status, status=201 if is_new else 200)


class OneModel(APIView):
    """One model: for everyone to look at, for its owner to change."""

    def get_permissions(self) -> list[IsOwner]:
        """Ask for an owner, unless only to look."""
        return [] if self.request.method in ("GET", "HEAD", "OPTIONS") else [IsOwner()]

    @extend_schema(auth=[], responses={200: ModelStatus, **refusals(404)})
    def get(self, request: Request, model_id: str) -> HttpResponse:
        """Tell how a model stands, its history and who trains it."""
        return bodies.answer(assignments.status(model_id, timezone.now()))

    @extend_schema(
        request=ModelChange,
        responses={200: ModelStatus, **refusals(400, 401, 403, 404, 409, 413)},
    )
    def patch(self, request: Request, model_id: str) -> HttpResponse:
        """Pause it, go on, or finish it."""
        change = bodies.parse(request, ModelChange)
        model = catalog.owned(owner(request), model_id)
        services.change_state(model.pk, change.state, timezone.now())
        return bodies.answer(assignments.status(model_id, timezone.now()))


class ExportOfModel(APIView):
    """The weights of a version, for the model's owner."""

    permission_classes = (IsOwner,)

    @extend_schema(
        parameters=[OpenApiParameter("version", int, description="The newest when left out.")],
        responses={200: Export, **refusals(400, 401, 403, 404, 410)},
    )
    def get(self, request: Request, model_id: str) -> HttpResponse:
        """Link to a keyframe of a version, and to the model file."""
        model = catalog.owned(owner(request), model_id)
        number = _version_number(request)
        return bodies.answer(series.export(model, number, files_root(request)))


def _version_number(request: Request) -> int | None:
    text = request.query_params.get("version")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refusal(problems.BAD_REQUEST, f"expected ?version=NUMBER, got {text!r}")
    return int(text)


def _status(request: Request, update: Update) -> HttpResponse:
    url = request.build_absolute_uri(f"/api/v1/updates/{update.pk}/bytes")
    status = services.status(update, url)
    return bodies.answer(status, headers={"Upload-Offset": str(status.offset)})
