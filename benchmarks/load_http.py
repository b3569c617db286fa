"""HTTP/1.1 as lean as it gets: many volunteers share two cores with the server they measure.

Each volunteer has an address of its own on this machine (127.0.0.0/8), as a household has one, and
opens a connection for each thing that it does, as real ones do whose last request was a minute
ago. Times are from the first byte of a request, its connection's opening included, to the
answer's last byte.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

TIMEOUT_S = 60.0
READ_BYTES = 256 * 1024
HEAD_END = b"\r\n\r\n"
SINK = bytearray(READ_BYTES)
"""Where the bytes of downloads go."""
IP_BIND_ADDRESS_NO_PORT = 24
"""Linux: take a local port only when the target is known, so that they never run out."""


class Broken(Exception):
    """No answer, or one that makes no sense."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    head: bytes
    body: bytes
    """Empty for a download, whose bytes are only counted."""

    def header(self, name: bytes) -> bytes:
        """Return the value of a header; empty when there is none."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == name:
                return value.strip()
        return b""


@dataclass
class Tally:
    """What happened: times by route, errors by what they were."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)
    later: int = 0
    """Answers that asked to come back later, and were heeded."""
    bytes_up: int = 0
    bytes_down: int = 0

    def forget(self) -> None:
        """Begin anew."""
        self.__init__()  # type: ignore[misc]


class Visit:
    """One connection of one volunteer to the server."""

    def __init__(self, server: tuple[str, int], source: str, tally: Tally) -> None:
        self._server = server
        self._source = source
        self._tally = tally
        self._socket: socket.socket | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def ask(
        self, route: str, request: bytes, body: bytes = b"", *, keep: bool = True
    ) -> Answer:
        """Send one request and return the answer; its time counts for `route`.

        Raises Broken, which is counted as an error, too.
        """
        began = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._ask(request, body, keep=keep)
        except (OSError, TimeoutError, ValueError) as error:
            self.close()
            self._tally.errors[f"{route}: {type(error).__name__}"] += 1
            raise Broken(str(error)) from error
        self._tally.seconds[route].append(time.perf_counter() - began)
        self._tally.bytes_up += len(body)
        return answer

    async def _ask(self, request: bytes, body: bytes, *, keep: bool) -> Answer:
        loop = asyncio.get_running_loop()
        if self._socket is None:
            self._socket = await self._connected(loop)
        length = f"\r\nContent-Length: {len(body)}" if body else ""
        whole = request + length.encode() + HEAD_END
        # Small ones in one packet; large ones without a copy.
        if len(body) < READ_BYTES:
            await loop.sock_sendall(self._socket, whole + body)
        else:
            await loop.sock_sendall(self._socket, whole)
            await loop.sock_sendall(self._socket, body)
        return await self._answer(loop, self._socket, keep=keep)

    async def _connected(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        one = socket.socket()
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        one.bind((self._source, 0))
        try:
            await loop.sock_connect(one, self._server)
        except BaseException:
            one.close()
            raise
        return one

    async def _answer(
        self, loop: asyncio.AbstractEventLoop, one: socket.socket, *, keep: bool
    ) -> Answer:
        data = b""
        while (end := data.find(HEAD_END)) < 0:
            piece = await loop.sock_recv(one, READ_BYTES)
            if not piece:
                raise ConnectionResetError("the connection ended before the answer")
            data += piece
        head, body = data[:end], data[end + len(HEAD_END) :]
        answer = Answer(int(head[9:12]), head, b"")
        left = int(answer.header(b"content-length") or 0) - len(body)
        self._tally.bytes_down += left + len(body)
        pieces = [body]
        while left > 0:
            if keep:
                pieces.append(await loop.sock_recv(one, READ_BYTES))
                count = len(pieces[-1])
            else:
                count = await loop.sock_recv_into(one, SINK)
            if not count:
                raise ConnectionResetError(f"{left} bytes of the answer are missing")
            left -= count
        if b"close" in answer.header(b"connection").lower():
            self.close()
        return Answer(answer.status, head, b"".join(pieces))


def request(method: str, path: str, **headers: Any) -> bytes:
    """Return the head of a request, without its end."""
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode()
