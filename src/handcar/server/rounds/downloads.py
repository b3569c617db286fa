"""Public bytes by digest: chunks to train on, frames, model files. Never anything else."""

from __future__ import annotations

import re

from django.db.models import Q
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from rest_framework.request import Request

from handcar.protocol import problems
from handcar.server import blobs
from handcar.server.catalog.models import Chunk, TrainingModel
from handcar.server.front import READ_BYTES, FileSpan
from handcar.server.memory import Kept
from handcar.server.problems import Refusal
from handcar.server.rounds.models import Version

RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
FOREVER = "public, max-age=31536000, immutable"
PUBLIC_S = 60.0
_public: Kept[bool] = Kept(PUBLIC_S, most=10_000)
"""What is known to be: a crowd asks for the same frame within a minute."""


def is_public(digest: str) -> bool:
    """Say whether anyone may have these bytes: not validation chunks, updates, or exact weights.

    A chunk that is in a training split anywhere is public, whatever else it is in.
    """
    if _public.find(digest):
        return True
    frames = Q(delta_digest=digest) | Q(keyframe_digest=digest) | Q(export_digest=digest)
    found = (
        Chunk.objects.filter(digest=digest, split="train").exists()
        or Version.objects.filter(frames).exists()
        or TrainingModel.objects.filter(model_file_digest=digest).exists()
    )
    if found:
        _public.put(digest, True)
    return found


def serve(request: Request, digest: str) -> HttpResponseBase:
    """Answer GET or HEAD with the bytes, the range that was asked for, or where they are."""
    allowed = is_public(digest)
    if allowed and blobs.bucket() is not None:
        return _lead(digest)
    size = blobs.size(digest) if allowed else None
    if size is None:
        raise Refusal(problems.NOT_FOUND, f"no file with the digest {digest} is served here")
    etag = f'"{digest.removeprefix(blobs.PREFIX)}"'
    headers = {"ETag": etag, "Cache-Control": FOREVER, "Accept-Ranges": "bytes"}
    if etag in request.headers.get("If-None-Match", ""):
        return HttpResponse(status=304, headers=headers)
    wanted = request.headers.get("Range")
    if wanted is None or request.headers.get("If-Range", etag) != etag:
        return _send(request, digest, 0, size, headers)
    return _send_range(request, digest, size, headers)


def _lead(digest: str) -> HttpResponseBase:
    """Lead who has an old link of ours to where the bytes are: none pass through here."""
    headers = {"Location": blobs.link(digest, ""), "Cache-Control": "no-store"}
    return HttpResponse(status=302, headers=headers)


def _send_range(
    request: Request, digest: str, size: int, headers: dict[str, str]
) -> HttpResponseBase:
    span = parse_range(request.headers["Range"], size)
    if span is None:
        return _send(request, digest, 0, size, headers)
    start, stop = span
    if start >= stop:
        return HttpResponse(status=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return _send(request, digest, start, stop, headers)


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Return start and stop of a single range; none for what we don't serve in parts.

    An empty span (start >= stop) can't be satisfied.
    """
    match = RANGE.fullmatch(text.strip())
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if first == "":
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size


def _send(
    request: Request, digest: str, start: int, stop: int, headers: dict[str, str]
) -> HttpResponseBase:
    status = 206 if "Content-Range" in headers else 200
    headers = {**headers, "Content-Length": str(stop - start)}
    kind = "application/octet-stream"
    if request.method == "HEAD":
        return HttpResponse(status=status, headers=headers, content_type=kind)
    span = FileSpan(blobs.path(digest), start, stop)
    response = StreamingHttpResponse(span, status=status, headers=headers, content_type=kind)
    # As Django's own FileResponse: what stands before it takes the file, if it can.
    response.file_to_stream, response.block_size = span, READ_BYTES  # type: ignore[attr-defined]
    return response
