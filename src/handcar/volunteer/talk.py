"""What a volunteer says to its server, one method a request, and what may go wrong.

Unreachable: no answer, or one that says "later"; try again later. Broken, one kind of it: the
connection broke, which says nothing about the server; try again at once. Problem: the
server's "no".
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.request import getproxies
from uuid import UUID

import httpx2

from handcar import __version__, files
from handcar.errors import Corrupt, Problem
from handcar.protocol.messages import (
    Assignment,
    AuditAnswer,
    AuditTask,
    Body,
    DirectPart,
    DirectUpload,
    Heartbeat,
    HeartbeatReply,
    JoinReply,
    JoinRequest,
    SentUpdate,
    Series,
    UpdateAnnouncement,
    UpdateStatus,
)
from handcar.stores import reach
from handcar.stores.answers import lost, raise_for_answer
from handcar.volunteer.line import Line

Reply = TypeVar("Reply", bound=Body)

TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
GOODBYE_S = 3.0
SOCKET_OPTIONS = [
    # What waits in the system's buffer counts as sent here: with megabytes there, neither
    # progress nor a rate limit would be true.
    (socket.SOL_SOCKET, socket.SO_SNDBUF, 128 * 1024),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
]


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
        self.files = reach.client(
            reach.Reach(self.url),
            timeout=TIMEOUT,
            follow_redirects=True,
            headers={"User-Agent": f"handcar/{__version__}"},
        )
        """For chunks and frames, wherever they lie: it never carries the token."""
        self._store = reach.client(
            reach.Reach(self.url),
            socket_options=SOCKET_OPTIONS,
            timeout=TIMEOUT,
            headers={"User-Agent": f"handcar/{__version__}"},
        )
        """For updates that go straight to the server's store; without the token, too."""

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
        self.files.close()
        self._store.close()

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

    def audit(self, id: UUID) -> AuditTask:
        """Ask what there is to train again."""
        return self._ask("GET", f"/audits/{id}", AuditTask)

    def sent_update(self, audit: UUID, update: SentUpdate) -> bytes:
        """Fetch an update that an audit takes. Raises Corrupt, UsedUp."""
        url = f"{self.url}/api/v1/audits/{audit}/updates/{update.id}"
        data = bytearray()
        try:
            with self._line.transfer("down"), self._client.stream("GET", url) as answer:
                if not answer.is_success:
                    answer.read()
                raise_for_answer(answer)
                for piece in answer.iter_bytes():
                    data += piece
                    self._line.received(len(piece))
                    if len(data) > update.size:
                        break
        except httpx2.TransportError as error:
            raise lost(error)(f"No answer from {self.url} ({error}).") from error
        if files.digest(bytes(data)) != update.sha256:
            raise Corrupt(f"update {update.id} came otherwise than it was sent")
        return bytes(data)

    def answer_audit(self, id: UUID, answer: AuditAnswer) -> None:
        """Say what came of it."""
        content = answer.model_dump_json().encode()
        self._line.count(up=len(content))
        url = f"{self.url}/api/v1/audits/{id}"
        headers = {"Content-Type": "application/json"}
        self._send(self._client.build_request("POST", url, content=content, headers=headers))

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

        size = path.stat().st_size
        request = self._client.build_request(
            "PATCH",
            upload_url,
            content=self._pieces(path, offset, size, on_sent),
            headers={
                "Content-Type": "application/offset+octet-stream",
                "Content-Length": str(size - offset),
                "Upload-Offset": str(offset),
            },
        )
        with self._line.transfer("up"):
            return UpdateStatus.model_validate_json(self._send(request).content)

    def send_part(
        self, part: DirectPart, direct: DirectUpload, path: Path, on_sent: Callable[[int], None]
    ) -> None:
        """Send one part of an update to the server's store, telling `on_sent` how far it is.

        Raises UsedUp, Forbidden where a server names an address that it may not.
        """
        start = (part.number - 1) * direct.part_bytes
        stop = min(start + direct.part_bytes, path.stat().st_size)
        request = self._store.build_request(
            "PUT",
            part.url,
            content=self._pieces(path, start, stop, on_sent),
            headers={**direct.headers, "Content-Length": str(stop - start)},
        )
        with self._line.transfer("up"):
            try:
                answer = self._store.send(request)
            except httpx2.HTTPError as error:
                reason = str(error) or type(error).__name__
                raise lost(error)(f"No answer from {request.url.host} ({reason}).") from error
        if not answer.is_success:
            # Not its address: that is signed, and whoever reads it may send as well.
            title = f"{request.url.host} answered HTTP {answer.status_code}"
            raise Problem(type="about:blank", title=title, status=answer.status_code)

    def complete(self, direct: DirectUpload) -> UpdateStatus:
        """Say that all parts are sent; hear that it is received, or what is missing."""
        request = self._client.build_request("POST", direct.complete_url)
        return UpdateStatus.model_validate_json(self._send(request).content)

    @property
    def is_ending(self) -> bool:
        """Whether this program ends."""
        return self._line.is_ending

    def _pieces(
        self, path: Path, start: int, stop: int, on_sent: Callable[[int], None]
    ) -> Iterator[bytes]:
        """Yield what lies between two places of a file, as fast as may be sent."""
        with path.open("rb") as file:
            file.seek(start)
            while piece := file.read(min(self._line.piece_bytes, stop - file.tell())):
                self._line.send(len(piece))
                yield piece
                on_sent(file.tell())

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
            headers=_headers(body),
        )
        self._line.count(up=len(content or b""))
        return reply.model_validate_json(self._send(request).content)

    def _send(self, request: httpx2.Request) -> httpx2.Response:
        try:
            answer = self._client.send(request)
        except httpx2.TransportError as error:
            reason = str(error) or type(error).__name__
            raise lost(error)(f"No answer from {self.url} ({reason}).") from error
        self._line.count(down=answer.num_bytes_downloaded)
        raise_for_answer(answer)
        return answer


def _headers(body: Body | None) -> dict[str, str]:
    if body is None:
        return {}
    headers = {"Content-Type": "application/json"}
    if isinstance(body, UpdateAnnouncement):
        # The logs of all the server's processes name the update by this, up to its version.
        headers["X-Request-ID"] = f"update-{body.id}"
    return headers


def _transport() -> httpx2.HTTPTransport | None:
    # A transport of our own would pass by the proxies that the person's system names.
    return None if getproxies() else httpx2.HTTPTransport(socket_options=SOCKET_OPTIONS)
