"""Fetching a file over a line that breaks, from servers that nobody vouches for.

Bytes go to `<path>.part`; after a break the next attempt goes on behind what is there, with a
Range request, at the same address or at another one. When all is here its digest is compared,
it is flushed to the disk and renamed, so `path` is either missing or right. Never more than
the promised size is written.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import httpx2

from handcar import files
from handcar.errors import Corrupt, TooSlow, Unreachable, WebPage
from handcar.stores import links
from handcar.stores.answers import lost, raise_for_file

CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
PAGE_S = 10.0
"""How long a page or an answer that says no is read for."""


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for, in seconds of the network's and not of our own limits."""

    silent_s: float = 30.0
    """Without a byte."""
    slowest_s: float = 60.0
    slowest_bytes: int = 16 * files.KB
    """A server that sends less in that time is left, so that it can't hold a volunteer for ever."""


class Watch(Protocol):
    """Who looks on while bytes come in, and may end it by raising an error."""

    def answered(self, seconds: float) -> None:
        """The server began to send, so long after it was asked."""

    def received(self, count: int, seconds: float) -> None:
        """So many bytes came, after waiting for the network so long; they are on disk."""


class Pace:
    """A Watch that raises TooSlow when bytes come so slowly that it is better to leave."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._seconds = 0.0
        self._count = 0

    def answered(self, seconds: float) -> None:
        """Take no interest."""

    def received(self, count: int, seconds: float) -> None:
        """Count; the time that a limit of our own takes is not the server's."""
        self._count += count
        self._seconds += seconds
        if self._seconds < self._patience.slowest_s:
            return
        if self._count < self._patience.slowest_bytes:
            raise TooSlow(f"only {self._count} bytes came in {self._seconds:.0f} seconds")
        self._seconds, self._count = 0.0, 0


def fetch(  # noqa: PLR0913 - each a plain fact of one download
    client: httpx2.Client,
    url: str,
    *,
    path: Path,
    size: int,
    sha256: str,
    on_bytes: Callable[[int], None],
) -> None:
    """Fetch `size` bytes of digest `sha256` to `path` from one address.

    `on_bytes(count)` is told what came in. Raises Unreachable when trying again later may
    help (what came is kept), Corrupt when the bytes are wrong, Problem when the server says
    no (LinkGone when another address may be better), DiskFull.
    """
    download = Download(client, path, size=size, sha256=sha256, on_bytes=on_bytes)
    while not download.is_done():
        resumed = download.offset() > 0
        try:
            download.take(url, Pace(Patience()))
            download.finish()
        except Corrupt:
            download.discard()
            # What was there may have come from a liar: begin anew before blaming this one.
            if not resumed:
                raise


