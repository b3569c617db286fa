"""Fetching a file over a line that breaks, from servers that nobody vouches for.

Bytes go to `<path>.part`; after a break the next call goes on behind what is there, with a
Range request. When all is here its digest is compared, it is flushed to the disk and
renamed, so `path` is either missing or right. Never more than the promised size is written.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

from handcar import files
from handcar.errors import Corrupt, HandcarError, Problem, Unreachable
from handcar.stores.answers import raise_for_answer

log = logging.getLogger(__name__)

CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
REFUSAL_BYTES = 64 * files.KB
"""What is read of an answer that says no."""
SLOWEST_S = 60.0
SLOWEST_BYTES = 16 * files.KB
"""A server that sends less in that time is left, so that it can't hold a volunteer for ever."""


def fetch(  # noqa: PLR0913 - each a plain fact of one download
    client: httpx2.Client,
    url: str,
    *,
    path: Path,
    size: int,
    sha256: str,
    on_bytes: Callable[[int], None],
    stop: threading.Event | None = None,
    mirrors: Sequence[str] = (),
) -> None:
    """Fetch `size` bytes of digest `sha256` to `path`, from `url` or else from a mirror.

    `on_bytes(count)` is told what came in; setting `stop` ends it soon. Raises Unreachable
    when trying again later may help (what came is kept), Corrupt when the bytes are wrong
    everywhere, Problem when all servers say no, DiskFull.
    """
    download = _Download(client, path, size, sha256, on_bytes, stop or threading.Event())
    if download.is_done():
        return None
    faults: list[HandcarError] = []
    for address in (url, *mirrors):
        try:
            return download.fetch_from(address)
        except (Corrupt, Unreachable, Problem) as fault:
            faults.append(fault)
            if download.stop.is_set():
                break
            log.info("%s: %s", address, fault)
    # The most hopeful fault: what one server refuses for good, another may have later.
    raise min(faults, key=lambda fault: (isinstance(fault, Problem), isinstance(fault, Corrupt)))


@dataclass(frozen=True, slots=True)
class _Download:
    client: httpx2.Client
    path: Path
    size: int
    sha256: str
    on_bytes: Callable[[int], None]
    stop: threading.Event

    @property
    def part(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part")

    def is_done(self) -> bool:
        """Say whether an earlier call has finished this."""
        there = self.path.is_file() and self.path.stat().st_size == self.size
        return there and files.digest_file(self.path) == self.sha256

    def fetch_from(self, address: str) -> None:
        """Fetch the rest from one address; wrong bytes are thrown away."""
        while True:
            resumed = self._offset() > 0
            try:
                return self._attempt(address)
            except Corrupt:
                self.part.unlink(missing_ok=True)
                # What was there may have come from a liar: begin anew before blaming this one.
                if not resumed:
                    raise

    def _attempt(self, address: str) -> None:
        offset = self._offset()
        if offset < self.size:
            self._download(address, offset)
        found = files.digest_file(self.part)
        if found != self.sha256:
            raise Corrupt(f"{address}: expected {self.sha256}, got {found}")
        self.part.replace(self.path)
        files.flush_folder(self.path.parent)

    def _offset(self) -> int:
        """Return how many bytes are here; a part that is too long is thrown away."""
        try:
            offset = self.part.stat().st_size
        except FileNotFoundError:
            return 0
        if offset <= self.size:
            return offset
        self.part.unlink()
        return 0

    def _download(self, address: str, offset: int) -> None:
        # Compression on the way would change what a range counts.
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        try:
            with self.client.stream("GET", address, headers=headers) as answer:
                start = self._start(answer, offset)
                self._take(answer, start)
        except httpx2.InvalidURL as error:
            raise Corrupt(f"{address[:200]!r} is not an address: {error}") from error
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"{address}: the connection failed: {reason}") from error

    def _start(self, answer: httpx2.Response, offset: int) -> int:
        """Return where in the file the bytes of an answer begin."""
        where = f"{answer.request.url}"
        if answer.status_code == 416:
            raise Corrupt(f"{where}: expected {self.size} bytes, it has no more than {offset}")
        if answer.status_code >= 400:
            raise_for_answer(_shortened(answer))
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise Corrupt(f"{where}: expected the bytes as they are, got them compressed")
        if answer.status_code == 206:
            return self._start_of_range(answer, offset)
        length = answer.headers.get("Content-Length", str(self.size))
        if answer.status_code != 200 or length != str(self.size):
            raise Corrupt(
                f"{where}: expected {self.size} bytes, got HTTP {answer.status_code} "
                f"with {length[:20]} bytes"
            )
        return 0

    def _start_of_range(self, answer: httpx2.Response, offset: int) -> int:
        given = answer.headers.get("Content-Range", "")
        found = CONTENT_RANGE.fullmatch(given)
        if not found or int(found[1]) != offset or found[3] not in ("*", str(self.size)):
            raise Corrupt(
                f"{answer.request.url}: expected the bytes from {offset} of {self.size}, "
                f"got the range {given[:80]!r}"
            )
        return offset

    def _take(self, answer: httpx2.Response, start: int) -> None:
        self.part.parent.mkdir(parents=True, exist_ok=True)
        with files.said_plainly(self.path), self.part.open("ab") as file:
            file.truncate(start)
            left = self.size - start
            pace = _Pace()
            for piece in answer.iter_raw():
                self._expect_wanted(answer, len(piece), left)
                file.write(piece)
                left -= len(piece)
                self.on_bytes(len(piece))
                pace.note(len(piece))
            files.flush_to_disk(file)
        if left:
            raise Unreachable(f"{answer.request.url} ended with {left} bytes to go")

    def _expect_wanted(self, answer: httpx2.Response, count: int, left: int) -> None:
        if count > left:
            raise Corrupt(f"{answer.request.url} sent more than the {self.size} bytes expected")
        if self.stop.is_set():
            raise Unreachable("the download was stopped; what came is kept")


class _Pace:
    """Raises Unreachable when bytes come so slowly that another server, or later, is better."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._count = 0

    def note(self, count: int) -> None:
        self._count += count
        now = time.monotonic()
        if now - self._since < SLOWEST_S:
            return
        if self._count < SLOWEST_BYTES:
            raise Unreachable(f"only {self._count} bytes came in {now - self._since:.0f} seconds")
        self._since, self._count = now, 0


def _shortened(answer: httpx2.Response) -> httpx2.Response:
    """Return an answer that says no with no more of its text than a person reads."""
    text = b""
    for piece in answer.iter_raw():  # raw, since a few compressed bytes may become many
        text += piece
        if len(text) > REFUSAL_BYTES:
            break
    headers = {
        name: answer.headers[name]
        for name in ("Content-Type", "Retry-After")
        if name in answer.headers
    }
    return httpx2.Response(
        answer.status_code, headers=headers, content=text[:REFUSAL_BYTES], request=answer.request
    )
