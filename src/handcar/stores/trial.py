"""A link, tried as a volunteer would use it: in whole, and going on from the middle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2

from handcar import __version__, files
from handcar.errors import Corrupt, HandcarError, Problem, StoreFault, Unreachable
from handcar.stores import links
from handcar.stores.http import fetch

TIMEOUT = httpx2.Timeout(60.0, connect=10.0)


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of it: `url` gives the right bytes."""

    url: str
    resumes: bool
    """Whether a download that broke can go on where it was."""
    by_page: bool = False
    """Whether a page has to be passed first, which Handcar's volunteers do."""
    lasts_s: float | None = None
    """For how long the link is good; none for good."""


@dataclass(frozen=True, slots=True)
class _Page:
    """What a link shows instead of the bytes."""

    status: int
    head: bytes
    headers: httpx2.Headers
    url: str


def client() -> httpx2.Client:
    """Return a client like the one that volunteers fetch with."""
    return httpx2.Client(
        timeout=TIMEOUT, follow_redirects=True, headers={"User-Agent": f"handcar/{__version__}"}
    )


def try_link(client: httpx2.Client, url: str, path: Path) -> Tried:
    """Fetch the file at `path` by its link, in the first form of it that works.

    Raises StoreFault when none gives the bytes, saying what came and what to do; Unreachable
    when the store says "not now".
    """
    faults = []
    for form in links.forms(url):
        try:
            return _try(client, form, path)
        except StoreFault as fault:
            faults.append(fault)
    raise faults[0]


def _try(client: httpx2.Client, url: str, path: Path) -> Tried:
    fault = _fetched(client, url, path)
    if fault is None:
        return Tried(url, _resumes(client, url, path), lasts_s=links.lasts_s(url))
    page = _look(client, url)
    if why := links.refusal(page.head, page.headers, page.status, page.url):
        raise Unreachable(f"{url}: {why}; try again later, or use another --store as well")
    behind = links.follow_page(page.head, page.url)
    if behind is not None and _fetched(client, behind, path) is None:
        return Tried(url, _resumes(client, behind, path), by_page=True)
    raise StoreFault(
        f"{url} does not give the bytes stored: {_came(page, fault)}. To mend it: "
        f"{links.advice(url, page.head)}"
    )


def _came(page: _Page, fault: HandcarError) -> str:
    said = links.reason(page.head)
    told = f' that says "{said}"' if said else ""
    if page.status >= 400:
        return f"HTTP {page.status}{told}"
    if links.is_page(page.head, page.headers):
        return f"it shows a web page{told}"
    return str(fault)


def _fetched(client: httpx2.Client, url: str, path: Path) -> HandcarError | None:
    """Fetch it all; return the fault if that does not work."""
    with tempfile.TemporaryDirectory(prefix="handcar-", dir=path.parent) as folder:
        try:
            _fetch(client, url, path, Path(folder) / "whole")
        except (Corrupt, Problem, Unreachable) as fault:
            return fault
    return None


def _resumes(client: httpx2.Client, url: str, path: Path) -> bool:
    """Say whether the second half comes alone when the first is here."""
    half = path.stat().st_size // 2
    came: list[int] = []
    with tempfile.TemporaryDirectory(prefix="handcar-", dir=path.parent) as folder:
        target = Path(folder) / "rest"
        with path.open("rb") as source:
            Path(f"{target}.part").write_bytes(source.read(half))
        try:
            _fetch(client, url, path, target, came.append)
        except (Corrupt, Problem, Unreachable):
            return False
    return sum(came) <= path.stat().st_size - half


def _fetch(
    client: httpx2.Client,
    url: str,
    path: Path,
    target: Path,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> None:
    size, digest = path.stat().st_size, files.digest_file(path)
    fetch(client, url, path=target, size=size, sha256=digest, on_bytes=on_bytes)


def _look(client: httpx2.Client, url: str) -> _Page:
    """Return the beginning of what a link shows."""
    try:
        with client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
            head = b""
            for piece in answer.iter_bytes():
                head += piece
                if len(head) >= links.HEAD_BYTES:
                    break
            return _Page(answer.status_code, head, answer.headers, str(answer.url))
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Unreachable(f"{url}: {str(error) or type(error).__name__}") from error
