"""Downloads past servers that fail in every way we know of: what a volunteer's code makes of it.

    with Mirrors(3) as mirrors:
        outcome = download(fault, mirrors, folder)

Real HTTP servers on this machine, the volunteer's own downloads, and a driver that does what
`volunteer/state.py` does after a failure: waits, tries again, or takes fresh links. Time that
hosts are left alone passes FASTER, so that hundreds of faults take a minute.
"""

from __future__ import annotations

import gzip
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self

from handcar import files
from handcar.errors import HandcarError, LinkGone, Unreachable
from handcar.protocol.messages import Link
from handcar.stores import reach
from handcar.stores.http import Patience
from handcar.volunteer.budget import Allowance
from handcar.volunteer.downloads import Downloads
from handcar.volunteer.hosts import Hosts
from handcar.volunteer.line import Line

FASTER = 20.0
PATIENCE = Patience(silent_s=0.6, slowest_s=0.5, slowest_bytes=16 * files.KB)
TRIES = 6
"""After so many failures in a row a person has long heard of it."""
STALL_S = 1.5
SIZES = (60_000, 400_000)


@dataclass(frozen=True)
class Fault:
    """What goes wrong in one download."""

    kind: str
    mirrors: int
    """How many addresses there are."""
    where: int
    """Which of them has the fault; the others are good."""
    times: int
    """For so many requests; then it works."""
    seed: int

    @property
    def content(self) -> bytes:
        """What the file holds."""
        rng = random.Random(self.seed)  # noqa: S311 - a scenario, not a secret
        return rng.randbytes(rng.randrange(*SIZES))

    @property
    def can_be_survived(self) -> bool:
        """Whether somebody gives the right bytes sooner or later."""
        return self.mirrors > 1 or self.times < TRIES or self.kind == "expired link"


@dataclass(frozen=True)
class Outcome:
    """How it ended; `text` is what a person was told last, if anything."""

    fault: Fault
    ended: Literal["verified", "reported", "wrong"]
    text: str = ""


def draw(count: int, seed: int = 0) -> list[Fault]:
    """Return faults of all kinds in turn, at random places."""
    rng = random.Random(seed)  # noqa: S311 - scenarios, not secrets
    kinds = list(KINDS)
    faults = []
    for number in range(count):
        mirrors = rng.randint(1, 3)
        times = rng.choice([1, 2, 1_000])
        fault = Fault(kinds[number % len(kinds)], mirrors, rng.randrange(mirrors), times, number)
        faults.append(fault)
    return faults


# -- one download ------------------------------------------------------------------------------


def download(fault: Fault, mirrors: Mirrors, folder: Path) -> Outcome:
    """Fetch a file of its own past a fault. Errors that are nobody's on purpose go through."""
    addresses = mirrors.serve(fault)
    content = fault.content
    link = Link(
        url=addresses[0],
        mirrors=tuple(addresses[1:]),
        sha256=files.digest(content),
        size=len(content),
    )
    path = folder / f"{fault.seed}"
    text = _fetch(link, path)
    if not path.exists():
        return Outcome(fault, "reported" if text else "wrong", text)
    right = files.digest_file(path) == link.sha256
    return Outcome(fault, "verified" if right else "wrong", text)


def _fetch(link: Link, path: Path) -> str:
    """Try as the state does; return what a person hears."""
    said: list[str] = []
    line = Line(Allowance(), path.with_name(f"{path.name}.line.json"))
    client = reach.client(reach.Reach(link.url), follow_redirects=True)
    hosts = Hosts(clock=lambda: time.time() * FASTER, rng=random.Random(0))  # noqa: S311
    with client:
        downloads = Downloads(client, line, hosts, say=said.append, patience=PATIENCE)
        for _ in range(TRIES):
            try:
                downloads.fetch(link, path)
                break
            except LinkGone as gone:
                said.append(str(gone))
                link = _fresh(link)
            except HandcarError as error:
                said.append(str(error))
                wait_s = error.retry_after_s if isinstance(error, Unreachable) else None
                time.sleep((wait_s or 0.0) / FASTER)
    return said[-1] if said else ""


def _fresh(link: Link) -> Link:
    """Return a link as the server would sign it anew."""
    urls = [url.partition("?")[0] + "?fresh" for url in (link.url, *link.mirrors)]
    return link.model_copy(update={"url": urls[0], "mirrors": tuple(urls[1:])})


# -- servers -----------------------------------------------------------------------------------


