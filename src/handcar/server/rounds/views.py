"""The API of the training itself. Each view reads, calls one service, and answers."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.http import HttpResponse, HttpResponseBase
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.gzip import gzip_page
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import RootModel
from rest_framework.request import Request
from rest_framework.views import APIView

from handcar.files import MB
from handcar.protocol import problems
from handcar.protocol.messages import (
    Assignment,
    AuditAnswer,
    AuditTask,
    Export,
    Heartbeat,
    HeartbeatReply,
    MirrorsReply,
    MirrorsRequest,
    ModelChange,
    ModelStatus,
    ModelSummary,
    PublishRequest,
    RollbackReply,
    RollbackRequest,
    Series,
    UpdateAnnouncement,
    UpdateStatus,
)
from handcar.server import addresses, blobs, bodies, direct, limiting, memory, metrics, uploading
from handcar.server.accounts import services as accounts
from handcar.server.authentication import IsOwner, IsVolunteer, owner, volunteer
from handcar.server.catalog import services as catalog
from handcar.server.memory import Kept
from handcar.server.openapi import refusals
from handcar.server.problems import Refusal
from handcar.server.rounds import (
    assignments,
    auditors,
    downloads,
    heartbeats,
    rollback,
    series,
    services,
)
from handcar.server.rounds.models import ANNOUNCED, Update

SERIES_KEPT_S = 10.0
STATUS_KEPT_S = 1.0
_series: Kept[str] = Kept(SERIES_KEPT_S, most=200)
_statuses: Kept[str] = Kept(STATUS_KEPT_S, most=200)
_lists: Kept[tuple[str, str | None]] = Kept(STATUS_KEPT_S, most=200)
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
    throttle_classes = (limiting.of("reads"),)

    @extend_schema(
        parameters=[
            OpenApiParameter("after", str, description="Go on behind the model of this id."),
            OpenApiParameter("limit", int, description="At most 500; 100 when left out."),
        ],
        responses={200: ModelSummaries, **refusals(400, 404, 429)},
    )
    def get(self, request: Request) -> HttpResponse:
        """List models, oldest first; the header `Link` leads to those that follow."""
        most = _number(request, "limit", most=assignments.LISTED_MOST) or assignments.LISTED
        after = request.query_params.get("after")
        text, last = _lists.get((after, most), lambda: _page(after, most))
        return bodies.answer(text, headers=_next(request, last, most))


@method_decorator(gzip_page, name="dispatch")
class Default(APIView):
    """The model that needs volunteers most."""

    permission_classes = (IsVolunteer,)
    throttle_classes = (limiting.of("assignments"),)

    @extend_schema(responses={200: Assignment, **refusals(401, 403, 404, 429)})
    def get(self, request: Request) -> HttpResponse:
        """Pick a model for this volunteer."""
        return bodies.answer(
            assignments.pick(volunteer(request), timezone.now(), files_root(request))
        )


@method_decorator(gzip_page, name="dispatch")
class Model(APIView):
    """One model to train."""

    permission_classes = (IsVolunteer,)
    throttle_classes = (limiting.of("assignments"),)

    @extend_schema(
        parameters=[OpenApiParameter("model_id", str, required=True)],
        responses={200: Assignment, **refusals(400, 401, 403, 404, 410, 429)},
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
    throttle_classes = (limiting.of("heartbeats"),)

    @extend_schema(
        request=Heartbeat, responses={200: HeartbeatReply, **refusals(400, 401, 403, 404, 413, 429)}
    )
    def post(self, request: Request) -> HttpResponse:
        """Say where this volunteer is; hear where everything stands."""
        heartbeat = bodies.parse(request, Heartbeat)
        metrics.heard()
        return bodies.answer(heartbeats.hear(volunteer(request), heartbeat, timezone.now()))


class Updates(APIView):
    """Updates, announced."""

    permission_classes = (IsVolunteer,)
    throttle_classes = (limiting.of("updates"),)

    @extend_schema(
        request=UpdateAnnouncement,
        responses={200: UpdateStatus, **refusals(400, 401, 403, 404, 409, 410, 413, 429, 507)},
    )
    def post(self, request: Request) -> HttpResponse:
        """Announce an update; repeating it is harmless."""
        facts = bodies.parse(request, UpdateAnnouncement)
        now, who = timezone.now(), volunteer(request)
        accounts.note_address(who, addresses.block(request))
        update = services.settle(services.announce(who, facts, now), now)
        if update.announced_at != now:  # it may be there, and the answer that said so was lost
            update = services.settle_direct(update, now)
        return _status(request, update, now)


class OneUpdate(APIView):
    """One update of this volunteer."""

    permission_classes = (IsVolunteer,)
    throttle_classes = (limiting.of("updates"),)

    @extend_schema(responses={200: UpdateStatus, **refusals(401, 403, 404, 429)})
    def get(self, request: Request, id: uuid.UUID) -> HttpResponse:
        """Tell where it is in its life."""
        return _status(request, services.find(volunteer(request), id))


class UpdateBytes(APIView):
    """The bytes of one update, sent at an offset."""

    permission_classes = (IsVolunteer,)
    throttle_classes = (limiting.of("uploads"),)

    @extend_schema(request=None, responses={200: None, **refusals(401, 403, 404, 429)})
    def head(self, request: Request, id: uuid.UUID) -> HttpResponse:
        """Tell the offset in `Upload-Offset`."""
        update = services.settle(services.find(volunteer(request), id), timezone.now())
        return uploading.tell(services.upload_of(update), whole=update.state != ANNOUNCED)

    @extend_schema(
        parameters=[uploading.OFFSET],
        request={uploading.MEDIA_TYPE: OpenApiTypes.BINARY},
        responses={200: UpdateStatus, **refusals(400, 401, 403, 404, 409, 413, 429, 460, 507)},
    )
    def patch(self, request: Request, id: uuid.UUID) -> HttpResponse:
        """Append bytes at the offset; the answer to the last ones says `received`."""
        update = services.settle(services.find(volunteer(request), id), timezone.now())
        if update.state == ANNOUNCED:
            upload = services.upload_of(update)
            if uploading.take(request, upload) == upload.size:
                services.receive(update, timezone.now())
                direct.forget(upload)
                update.refresh_from_db()
        return _status(request, update)


class CompleteUpdate(APIView):
    """The end of an upload that went straight to the store."""

    permission_classes = (IsVolunteer,)
    throttle_classes = (limiting.of("uploads"),)

    @extend_schema(
        request=None,
        responses={200: UpdateStatus, **refusals(401, 403, 404, 429, 460, 503)},
    )
    def post(self, request: Request, id: uuid.UUID) -> HttpResponse:
        """Say that all is sent: `received`, or `announced` with links to what is missing."""
        now = timezone.now()
        update = services.settle_direct(services.find(volunteer(request), id), now)
        return _status(request, update, now)


class OneAudit(APIView):
    """A round of another volunteer, to be trained again by the one that was drawn for it."""

    permission_classes = (IsVolunteer,)
    throttle_classes = (limiting.of("updates"),)

    @extend_schema(responses={200: AuditTask, **refusals(401, 403, 404, 410, 429)})
    def get(self, request: Request, id: uuid.UUID) -> HttpResponse:
        """Tell what there is to train again."""
        block, root = addresses.block(request), files_root(request)
        return bodies.answer(auditors.take(volunteer(request), id, block, root, timezone.now()))

    @extend_schema(
        request=AuditAnswer, responses={204: None, **refusals(400, 401, 403, 404, 410, 413, 429)}
    )
    def post(self, request: Request, id: uuid.UUID) -> HttpResponse:
        """Say what came of it, or why it could not be done."""
        told = bodies.parse(request, AuditAnswer)
        auditors.answer(volunteer(request), id, told, timezone.now())
        return HttpResponse(status=204)


class UpdateOfAudit(APIView):
    """The bytes of an update that an audit takes."""

    permission_classes = (IsVolunteer,)
    throttle_classes = (limiting.of("updates"),)

    @extend_schema(
        responses={
            (200, "application/octet-stream"): OpenApiTypes.BINARY,
            **refusals(401, 403, 404, 410, 429, 503),
        }
    )
    def get(self, request: Request, id: uuid.UUID, update_id: uuid.UUID) -> HttpResponse:
        """Serve them, to the volunteer that was drawn and while it is waited for."""
        data = auditors.sent(volunteer(request), id, update_id, timezone.now())
        headers = {"Cache-Control": "no-store"}
        return HttpResponse(data, headers=headers, content_type="application/octet-stream")


@method_decorator(gzip_page, name="dispatch")
class SeriesOfModel(APIView):
    """The frames of a model's versions."""

    authentication_classes = ()
    throttle_classes = (limiting.of("reads"),)

    @extend_schema(responses={200: Series, **refusals(404, 429)})
    def get(self, request: Request, model_id: str) -> HttpResponse:
        """List the newest keyframe and the deltas."""
        root = files_root(request)
        # The newest is looked up each time: who was told of a version finds it in the list.
        key = model_id, series.newest_number(model_id), root
        text = _series.get(key, lambda: bodies.dumped(series.of(model_id, root)))
        return bodies.answer(text, headers={"Cache-Control": "no-cache"})


