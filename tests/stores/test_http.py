"""Fetching: resumes, checks, never trusts. Against real servers on this machine."""

from __future__ import annotations

import errno
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from bad_servers import (
    dripping,
    dropping_after,
    endless,
    good,
    ignoring_ranges,
    sending,
    serving,
)
from handcar import files
from handcar.errors import Corrupt, DiskFull, LinkGone, Problem, TooSlow, Unreachable, WebPage
from handcar.stores import http
from handcar.stores.http import Download, Pace, Patience

CONTENT = random.Random(0).randbytes(300_000)
DIGEST = files.digest(CONTENT)


@pytest.fixture
def client() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=5.0, follow_redirects=True) as client:
        yield client


class Fetching:
    """Fetches CONTENT into a folder and counts what came in."""

    def __init__(self, client: httpx2.Client, folder: Path) -> None:
        self.client = client
        self.path = folder / "parts" / "chunk"
        self.part = folder / "parts" / "chunk.part"
        self.received = 0

    def __call__(self, url: str) -> None:
        http.fetch(
            self.client,
            url,
            path=self.path,
            size=len(CONTENT),
            sha256=DIGEST,
            on_bytes=self._count,
        )

    def slowly(self, on_bytes: Callable[[int], None] = lambda count: None) -> Download:
        """Return the download itself, to be taken by hand."""
        size = len(CONTENT)
        return Download(self.client, self.path, size=size, sha256=DIGEST, on_bytes=on_bytes)

    def _count(self, count: int) -> None:
        self.received += count


@pytest.fixture
def fetch(client: httpx2.Client, tmp_path: Path) -> Fetching:
    return Fetching(client, tmp_path)


def assert_whole(fetch: Fetching) -> None:
    assert fetch.path.read_bytes() == CONTENT
    assert not fetch.part.exists()


def test_a_file_is_fetched_whole_and_its_bytes_are_counted(fetch):
    with serving(CONTENT, good) as server:
        fetch(server.url)
    assert_whole(fetch)
    assert fetch.received == len(CONTENT)


def test_what_is_here_already_is_not_asked_for(fetch):
    with serving(CONTENT, good) as server:
        fetch(server.url)
        fetch(server.url)
        assert len(server.asked) == 1


def test_a_damaged_file_under_the_right_name_is_fetched_again(fetch):
    fetch.path.parent.mkdir()
    fetch.path.write_bytes(CONTENT[:-1] + b"?")
    with serving(CONTENT, good) as server:
        fetch(server.url)
    assert_whole(fetch)


# -- lines that break


def test_a_broken_download_goes_on_where_it_broke(fetch):
    with serving(CONTENT, dropping_after(100_000), dropping_after(50_000), good) as server:
        for _ in range(2):
            with pytest.raises(Unreachable):
                fetch(server.url)
        assert fetch.part.stat().st_size == 150_000
        assert not fetch.path.exists()
        fetch(server.url)
        assert [start for _, start in server.asked] == [0, 100_000, 150_000]
    assert_whole(fetch)
    assert fetch.received == len(CONTENT), "no byte was fetched twice"


def test_a_server_that_ignores_ranges_starts_anew(fetch):
    with serving(CONTENT, dropping_after(100_000), ignoring_ranges) as server:
        with pytest.raises(Unreachable):
            fetch(server.url)
        fetch(server.url)
    assert_whole(fetch)


def test_a_part_that_was_complete_at_a_kill_is_only_checked(fetch):
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(CONTENT)
    with serving(CONTENT, good) as server:
        fetch(server.url)
        assert server.asked == []
    assert_whole(fetch)


@pytest.mark.parametrize("left", [CONTENT + b"more", CONTENT[:1000] + bytes(1000)])
def test_a_part_that_is_wrong_does_not_spoil_a_good_server(fetch, left):
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(left)
    with serving(CONTENT, good) as server:
        fetch(server.url)
    assert_whole(fetch)


