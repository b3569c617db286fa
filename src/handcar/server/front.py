"""What stands before the application: lines are slow, and threads are few.

Home lines take minutes for what a thread of the application does in milliseconds. So a request's
body is gathered here first, however long it takes, and a file's bytes leave from here; each costs
memory for one piece, and no thread. Without it, 64 slow downloads are a server that answers nobody.

An upload is handed on in pieces as it comes, each a request of its own at the offset that the one
before has reached, as a client might have sent it: what arrived is kept whatever happens to the
line. docs/decisions/0018-web.md
"""

from __future__ import annotations

import asyncio
import io
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

OFFSET = "HTTP_UPLOAD_OFFSET"
PIECE_BYTES, LEAST_PIECE_BYTES = 512 * 1024, 32 * 1024
"""Of an upload, in memory until it is written: less where many come at once."""
UPLOADS_BYTES = 128 * 1024 * 1024
"""Of all uploads that are under way."""
SILENT_S = 1.0
"""A line that says nothing for so long may be dead: what it brought is written."""
SMALL_BYTES = 64 * 1024
"""Of any other request's body: what nearly all of them have."""
LARGER = ((2 * 1024 * 1024, 64), (65 * 1024 * 1024, 2))
"""Up to so many bytes, so many at once: what waits stays with its sender. The last is more than
the application takes, a data set's list of chunks included."""
READ_BYTES = 256 * 1024
ASKED_AT = "handcar.asked_at"
"""When the application was asked, by `time.perf_counter`: it may have had no thread to spare."""

_under_way = 0

Environ = dict[str, Any]
Headers = list[tuple[str, str]]


class FileSpan:
    """A part of a file, to be sent. Here it is sent from the file; other servers read it."""

    def __init__(self, path: Path, start: int, stop: int) -> None:
        self.path, self.start, self.stop = path, start, stop
        self._left = stop - start
        self._file: BinaryIO | None = None

    def read(self, size: int = READ_BYTES) -> bytes:
        """Return the next bytes; none at the end."""
        if self._file is None:
            self._file = self.path.open("rb")
            self._file.seek(self.start)
        piece = self._file.read(min(size, self._left))
        self._left -= len(piece)
        return piece

    def __iter__(self) -> Iterator[bytes]:
        """Read it, piece by piece."""
        return iter(self.read, b"")

    def close(self) -> None:
        """Close the file, if it was read here."""
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True)
class Answer:
    """What the application said."""

    status: int
    headers: Headers
    body: bytes | FileSpan

    @property
    def is_good(self) -> bool:
        """Whether a client would go on."""
        return self.status < 300