class Files(APIView):
    """Public bytes by digest."""

    authentication_classes = ()
    throttle_classes = (limiting.of("downloads"),)

    @extend_schema(
        parameters=[OpenApiParameter("Range", str, OpenApiParameter.HEADER)],
        responses={
            (200, "application/octet-stream"): OpenApiTypes.BINARY,
            (206, "application/octet-stream"): OpenApiTypes.BINARY,
            304: None,
            416: None,
            **refusals(404, 429),
        },
    )
    def get(self, request: Request, name: str) -> HttpResponseBase:
        """Fetch a chunk, a frame or a model file, or one range of it."""
        return downloads.serve(request, blobs.PREFIX + name)

    @extend_schema(responses={200: None, 206: None, 304: None, 416: None, **refusals(404, 429)})
    def head(self, request: Request, name: str) -> HttpResponseBase:
        """Tell the size of a file."""
        return downloads.serve(request, blobs.PREFIX + name)


class Models(APIView):
    """Publishing."""

    permission_classes = (IsOwner,)
    throttle_classes = (limiting.of("owners"),)

    @extend_schema(
        request=PublishRequest,
        responses={
            200: ModelStatus,
            201: ModelStatus,
            **refusals(400, 401, 403, 409, 413, 422, 429, 507),
        },
    )
    def post(self, request: Request) -> HttpResponse:
        """Publish a model and its data set; the same content again is harmless."""
        publication = bodies.parse(request, PublishRequest, most=PUBLISH_BYTES)
        model, is_new = catalog.publish(owner(request), publication)
        memory.forget()
        status = assignments.status(model.pk, timezone.now())
        return bodies.answer(status, status=201 if is_new else 200)