def test_nobody_listening_is_unreachable_and_says_where(fetch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/chunk"
        with pytest.raises(Unreachable, match=url):
            fetch(url)


def test_a_silent_server_is_left_after_a_while(fetch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/chunk"
        with pytest.raises(Unreachable, match="timed out"):
            fetch.slowly().take(url, Pace(Patience()), silent_s=0.2)


def test_a_dripping_server_is_left(fetch):
    pace = Pace(Patience(slowest_s=0.3))
    with (
        serving(CONTENT, dripping(0.005)) as server,
        pytest.raises(TooSlow, match="only .* bytes came in"),
    ):
        fetch.slowly().take(server.url, pace)
    assert fetch.part.stat().st_size > 0, "what came is kept"


def test_the_time_that_ones_own_limit_takes_is_not_the_servers(fetch):
    with serving(CONTENT, good) as server:
        download = fetch.slowly(lambda count: time.sleep(0.05))
        download.take(server.url, Pace(Patience(slowest_s=0.05, slowest_bytes=len(CONTENT))))
        download.finish()
    assert_whole(fetch)


# -- servers that lie

LIE = bytes(len(CONTENT))


def test_wrong_bytes_everywhere_are_an_error_that_names_both_digests(fetch):
    with (
        serving(LIE, good) as liar,
        pytest.raises(Corrupt, match=f"expected {DIGEST}, got {files.digest(LIE)}"),
    ):
        fetch(liar.url)
    assert not fetch.path.exists()
    assert not fetch.part.exists()


def test_the_good_server_is_not_blamed_for_what_a_liar_sent_before(fetch):
    with serving(LIE, dropping_after(100_000)) as liar, serving(CONTENT, good) as honest:
        with pytest.raises(Unreachable):
            fetch(liar.url)
        fetch(honest.url)
        assert [start for _, start in honest.asked] == [100_000, 0]
    assert_whole(fetch)


def test_an_endless_answer_never_writes_more_than_was_promised(fetch):
    with serving(CONTENT, endless) as server, pytest.raises(Corrupt, match="more than"):
        fetch(server.url)
    assert fetch.received <= len(CONTENT)
    assert not fetch.part.exists()


@pytest.mark.parametrize("other", [CONTENT + b"x", CONTENT[:-1], b"<html>Sign in</html>"])
def test_an_answer_of_another_length_is_refused_before_it_is_read(fetch, other):
    with serving(other, good) as server, pytest.raises(Corrupt, match="expected 300000 bytes"):
        fetch(server.url)
    assert fetch.received == 0


@pytest.mark.parametrize(
    "given", ["bytes 5-299999/300000", "bytes 100000-299999/999", "", "bytes */300000", "lines 1-2"]
)
def test_a_range_that_was_not_asked_for_is_not_appended(fetch, given):
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(CONTENT[:100_000])
    odd = sending(CONTENT[100_000:], status=206, Content_Range=given)
    with serving(CONTENT, odd, good) as server:
        fetch(server.url)  # thrown away, asked anew
    assert_whole(fetch)


def test_a_shorter_file_is_refused_when_asked_for_its_end(fetch):
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(CONTENT[:100_000])
    with serving(CONTENT[:50_000], good) as server, pytest.raises(Corrupt):
        fetch(server.url)


def test_compressed_bytes_are_refused(fetch):
    squeezed = sending(CONTENT, Content_Encoding="gzip")
    with serving(CONTENT, squeezed) as server, pytest.raises(Corrupt, match="compressed"):
        fetch(server.url)


@pytest.mark.parametrize("url", ["http://[", "http://a\x00b/", "http:// /x"])
def test_what_is_no_address_is_refused(fetch, url):
    with pytest.raises((Corrupt, Unreachable)):
        fetch(url)


def test_a_file_of_this_machine_is_not_an_address(fetch, tmp_path):
    (tmp_path / "secret").write_bytes(CONTENT)
    with pytest.raises(Unreachable):
        fetch((tmp_path / "secret").as_uri())


# -- servers that refuse


def test_a_missing_file_is_a_problem(fetch):
    with (
        serving(CONTENT, sending(b"gone", status=404)) as server,
        pytest.raises(Problem, match="HTTP 404") as caught,
    ):
        fetch(server.url)
    assert caught.value.status == 404


def test_an_endless_refusal_is_not_read_to_its_end(fetch):
    def endless_no(request, content):
        request.send_head(403, {"Transfer-Encoding": "chunked"})
        while True:
            request.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")

    with serving(CONTENT, endless_no) as server, pytest.raises(Problem):
        fetch(server.url)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_unreachable_and_tells_how_long(fetch, status):
    busy = sending(b"later", status=status, Retry_After="7")
    with serving(CONTENT, busy) as server, pytest.raises(Unreachable) as caught:
        fetch(server.url)
    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize("asked", ["\u00b2", "9" * 400, "-5", "soon", "Mon, 01 Jan 99999 00:00:00"])
def test_no_odd_request_to_wait_is_waited_for_for_ever(fetch, asked):
    busy = sending(b"later", status=503, Retry_After=asked)
    with serving(CONTENT, busy) as server, pytest.raises(Unreachable) as caught:
        fetch(server.url)
    assert caught.value.retry_after_s in (None, 24 * 3600)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_address_that_leads_nowhere_is_told_apart(fetch, status):
    with serving(CONTENT, sending(b"", status=status)) as server, pytest.raises(LinkGone):
        fetch(server.url)


def test_a_signed_link_that_is_good_no_more_is_told_apart(fetch):
    said = sending(b"<Error><Code>ExpiredToken</Code></Error>", status=400)
    with serving(CONTENT, said) as server, pytest.raises(LinkGone):
        fetch(server.url)


# -- pages for people

PAGE = b"<!DOCTYPE html><title>Sign in</title>"


def test_a_page_instead_of_the_bytes_is_not_downloaded(fetch):
    page = sending(PAGE, Content_Type="text/html")
    with serving(CONTENT, page) as server, pytest.raises(WebPage) as caught:
        fetch(server.url)
    assert caught.value.head == PAGE
    assert not fetch.part.exists()


def test_a_page_without_a_length_is_not_downloaded_either(fetch):
    def page(request, content):
        request.send_head(200, {"Content-Type": "text/html", "Connection": "close"})
        request.wfile.write(PAGE)
        request.close_connection = True

    with serving(CONTENT, page) as server, pytest.raises(WebPage):
        fetch(server.url)
    assert not fetch.part.exists()


def test_a_page_that_says_not_now_is_believed(fetch):
    said = b"<html>Sorry: too many users have viewed or downloaded this file recently.</html>"
    page = sending(said, Content_Type="text/html")
    with serving(CONTENT, page) as server, pytest.raises(Unreachable, match="quota"):
        fetch(server.url)


def test_a_file_that_is_called_a_page_is_judged_by_its_digest(fetch):
    odd = sending(CONTENT, Content_Type="text/html")
    with serving(CONTENT, odd) as server:
        fetch(server.url)
    assert_whole(fetch)


def test_a_full_disk_is_said(fetch, monkeypatch):
    def full(file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "flush_to_disk", full)
    with serving(CONTENT, good) as server, pytest.raises(DiskFull, match="free some space"):
        fetch(server.url)
    assert not fetch.path.exists()


def test_a_redirect_is_followed(fetch):
    with serving(CONTENT, good) as target:
        moved = sending(b"", status=302, Location=target.url)
        with serving(b"", moved) as server:
            fetch(server.url)
    assert_whole(fetch)


def test_a_redirect_in_a_circle_ends(fetch):
    circle = sending(b"", status=302, Location="/chunk")
    with serving(b"", circle) as server, pytest.raises(Unreachable):
        fetch(server.url)
