"""The Handcar server as a store: announce, then send at an offset, over a line that breaks.

The server keeps what arrived, so after a break the announcement is repeated, its answer
says how much is there, and the sending goes on from that byte.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from pydantic import ValidationError

from handcar import __version__
from handcar.errors import Problem, Unreachable
from handcar.files import MB
from handcar.protocol import problems
from handcar.protocol.messages import BlobAnnouncement, BlobStatus
from handcar.stores.answers import raise_for_answer

log = logging.getLogger(__name__)

PIECE_BYTES = MB
ATTEMPTS = 9
"""Failures in a row, without one more byte stored, after which the person is told."""
PAUSE_FIRST_S = 0.5
PAUSE_MOST_S = 60.0
TIMEOUT = httpx2.Timeout(60.0, connect=10.0)
BEGIN_AGAIN = frozenset({problems.WRONG_OFFSET.type, problems.BAD_DIGEST.type})


class HandcarStore:
    """The chunks that a Handcar server holds itself."""

    parallel = 1

    def __init__(
        self,
        server: str,
        token: str | None,
        *,
        on_bytes: Callable[[int], None] = lambda count: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._server = server.rstrip("/")
        self._on_bytes = on_bytes
        self._sleep = sleep
        self._client = httpx2.Client(
            timeout=TIMEOUT, headers={"User-Agent": f"handcar/{__version__}"}
        )
        if token is not None:
            self._client.headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def describe(self) -> str:
        """Say where it is."""
        return f"the Handcar server {self._server}"

    def check(self) -> None:
        """Do nothing: the first file that is announced tells."""

    def put(self, digest: str, path: Path) -> bool:
        """Send a file unless it is there; say whether it was not. Safe to repeat.

        Goes on after broken connections, with growing pauses; raises Unreachable when that
        does not help, Problem when the server says no.
        """
        failures, furthest = 0, -1
        upload = _Upload(digest, path.stat().st_size)
        while True:
            try:
                return self._send(upload, path)
            except (Unreachable, Problem) as fault:
                if isinstance(fault, Problem) and fault.type not in BEGIN_AGAIN:
                    raise
                failures = 1 if upload.stored > furthest else failures + 1
                furthest = max(furthest, upload.stored)
                if failures >= ATTEMPTS:
                    raise
                log.info("%s; trying again", fault)
                self._sleep(_pause(failures, fault))

    def link(self, digest: str) -> None:
        """Return none: the server makes the addresses of what it holds."""

    def _send(self, upload: _Upload, path: Path) -> bool:
        status = self._announce(upload)
        if status.present:
            return False
        with path.open("rb") as file:
            while not status.present:
                upload.stored = status.offset
                file.seek(status.offset)
                piece = file.read(PIECE_BYTES)
                status = self._append(status, piece)
                self._on_bytes(len(piece))
        return True

    def _announce(self, upload: _Upload) -> BlobStatus:
        body = BlobAnnouncement(sha256=upload.digest, size=upload.size)
        return self._ask("POST", f"{self._server}/api/v1/blobs", json=body.model_dump())

    def _append(self, before: BlobStatus, piece: bytes) -> BlobStatus:
        # Only its path: behind a proxy a server may know itself by another name, and the
        # token goes to no other host than the one that the person named.
        place = urlsplit(self._server)._replace(path=urlsplit(before.upload_url or "").path)
        headers = {
            "Content-Type": "application/offset+octet-stream",
            "Upload-Offset": str(before.offset),
        }
        after = self._ask("PATCH", place.geturl(), content=piece, headers=headers)
        if not after.present and after.offset <= before.offset:
            raise Unreachable(f"{self._server} stored none of the {len(piece)} bytes sent")
        return after

    def _ask(self, method: str, address: str, **request: Any) -> BlobStatus:
        try:
            answer = self._client.request(method, address, **request)
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"could not send to {self._server}: {reason}") from error
        raise_for_answer(answer)
        try:
            return BlobStatus.model_validate_json(answer.content)
        except ValidationError as error:
            raise Unreachable(f"{address} does not answer as a Handcar server does") from error


class _Upload:
    """One file on its way, and how much of it the server was last known to hold."""

    def __init__(self, digest: str, size: int) -> None:
        self.digest = digest
        self.size = size
        self.stored = 0


def _pause(failures: int, fault: Exception) -> float:
    """Return seconds to wait: what the server asked for, else doubling up to a minute."""
    asked = getattr(fault, "retry_after_s", None)
    if asked is not None:
        return min(float(asked), PAUSE_MOST_S)
    longest = min(PAUSE_FIRST_S * 2.0 ** (failures - 1), PAUSE_MOST_S)
    return longest * (0.5 + 0.5 * random.random())  # noqa: S311 - jitter