class OneModel(APIView):
    """One model: for everyone to look at, for its owner to change."""

    throttle_classes = (limiting.of("reads"),)

    def get_permissions(self) -> list[IsOwner]:
        """Ask for an owner, unless only to look."""
        return [] if self.request.method in ("GET", "HEAD", "OPTIONS") else [IsOwner()]

    @extend_schema(auth=[], responses={200: ModelStatus, **refusals(404, 429)})
    def get(self, request: Request, model_id: str) -> HttpResponse:
        """Tell how a model stands, its history and who trains it."""
        return bodies.answer(
            _statuses.get(
                model_id, lambda: bodies.dumped(assignments.status(model_id, timezone.now()))
            )
        )

    @extend_schema(
        request=ModelChange,
        responses={200: ModelStatus, **refusals(400, 401, 403, 404, 409, 413, 429)},
    )
    def patch(self, request: Request, model_id: str) -> HttpResponse:
        """Pause it, go on, or finish it."""
        change = bodies.parse(request, ModelChange)
        model = catalog.owned(owner(request), model_id)
        services.change_state(model.pk, change.state, timezone.now())
        memory.forget()  # who asked sees at once what it led to
        return bodies.answer(assignments.status(model_id, timezone.now()))


class RollbackOfModel(APIView):
    """Going back to an earlier version."""

    permission_classes = (IsOwner,)
    throttle_classes = (limiting.of("owners"),)

    @extend_schema(
        request=RollbackRequest,
        responses={200: RollbackReply, **refusals(400, 401, 403, 404, 409, 410, 413, 429)},
    )
    def post(self, request: Request, model_id: str) -> HttpResponse:
        """Ask for a next version with the weights of an earlier one; the worker makes it."""
        asked = bodies.parse(request, RollbackRequest)
        model = catalog.owned(owner(request), model_id)
        newest = series.newest(model.pk).number
        version = rollback.ask(model, asked.version)
        memory.forget()
        return bodies.answer(RollbackReply(version=version, newest=newest))


