"""What a volunteer says to its server, one method a request, and what may go wrong.

Unreachable: no answer, or one that says "later"; try again. Problem: the server's "no".
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

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

Reply = TypeVar("Reply", bound=Body)

TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
GOODBYE_S = 3.0
PIECE_BYTES = 16 * 1024


class Traffic:
    """Bytes of bodies sent and received, counted from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.up = 0
        self.down = 0

    def add(self, *, up: int = 0, down: int = 0) -> None:
        """Count bytes."""
        with self._lock:
            self.up += up
            self.down += down


class Server:
    """One server, as a volunteer sees it. Used from several threads."""

    def __init__(self, url: str, traffic: Traffic) -> None:
        self.url = url.rstrip("/")
        self._traffic = traffic
        self._client = httpx2.Client(
            timeout=TIMEOUT,
            follow_redirects=True,
            headers={"User-Agent": f"handcar/{__version__}"},
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

    def upload(self, upload_url: str, path: Path, offset: int) -> UpdateStatus:
        """Send what lies beyond `offset`."""

        def pieces() -> Iterator[bytes]:
            with path.open("rb") as file:
                file.seek(offset)
                while piece := file.read(PIECE_BYTES):
                    yield piece
                    self._traffic.add(up=len(piece))

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
        self._traffic.add(up=len(content or b""))
        return reply.model_validate_json(self._send(request).content)

    def _send(self, request: httpx2.Request, client: Any = None) -> httpx2.Response:
        try:
            answer = (client or self._client).send(request)
        except httpx2.TransportError as error:
            raise Unreachable(
                f"No answer from {self.url} ({error or type(error).__name__})."
            ) from error
        self._traffic.add(down=len(answer.content))
        raise_for_answer(answer)
        return answer