class Front:
    """A WSGI application behind as many slow lines as there are, for Granian's RSGI."""

    def __init__(self, application: Callable[..., Iterable[bytes]], threads: int) -> None:
        self._application = application
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="requests")
        self._larger = [(most, asyncio.Semaphore(count)) for most, count in LARGER]
        self._uploads = 0

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer one request."""
        environ = environ_of(scope)
        if scope.method == "PATCH" and is_offset(environ.get(OFFSET, "")):
            answer = await self._uploaded(environ, protocol)
        else:
            answer = await self._whole(environ, protocol)
        send(protocol, answer, with_body=scope.method != "HEAD")

    async def _ask(self, environ: Environ, body: bytes) -> Answer:
        asked = environ | {
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
            ASKED_AT: time.perf_counter(),
        }
        loop = asyncio.get_running_loop()
        with _counted():
            return await loop.run_in_executor(self._pool, ask, self._application, asked)

    async def _whole(self, environ: Environ, protocol: Any) -> Answer:
        body, chunks, most = bytearray(), aiter(protocol), SMALL_BYTES
        async with AsyncExitStack() as stack:
            await _gather(body, chunks, most)
            for larger, at_once in self._larger:
                if len(body) < most:
                    break
                await stack.enter_async_context(at_once)
                most = larger
                await _gather(body, chunks, most)
            return await self._ask(environ, bytes(body))

    async def _uploaded(self, environ: Environ, protocol: Any) -> Answer:
        """Hand an upload on while it comes; return the last answer, or the first refusal."""
        answer = None
        self._uploads += 1
        try:
            async for piece in _pieces(protocol, self._piece_bytes):
                answer = await self._ask(environ, piece)
                if not answer.is_good:
                    return answer
                environ = environ | {OFFSET: str(int(environ[OFFSET]) + len(piece))}
        finally:
            self._uploads -= 1
        return answer or await self._ask(environ, b"")

    def _piece_bytes(self) -> int:
        share = UPLOADS_BYTES // max(1, self._uploads)
        return min(PIECE_BYTES, max(LEAST_PIECE_BYTES, share))


def under_way() -> int:
    """Return how many requests this process has asked its application, and has no answer to."""
    return _under_way


@contextmanager
def _counted() -> Iterator[None]:
    global _under_way  # noqa: PLW0603 - of the process, whose loop alone changes it
    _under_way += 1
    try:
        yield
    finally:
        _under_way -= 1


def is_offset(text: str) -> bool:
    """Say whether a header tells where an upload goes on."""
    return text.isascii() and text.isdigit() and len(text) < 16


def _as_it_is(file: Any, _size: int) -> Any:
    return file


# -- what comes --------------------------------------------------------------------------------


def environ_of(scope: Any) -> Environ:
    """Return what WSGI calls a request, all but its body."""
    client, _, _ = scope.client.rpartition(":")
    host, _, port = scope.server.rpartition(":")
    environ: Environ = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode().decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "REMOTE_ADDR": client.strip("[]"),
        "SERVER_NAME": host.strip("[]"),
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": _as_it_is,
    }
    for name, value in scope.headers.items():
        key = name.upper().replace("-", "_")
        # What is told twice counts as one, as in any list; a name with "_" is somebody's else.
        if "_" not in name and key not in ("CONTENT_LENGTH", "TRANSFER_ENCODING"):
            key = key if key == "CONTENT_TYPE" else f"HTTP_{key}"
            environ[key] = f"{environ[key]},{value}" if key in environ else value
    if scope.authority and "HTTP_HOST" not in environ:
        environ["HTTP_HOST"] = scope.authority
    return environ


async def _gather(body: bytearray, chunks: AsyncIterator[bytes], most: int) -> None:
    """Add what comes, until it is so much."""
    while len(body) < most and (chunk := await _next(chunks)) is not None:
        body += chunk


async def _pieces(protocol: Any, enough: Callable[[], int]) -> AsyncIterator[bytes]:
    """Yield a body in pieces: when there is enough, when the line is silent, when it ends."""
    body, chunks = bytearray(), aiter(protocol)
    coming: asyncio.Future[bytes | None] | None = asyncio.ensure_future(_next(chunks))
    while coming is not None:
        done, _ = await asyncio.wait((coming,), timeout=SILENT_S if body else None)
        if done:
            chunk = coming.result()
            body += chunk or b""
            coming = None if chunk is None else asyncio.ensure_future(_next(chunks))
        if body and (not done or coming is None or len(body) >= enough()):
            yield bytes(body)
            body.clear()


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    """Return what came; none at the end, and where the client is gone."""
    try:
        return await anext(chunks)
    except (StopAsyncIteration, OSError, RuntimeError):
        return None


# -- what goes ---------------------------------------------------------------------------------


def ask(application: Callable[..., Iterable[bytes]], environ: Environ) -> Answer:
    """Ask the application, in a thread."""
    said: list[tuple[str, Headers]] = []
    found = application(environ, lambda status, headers, fault=None: said.append((status, headers)))
    try:
        body = found if isinstance(found, FileSpan) else b"".join(found)
    finally:
        if hasattr(found, "close"):
            found.close()
    status, headers = said[-1]
    return Answer(int(status[:3]), headers, body)


def send(protocol: Any, answer: Answer, *, with_body: bool) -> None:
    """Send an answer; a file's bytes go by themselves."""
    if not with_body:
        protocol.response_empty(answer.status, answer.headers)
    elif isinstance(answer.body, FileSpan):
        path, start, stop = str(answer.body.path), answer.body.start, answer.body.stop
        protocol.response_file_range(answer.status, answer.headers, path, start, stop)
    else:
        protocol.response_bytes(answer.status, answer.headers, answer.body)
