"""A real HTTP server for files that can break, lie, dawdle and refuse, as told."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Request(BaseHTTPRequestHandler):
    """One request; what a test's behaviour works with."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: BadServer

    def do_GET(self) -> None:
        start = self.range_start() or 0
        self.server.asked.append((self.path, start))
        self.server.next_behaviour()(self, self.server.content)

    def range_start(self) -> int | None:
        given = self.headers.get("Range")
        return None if given is None else int(given.removeprefix("bytes=").removesuffix("-"))

    def send_head(self, status: int, headers: dict[str, object]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


Behaviour = Callable[[Request, bytes], None]


class BadServer(ThreadingHTTPServer):
    """Serves `content` at every path; each request takes the next behaviour, the last for ever."""

    daemon_threads = True

    def __init__(self, content: bytes, behaviours: tuple[Behaviour, ...]) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.content = content
        self.asked: list[tuple[str, int]] = []
        self._behaviours = list(behaviours)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/chunk"

    def next_behaviour(self) -> Behaviour:
        return self._behaviours.pop(0) if len(self._behaviours) > 1 else self._behaviours[0]

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # connections that break are the point


@contextmanager
def answering(server: socketserver.BaseServer) -> Iterator[None]:
    """Let a server answer from a thread while the block runs."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def serving(content: bytes, *behaviours: Behaviour) -> Iterator[BadServer]:
    with BadServer(content, behaviours) as server, answering(server):
        yield server


def good(request: Request, content: bytes) -> None:
    """Answer as a server of files should, ranges included."""
    start = request.range_start()
    if start is None:
        return ignoring_ranges(request, content)
    if start >= len(content):
        return request.send_head(416, {"Content-Length": 0})
    where = f"bytes {start}-{len(content) - 1}/{len(content)}"
    request.send_head(206, {"Content-Length": len(content) - start, "Content-Range": where})
    request.wfile.write(content[start:])
    return None


def ignoring_ranges(request: Request, content: bytes) -> None:
    request.send_head(200, {"Content-Length": len(content)})
    request.wfile.write(content)


def dropping_after(count: int) -> Behaviour:
    """Promise all, send `count` bytes, and cut the line."""

    def behave(request: Request, content: bytes) -> None:
        start = request.range_start() or 0
        begin_at(request, content, start)
        request.wfile.write(content[start : start + count])
        request.close_connection = True

    return behave


def sending(other: bytes, *, status: int = 200, **headers: object) -> Behaviour:
    """Answer with other bytes."""

    def behave(request: Request, content: bytes) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request.send_head(status, {"Content-Length": len(other), **named})
        request.wfile.write(other)

    return behave


def endless(request: Request, content: bytes) -> None:
    """Send for ever, in pieces without a length."""
    request.send_head(200, {"Transfer-Encoding": "chunked"})
    piece = b"10000\r\n" + bytes(65536) + b"\r\n"
    while True:
        request.wfile.write(piece)


def dripping(pause_s: float) -> Behaviour:
    """Send a byte at a time."""

    def behave(request: Request, content: bytes) -> None:
        request.send_head(200, {"Content-Length": len(content)})
        for byte in content:
            request.wfile.write(bytes([byte]))
            time.sleep(pause_s)

    return behave


def pacing(bytes_per_s: float) -> Behaviour:
    """Send what is right, so slowly."""

    def behave(request: Request, content: bytes) -> None:
        start = request.range_start() or 0
        begin_at(request, content, start)
        for place in range(start, len(content), 2048):
            request.wfile.write(content[place : place + 2048])
            time.sleep(2048 / bytes_per_s)

    return behave


def silent_after(count: int, *, silent_s: float = 3.0) -> Behaviour:
    """Promise all, send `count` bytes, and say nothing more."""

    def behave(request: Request, content: bytes) -> None:
        start = request.range_start() or 0
        begin_at(request, content, start)
        request.wfile.write(content[start : start + count])
        time.sleep(silent_s)
        request.close_connection = True

    return behave


def begin_at(request: Request, content: bytes, start: int) -> None:
    """Send the head of an answer that promises everything from `start`."""
    headers: dict[str, object] = {"Content-Length": len(content) - start}
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    request.send_head(206 if start else 200, headers)
