"""The two requests of an offset upload, the same for updates and blobs. Names as in tus 1.0."""

from __future__ import annotations

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from handcar.protocol import problems
from handcar.server import bodies, uploads
from handcar.server.front import is_offset
from handcar.server.problems import Refusal
from handcar.server.uploads import Upload

OFFSET = OpenApiParameter(
    "Upload-Offset", int, OpenApiParameter.HEADER, required=True, description="Where to go on."
)
MEDIA_TYPE = "application/offset+octet-stream"


def tell(upload: Upload, *, whole: bool = False) -> HttpResponse:
    """Answer HEAD: how many bytes are here, of how many; `whole` where they all came before."""
    return HttpResponse(
        headers={
            "Upload-Offset": str(upload.size if whole else uploads.offset(upload)),
            "Upload-Length": str(upload.size),
            "Cache-Control": "no-store",
        }
    )


def take(request: Request, upload: Upload) -> int:
    """Append the body of a PATCH; return the offset after it."""
    return uploads.receive(upload, _start(request), bodies.pieces(request))


def _start(request: Request) -> int:
    given = request.headers.get("Upload-Offset", "")
    if not is_offset(given):
        raise Refusal(
            problems.BAD_REQUEST, "expected the header `Upload-Offset: N`; HEAD tells the offset"
        )
    return int(given)