class Mirrors:
    """Real web servers, each another host to a volunteer."""

    def __init__(self, count: int) -> None:
        self._servers = [_Server() for _ in range(count)]

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def serve(self, fault: Fault) -> list[str]:
        """Serve the file of a fault at every mirror; return its addresses."""
        addresses = []
        for number, server in enumerate(self._servers[: fault.mirrors]):
            has_it = fault if number == fault.where else replace(fault, kind="none")
            server.faults[f"/{fault.seed}"] = has_it
            addresses.append(f"http://127.0.0.1:{server.server_port}/{fault.seed}?signed")
        return addresses


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.faults: dict[str, Fault] = {}
        self.asked: dict[str, int] = {}

    def handle_error(self, *_: Any) -> None:
        """Say nothing: connections that break are the point."""


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        """Answer, or fail."""
        name, _, query = self.path.partition("?")
        fault = self.server.faults[name]
        number = self.server.asked[name] = self.server.asked.get(name, 0) + 1
        content = fault.content
        # A link that has expired stays so; all else may pass.
        over = query == "fresh" if fault.kind == "expired link" else number > fault.times
        if over or fault.kind == "none":
            self.give(content)
        else:
            rng = random.Random(fault.seed + 1)  # noqa: S311 - a scenario, not a secret
            KINDS[fault.kind](self, content, rng)

    def start(self) -> int:
        """Return the byte from which the file is asked for."""
        given = self.headers.get("Range")
        return int(given.removeprefix("bytes=").removesuffix("-")) if given else 0

    def give(self, content: bytes, count: int | None = None, **headers: object) -> None:
        """Send the file from where it is asked for: all of it, or `count` bytes."""
        start = self.start()
        head: dict[str, object] = {"Content-Length": len(content) - start}
        if start:
            head["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.head(206 if start else 200, **{**head, **_named(headers)})
        end = len(content) if count is None else start + count
        self.wfile.write(content[start:end])

    def head(self, status: int, **headers: object) -> None:
        """Send a status and headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def say(self, status: int, text: bytes = b"", **headers: object) -> None:
        """Send a whole answer."""
        self.head(status, **{"Content-Length": len(text), **_named(headers)})
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def _named(headers: dict[str, object]) -> dict[str, object]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


# -- what goes wrong ---------------------------------------------------------------------------

Failing = Callable[[_Request, bytes, random.Random], None]


def _truncated(request: _Request, content: bytes, rng: random.Random) -> None:
    request.give(content, rng.randrange(len(content)))
    request.close_connection = True


def _reset(request: _Request, content: bytes, rng: random.Random) -> None:
    request.give(content, rng.randrange(len(content)))
    linger = struct.pack("ii", 1, 0)
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    request.connection.close()


def _bit_flipped(request: _Request, content: bytes, rng: random.Random) -> None:
    wrong = bytearray(content)
    wrong[rng.randrange(len(wrong))] ^= 1 << rng.randrange(8)
    request.give(bytes(wrong))


def _lying(request: _Request, content: bytes, rng: random.Random) -> None:
    request.give(rng.randbytes(len(content)))


def _lying_then_gone(request: _Request, content: bytes, rng: random.Random) -> None:
    request.give(rng.randbytes(len(content)), rng.randrange(len(content)))
    request.close_connection = True


def _slow(request: _Request, content: bytes, rng: random.Random) -> None:
    request.give(content, 0)
    for place in range(request.start(), len(content), 500):
        request.wfile.write(content[place : place + 500])
        time.sleep(0.02)


def _stalling(request: _Request, content: bytes, rng: random.Random) -> None:
    request.give(content, rng.randrange(len(content)))
    time.sleep(STALL_S)
    request.close_connection = True


def _silent(request: _Request, content: bytes, rng: random.Random) -> None:
    time.sleep(STALL_S)
    request.close_connection = True


def _too_short(request: _Request, content: bytes, rng: random.Random) -> None:
    request.give(content[: rng.randrange(1, len(content))])


def _too_long(request: _Request, content: bytes, rng: random.Random) -> None:
    request.give(content + rng.randbytes(rng.randrange(1, 1000)))


def _endless(request: _Request, content: bytes, rng: random.Random) -> None:
    request.head(200, **{"Transfer-Encoding": "chunked"})
    piece = b"10000\r\n" + rng.randbytes(65536) + b"\r\n"
    while True:
        request.wfile.write(piece)


def _odd_range(request: _Request, content: bytes, rng: random.Random) -> None:
    odd = rng.choice(["bytes 5-9/10", "", "lines 1-2", f"bytes 7-{len(content)}/{len(content)}"])
    request.head(206, **{"Content-Length": len(content), "Content-Range": odd})
    request.wfile.write(content)


def _page(request: _Request, content: bytes, rng: random.Random) -> None:
    request.say(200, b"<!DOCTYPE html><title>Sign in</title>", Content_Type="text/html")


def _page_without_length(request: _Request, content: bytes, rng: random.Random) -> None:
    request.head(200, **{"Content-Type": "text/html", "Connection": "close"})
    request.wfile.write(b"<!DOCTYPE html><title>Sign in</title>")
    request.close_connection = True


def _used_up(request: _Request, content: bytes, rng: random.Random) -> None:
    said = b"<html>Too many users have viewed or downloaded this file recently.</html>"
    request.say(200, said, Content_Type="text/html")


def _squeezed(request: _Request, content: bytes, rng: random.Random) -> None:
    request.say(200, gzip.compress(content, 1), Content_Encoding="gzip")


def _busy(request: _Request, content: bytes, rng: random.Random) -> None:
    request.say(rng.choice([429, 503]), b"later", Retry_After=rng.randint(1, 5))


KINDS: dict[str, Failing] = {
    "truncated": _truncated,
    "reset": _reset,
    "bit flipped": _bit_flipped,
    "lying": _lying,
    "lying, then gone": _lying_then_gone,
    "404": lambda request, content, rng: request.say(404, b"not here"),
    "500": lambda request, content, rng: request.say(500, b"oops"),
    "503": lambda request, content, rng: request.say(503, b"later"),
    "429 or 503 with Retry-After": _busy,
    "slow": _slow,
    "stalling": _stalling,
    "silent": _silent,
    "too short": _too_short,
    "too long": _too_long,
    "endless": _endless,
    "odd range": _odd_range,
    "page": _page,
    "page without a length": _page_without_length,
    "page: used up": _used_up,
    "compressed": _squeezed,
    "expired link": lambda request, content, rng: request.say(403, b"expired"),
    "redirected in a circle": lambda request, content, rng: request.say(302, Location=request.path),
}
