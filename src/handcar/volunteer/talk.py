"""What a volunteer says to its server, one method a request, and what may go wrong.

Unreachable: no answer, or one that says "later"; try again later. Broken, one kind of it: the
connection broke, which says nothing about the server; try again at once. Problem: the
server's "no".
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import getproxies

import httpx2

from handcar import __version__
from handcar.errors import Unreachable
from handcar.protocol import limits
from handcar.protocol.messages import (
    Assignment,
    Body,
    Heartbeat,
    HeartbeatReply,
    JoinReply,
    JoinRequest,
    Link,
    Series,
    UpdateAnnouncement,
    UpdateStatus,
)
from handcar.stores.answers import raise_for_answer
from handcar.volunteer.line import Line

Reply = TypeVar("Reply", bound=Body)

TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
GOODBYE_S = 3.0
BREAKS = (httpx2.ReadError, httpx2.WriteError, httpx2.CloseError, httpx2.RemoteProtocolError)
SOCKET_OPTIONS = [
    # What waits in the system's buffer counts as sent here: with megabytes there, neither
    # progress nor a rate limit would be true.
    (socket.SOL_SOCKET, socket.SO_SNDBUF, 128 * 1024),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
]


class Broken(Unreachable):
    """A connection that stood was lost before the answer came."""


class Server:
    """One server, as a volunteer sees it. Used from several threads."""

    def __init__(self, url: str, line: Line) -> None:
        self.url = url.rstrip("/")
        self._line = line
        self._client = httpx2.Client(
            timeout=TIMEOUT,
            follow_redirects=True,
            headers={"User-Agent": f"handcar/{__version__}"},
            transport=_transport(),
        )
        self.files = httpx2.Client(
            timeout=TIMEOUT,
            follow_redirects=True,
            headers={"User-Agent": f"handcar/{__version__}"},
        )
        """For chunks and frames, wherever they lie: it never carries the token."""

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
        self.files.close()

    def use_token(self, token: str) -> None:
        """Say who we are from now on."""
        self._client.headers["Authorization"] = f"Bearer {token}"

    def join(self, name: str) -> JoinReply:
        """Ask for a token."""
        request = JoinRequest(name=name, client_version=__version__)
        return self._ask("POST", "/volunteers", JoinReply, body=request)

    def assignment(self, model_id: str | None) -> Assignment:
        """Ask what to train: one model, or what the server picks."""
        if model_id is None:
            return self._ask("GET", "/default", Assignment)
        return self._ask("GET", "/model", Assignment, params={"model_id": model_id})

    def series(self, model_id: str) -> Series:
        """Ask for the version series."""
        return self._ask("GET", f"/series/{model_id}", Series)

    def heartbeat(self, heartbeat: Heartbeat, *, last: bool = False) -> HeartbeatReply:
        """Say where we are, hear what is new; the `last` one does not wait long."""
        timeout = httpx2.Timeout(GOODBYE_S) if last else TIMEOUT
        return self._ask("POST", "/heartbeat", HeartbeatReply, body=heartbeat, timeout=timeout)

    def announce(self, update: UpdateAnnouncement) -> UpdateStatus:
        """Ask whether, and from which offset, the bytes of an update are wanted."""
        return self._ask("POST", "/updates", UpdateStatus, body=update)

    def offset(self, upload_url: str) -> int:
        """Ask how many bytes of an upload the server holds."""
        answer = self._send(self._client.build_request("HEAD", upload_url))
        return int(answer.headers.get("Upload-Offset", 0))

    def upload(
        self, upload_url: str, path: Path, offset: int, on_sent: Callable[[int], None]
    ) -> UpdateStatus:
        """Send what lies beyond `offset`, telling `on_sent` how far it is.

        Raises UsedUp when the volunteer allows no more today.
        """

        def pieces() -> Iterator[bytes]:
            with path.open("rb") as file:
                file.seek(offset)
                while piece := file.read(self._line.piece_bytes):
                    self._line.send(len(piece))
                    yield piece
                    on_sent(file.tell())

        request = self._client.build_request(
            "PATCH",
            upload_url,
            content=pieces(),
            headers={
                "Content-Type": "application/offset+octet-stream",
                "Content-Length": str(path.stat().st_size - offset),
                "Upload-Offset": str(offset),
            },
        )
        with self._line.transfer("up"):
            return UpdateStatus.model_validate_json(self._send(request).content)

    def bytes_of(self, link: Link) -> bytes:
        """Fetch a small file whole; the caller checks its digest."""
        answer = self._send(self.files.build_request("GET", link.url), self.files)
        if len(answer.content) > min(link.size, limits.FRAME_BYTES):
            raise Unreachable(f"expected {link.size} bytes from {link.url}, got more")
        return answer.content

    def _ask(
        self,
        method: str,
        path: str,
        reply: type[Reply],
        *,
        body: Body | None = None,
        params: dict[str, str] | None = None,
        timeout: httpx2.Timeout = TIMEOUT,
    ) -> Reply:
        content = None if body is None else body.model_dump_json().encode()
        request = self._client.build_request(
            method,
            f"{self.url}/api/v1{path}",
            content=content,
            params=params,
            timeout=timeout,
            headers={"Content-Type": "application/json"} if content else {},
        )
        self._line.count(up=len(content or b""))
        return reply.model_validate_json(self._send(request).content)

    def _send(self, request: httpx2.Request, client: Any = None) -> httpx2.Response:
        try:
            answer = (client or self._client).send(request)
        except httpx2.TransportError as error:
            kind = Broken if isinstance(error, BREAKS) else Unreachable
            reason = str(error) or type(error).__name__
            raise kind(f"No answer from {self.url} ({reason}).") from error
        self._line.count(down=len(answer.content))
        raise_for_answer(answer)
        return answer


def _transport() -> httpx2.HTTPTransport | None:
    # A transport of our own would pass by the proxies that the person's system names.
    return None if getproxies() else httpx2.HTTPTransport(socket_options=SOCKET_OPTIONS)