class MirrorsOfModel(APIView):
    """Where else the frames of a model's versions are."""

    permission_classes = (IsOwner,)
    throttle_classes = (limiting.of("owners"),)

    @extend_schema(
        request=MirrorsRequest,
        responses={200: MirrorsReply, **refusals(400, 401, 403, 404, 409, 413, 429)},
    )
    def post(self, request: Request, model_id: str) -> HttpResponse:
        """Tell where this owner holds frames, or the model file, as well."""
        told = bodies.parse(request, MirrorsRequest).links
        model = catalog.owned(owner(request), model_id)
        wanted = series.mirrored(model) & set(told)
        catalog.keep_mirrors(model, {digest: list(told[digest]) for digest in wanted})
        memory.forget()
        return bodies.answer(MirrorsReply(told=tuple(sorted(d for d in wanted if told[d]))))


class ExportOfModel(APIView):
    """The weights of a version, for the model's owner."""

    permission_classes = (IsOwner,)
    throttle_classes = (limiting.of("owners"),)

    @extend_schema(
        parameters=[OpenApiParameter("version", int, description="The newest when left out.")],
        responses={200: Export, **refusals(400, 401, 403, 404, 410, 429)},
    )
    def get(self, request: Request, model_id: str) -> HttpResponse:
        """Link to a keyframe of a version, and to the model file."""
        model = catalog.owned(owner(request), model_id)
        number = _number(request, "version")
        return bodies.answer(series.export(model, number, files_root(request)))


def _number(request: Request, name: str, *, most: int = 10**9) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= most):
        raise Refusal(
            problems.BAD_REQUEST, f"expected ?{name}=NUMBER, at most {most}, got {text!r}"
        )
    return int(text)


def _page(after: str | None, most: int) -> tuple[str, str | None]:
    """Return a page of the list, and after which model the next begins, where this one is full."""
    rows = assignments.summaries(timezone.now(), after=after, most=most)
    return bodies.dumped(rows), rows[-1].id if len(rows) == most else None


def _next(request: Request, last: str | None, most: int) -> dict[str, str]:
    if last is None:
        return {}
    url = request.build_absolute_uri(f"/api/v1/list?after={last}&limit={most}")
    return {"Link": f'<{url}>; rel="next"'}


def _status(request: Request, update: Update, now: datetime | None = None) -> HttpResponse:
    """Answer where an update is; with `now`, also how its bytes get to the store directly."""
    url = request.build_absolute_uri(f"/api/v1/updates/{update.pk}/bytes")
    status = services.status(update, url)
    # What began to come through the server goes on there, where none of it is sent again.
    if now is not None and status.state == ANNOUNCED and status.offset == 0:
        complete_url = request.build_absolute_uri(f"/api/v1/updates/{update.pk}/complete")
        offered = direct.offer(services.upload_of(update), now, complete_url)
        status = status.model_copy(update={"direct": offered})
    return bodies.answer(status, headers={"Upload-Offset": str(status.offset)})
