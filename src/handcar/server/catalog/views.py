"""What owners ask: store bytes, publish, pause, finish, say something."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from handcar.protocol.messages import (
    BlobAnnouncement,
    BlobStatus,
    LinkRequest,
    Message,
    MessageRequest,
    SignedLink,
)
from handcar.server import blobs, bodies, limiting, memory, uploading, uploads
from handcar.server.authentication import IsOwner, owner
from handcar.server.catalog import links, services
from handcar.server.openapi import refusals
from handcar.server.uploads import Upload


class Blobs(APIView):
    """Bytes that an owner would like to store."""

    permission_classes = (IsOwner,)
    throttle_classes = (limiting.of("owners"),)

    @extend_schema(
        request=BlobAnnouncement,
        responses={200: BlobStatus, **refusals(400, 401, 403, 413, 429, 507)},
    )
    def post(self, request: Request) -> HttpResponse:
        """Announce bytes: whether they are here, and where to send them."""
        announcement = bodies.parse(request, BlobAnnouncement)
        return _status(request, services.announce_blob(owner(request), announcement))


class BlobBytes(APIView):
    """The bytes themselves, sent at an offset."""

    permission_classes = (IsOwner,)
    throttle_classes = (limiting.of("owners"),)

    @extend_schema(request=None, responses={200: None, **refusals(401, 403, 404, 429)})
    def head(self, request: Request, name: str) -> HttpResponse:
        """Tell the offset in `Upload-Offset`."""
        return uploading.tell(services.blob_upload(owner(request), blobs.PREFIX + name))

    @extend_schema(
        parameters=[uploading.OFFSET],
        request={uploading.MEDIA_TYPE: OpenApiTypes.BINARY},
        responses={200: BlobStatus, **refusals(400, 401, 403, 404, 409, 413, 429, 460, 507)},
    )
    def patch(self, request: Request, name: str) -> HttpResponse:
        """Append bytes at the offset."""
        upload = services.blob_upload(owner(request), blobs.PREFIX + name)
        offset = uploading.take(request, upload)
        return _status(request, upload, offset)


class Links(APIView):
    """Links to private buckets."""

    permission_classes = (IsOwner,)
    throttle_classes = (limiting.of("owners"),)

    @extend_schema(
        request=LinkRequest,
        responses={200: SignedLink, **refusals(400, 401, 403, 409, 413, 429)},
    )
    def post(self, request: Request) -> HttpResponse:
        """Sign a link to an object of a private bucket, as volunteers would get it."""
        wanted = bodies.parse(request, LinkRequest)
        links.expect(wanted.url, wanted.sha256)
        return bodies.answer(SignedLink(url=links.given([wanted.url], timezone.now())[0]))


class Messages(APIView):
    """Texts to volunteers."""

    permission_classes = (IsOwner,)
    throttle_classes = (limiting.of("owners"),)

    @extend_schema(
        request=MessageRequest,
        responses={201: Message, **refusals(400, 401, 403, 404, 413, 429)},
    )
    def post(self, request: Request) -> HttpResponse:
        """Say something to those who train a model, or to everyone."""
        row = services.send_message(owner(request), bodies.parse(request, MessageRequest))
        memory.forget()
        return bodies.answer(services.as_message(row), status=201)


def _status(
    request: HttpRequest | Request, upload: Upload, offset: int | None = None
) -> HttpResponse:
    here = uploads.offset(upload) if offset is None else offset
    name = upload.digest.removeprefix(blobs.PREFIX)
    present = here == upload.size
    return bodies.answer(
        BlobStatus(
            sha256=upload.digest,
            present=present,
            offset=here,
            upload_url=None
            if present
            else request.build_absolute_uri(f"/api/v1/blobs/{name}/bytes"),
        ),
        headers={"Upload-Offset": str(here)},
    )
