"""Requests in, answers out: the protocol's pydantic models at the border of the API."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from django.http import HttpRequest, HttpResponse, UnreadablePostError
from pydantic import BaseModel, ValidationError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request

from handcar.protocol import limits, problems
from handcar.server.problems import Refusal

B = TypeVar("B", bound=BaseModel)

PIECE_BYTES = 32 * 1024
FAULTS_TOLD = 20


class AlwaysJson(BaseContentNegotiation):
    """JSON whatever the client says that it accepts: there is nothing else to give."""

    def select_parser(self, request: Request, parsers: Iterable[Any]) -> Any:
        """Return the only parser."""
        return next(iter(parsers))

    def select_renderer(
        self, request: Request, renderers: Iterable[Any], format_suffix: str | None = None
    ) -> tuple[Any, str]:
        """Return the only renderer."""
        first = next(iter(renderers))
        return first, first.media_type


def parse(request: Request, kind: type[B], *, most: int = limits.REQUEST_JSON_BYTES) -> B:
    """Return the request's body as a message of the protocol; a Refusal says what is wrong."""
    raw = _whole(request, most)
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        faults = tuple(_fault(fault) for fault in error.errors(include_url=False)[:FAULTS_TOLD])
        raise Refusal(
            problems.BAD_REQUEST, f"expected a {kind.__name__}: {faults[0]}", errors=faults
        ) from error


def answer(
    value: BaseModel | Sequence[BaseModel] | str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HttpResponse:
    """Return a message of the protocol, or a list of them, as JSON; a text is JSON already."""
    text = value if isinstance(value, str) else dumped(value)
    return HttpResponse(text, status=status, content_type="application/json", headers=headers)


def dumped(value: BaseModel | Sequence[BaseModel]) -> str:
    """Return a message of the protocol, or a list of them, as the text of an answer."""
    return value.model_dump_json() if isinstance(value, BaseModel) else _list(value)


def pieces(request: Request) -> Iterator[bytes]:
    """Yield the body as it arrives; a client that vanishes ends it early, without an error."""
    read = _reader(request._request)
    while True:
        try:
            piece = read(PIECE_BYTES)
        except (UnreadablePostError, OSError):
            return
        if not piece:
            return
        yield piece


def _reader(request: HttpRequest) -> Callable[[int], bytes]:
    # Django reads nothing without a Content-Length; servers that end the stream themselves
    # say so, and then a chunked body can be read to its end.
    if "CONTENT_LENGTH" not in request.META and request.META.get("wsgi.input_terminated"):
        read: Callable[[int], bytes] = request.META["wsgi.input"].read
        return read
    return request.read


def _whole(request: Request, most: int) -> bytes:
    body = bytearray()
    for piece in pieces(request):
        body += piece
        if len(body) > most:
            raise Refusal(problems.TOO_LARGE, f"expected a body of at most {most} bytes")
    return bytes(body)


def _fault(fault: Any) -> str:
    path = ".".join(str(part) for part in fault["loc"])
    return f"{path}: {fault['msg']}" if path else str(fault["msg"])


def _list(values: Sequence[BaseModel]) -> str:
    return "[" + ",".join(value.model_dump_json() for value in values) + "]"