class Download:
    """One file on its way to `path`; `take` as often as needed, then `finish`."""

    def __init__(
        self,
        client: httpx2.Client,
        path: Path,
        *,
        size: int,
        sha256: str,
        on_bytes: Callable[[int], None],
        stop: threading.Event | None = None,
    ) -> None:
        self.path = path
        self.part = path.with_name(f"{path.name}.part")
        self.size = size
        self.sha256 = sha256
        self._client = client
        self._on_bytes = on_bytes
        self._stop = stop or threading.Event()
        self.began_at: int | None = None
        """Where in the file the bytes of the last attempt began; none if none came."""

    def is_done(self) -> bool:
        """Say whether the file is here, and right."""
        there = self.path.is_file() and self.path.stat().st_size == self.size
        return there and files.digest_file(self.path) == self.sha256

    def offset(self) -> int:
        """Return how many bytes are here; a part that is too long is thrown away."""
        try:
            offset = self.part.stat().st_size
        except FileNotFoundError:
            return 0
        if offset <= self.size:
            return offset
        self.discard()
        return 0

    def discard(self) -> None:
        """Throw away what came."""
        self.part.unlink(missing_ok=True)

    def cut_back(self) -> None:
        """Throw away what the last attempt brought."""
        if self.began_at is not None:
            with self.part.open("ab") as file:
                file.truncate(self.began_at)

    def finish(self) -> None:
        """Put the file, all of which is here, into its place. Raises Corrupt if it is wrong."""
        found = files.digest_file(self.part)
        if found != self.sha256:
            raise Corrupt(f"expected {self.sha256}, got {found}")
        self.part.replace(self.path)
        files.flush_folder(self.path.parent)

    def take(self, address: str, watch: Watch, *, silent_s: float = Patience.silent_s) -> None:
        """Fetch the rest from one address. Raises what `fetch` does; what came is kept.

        `silent_s` is how long to wait for a byte.
        """
        self.began_at = None
        offset = self.offset()
        if offset == self.size:
            return
        # Compression on the way would change what a range counts.
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        timeout = httpx2.Timeout(silent_s, connect=min(10.0, silent_s))
        asked_at = time.monotonic()
        try:
            with self._client.stream("GET", address, headers=headers, timeout=timeout) as answer:
                watch.answered(time.monotonic() - asked_at)
                start = self._start(answer, offset)
                self._write(answer, start, watch)
        except httpx2.InvalidURL as error:
            raise Corrupt(f"{address[:200]!r} is not an address: {error}") from error
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise lost(error)(f"{address}: the connection failed: {reason}") from error

    def _start(self, answer: httpx2.Response, offset: int) -> int:
        """Return where in the file the bytes of an answer begin."""
        where = f"{answer.request.url}"
        if answer.status_code == 416:
            raise Corrupt(f"{where}: expected {self.size} bytes, it has no more than {offset}")
        if answer.status_code >= 400:
            raise_for_file(_shortened(answer))
        self._expect_bytes(answer)
        if answer.status_code == 206:
            return self._start_of_range(answer, offset)
        length = answer.headers.get("Content-Length", str(self.size))
        if answer.status_code != 200 or length != str(self.size):
            raise Corrupt(
                f"{where}: expected {self.size} bytes, got HTTP {answer.status_code} "
                f"with {length[:20]} bytes"
            )
        return 0

    def _expect_bytes(self, answer: httpx2.Response) -> None:
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise Corrupt(
                f"{answer.request.url}: expected the bytes as they are, got them compressed"
            )
        # Only the digest may judge what has the promised length, whatever it is called.
        length = answer.headers.get("Content-Length")
        if length != str(self.size) and answer.status_code == 200:
            self._expect_no_page(answer)

    def _expect_no_page(self, answer: httpx2.Response) -> None:
        if not links.is_page(b"", answer.headers):
            return
        shortened = _shortened(answer)
        raise_for_file(shortened)
        raise WebPage(
            f"{answer.request.url}: expected {self.size} bytes, got a web page",
            head=shortened.content,
            url=str(answer.request.url),
        )

    def _start_of_range(self, answer: httpx2.Response, offset: int) -> int:
        given = answer.headers.get("Content-Range", "")
        found = CONTENT_RANGE.fullmatch(given)
        if not found or int(found[1]) != offset or found[3] not in ("*", str(self.size)):
            raise Corrupt(
                f"{answer.request.url}: expected the bytes from {offset} of {self.size}, "
                f"got the range {given[:80]!r}"
            )
        return offset

    def _write(self, answer: httpx2.Response, start: int, watch: Watch) -> None:
        self.part.parent.mkdir(parents=True, exist_ok=True)
        with files.said_plainly(self.path), self.part.open("ab") as file:
            file.truncate(start)
            self.began_at = start
            left = self.size - start
            try:
                for piece, seconds in _timed(answer.iter_raw()):
                    self._expect_wanted(answer, len(piece), left)
                    left -= self._keep(file, piece)
                    watch.received(len(piece), seconds)
            finally:
                files.flush_to_disk(file)
        if left:
            raise Unreachable(f"{answer.request.url} ended with {left} bytes to go")

    def _keep(self, file: BinaryIO, piece: bytes) -> int:
        file.write(piece)
        self._on_bytes(len(piece))
        return len(piece)

    def _expect_wanted(self, answer: httpx2.Response, count: int, left: int) -> None:
        if count > left:
            raise Corrupt(f"{answer.request.url} sent more than the {self.size} bytes expected")
        if self._stop.is_set():
            raise Unreachable("the download was stopped; what came is kept")


def _timed(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, float]]:
    """Return each piece and the seconds that it was waited for."""
    asked_at = time.monotonic()
    for piece in pieces:
        yield piece, time.monotonic() - asked_at
        asked_at = time.monotonic()


def _shortened(answer: httpx2.Response) -> httpx2.Response:
    """Return a page, or an answer that says no, with no more of its text than is looked at."""
    text, ends_at = b"", time.monotonic() + PAGE_S
    for piece in answer.iter_raw():  # raw, since a few compressed bytes may become many
        text += piece
        if len(text) > links.HEAD_BYTES or time.monotonic() > ends_at:
            break
    headers = [
        (name, value)
        for name, value in answer.headers.raw
        if name.lower() in (b"content-type", b"retry-after")
    ]
    return httpx2.Response(
        answer.status_code,
        headers=headers,
        content=text[: links.HEAD_BYTES],
        request=answer.request,
    )
