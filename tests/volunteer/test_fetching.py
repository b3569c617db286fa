"""From several mirrors, over lines that break, past servers that lie: real ones."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bad_servers import (
    BadServer,
    Behaviour,
    dripping,
    dropping_after,
    endless,
    good,
    ignoring_ranges,
    pacing,
    sending,
    serving,
    silent_after,
)
from handcar import files
from handcar.errors import Corrupt, Forbidden, LinkGone, Problem, Unreachable
from handcar.protocol.messages import Link
from handcar.stores import reach
from handcar.stores.http import Patience
from handcar.volunteer.budget import Allowance
from handcar.volunteer.downloads import MOST_AT_ONCE, AtOnce, Downloads
from handcar.volunteer.hosts import Hosts, host_of
from handcar.volunteer.line import Line, UsedUp

CONTENT = random.Random(0).randbytes(300_000)
LIE = bytes(len(CONTENT))
PATIENCE = Patience(silent_s=0.5, slowest_s=0.4)


class Volunteer:
    """Downloads into a folder, and what a person would hear."""

    def __init__(self, folder: Path, **allowed: float) -> None:
        self.path = folder / "parts" / "chunk"
        self.part = folder / "parts" / "chunk.part"
        self.said: list[str] = []
        self.stop = threading.Event()
        self.hosts = Hosts(rng=random.Random(1))
        self.client = httpx2.Client(follow_redirects=True)
        self.line = Line(Allowance(**allowed), folder / "line.json", stop=self.stop)
        self.downloads = Downloads(
            self.client,
            self.line,
            self.hosts,
            say=self.said.append,
            stop=self.stop,
            patience=PATIENCE,
        )

    def fetch(self, *addresses: str) -> None:
        url, *mirrors = addresses
        link = Link(url=url, mirrors=mirrors, sha256=files.digest(CONTENT), size=len(CONTENT))
        self.downloads.fetch(link, self.path)
        assert self.path.read_bytes() == CONTENT
        assert not self.part.exists()


@pytest.fixture
def volunteer(tmp_path: Path) -> Iterator[Volunteer]:
    made = Volunteer(tmp_path)
    with made.client:
        yield made


@pytest.fixture
def mirror() -> Iterator[BadServer]:
    with serving(CONTENT, good) as server:
        yield server


def starts(server: BadServer) -> list[int]:
    return [start for _, start in server.asked]


# -- a mirror in mid-file


def test_a_broken_server_is_asked_on_at_once_where_it_broke(volunteer):
    with serving(CONTENT, dropping_after(100_000), dropping_after(100_000), good) as server:
        volunteer.fetch(server.url)
        assert starts(server) == [0, 100_000, 200_000]
    assert volunteer.line.down == len(CONTENT), "no byte was fetched twice"


def test_one_that_breaks_without_giving_anything_is_left_alone(volunteer):
    with serving(CONTENT, dropping_after(0)) as server:
        with pytest.raises(Unreachable) as caught:
            volunteer.fetch(server.url)
        assert caught.value.retry_after_s > 0
        with pytest.raises(Unreachable, match="left alone"):
            volunteer.fetch(server.url)
        assert len(server.asked) == 1


def test_a_mirror_goes_on_behind_what_a_broken_server_gave(volunteer, mirror):
    with serving(CONTENT, dropping_after(100_000), dropping_after(0)) as server:
        volunteer.fetch(server.url, mirror.url)
    assert starts(mirror) == [100_000]


def test_a_silent_mirror_is_left_in_mid_file(volunteer, mirror):
    with serving(CONTENT, silent_after(50_000)) as silent:
        volunteer.fetch(silent.url, mirror.url)
    assert starts(mirror) == [50_000]


def test_a_slow_mirror_is_left_in_mid_file_for_one_that_was_never_measured(volunteer, mirror):
    with serving(CONTENT, pacing(20_000)) as slow:
        volunteer.fetch(slow.url, mirror.url)
        assert len(slow.asked) == 1
    assert 0 < starts(mirror)[0] < 100_000


def test_a_mirror_that_is_slower_than_another_is_known_to_be_is_left(volunteer, mirror):
    volunteer.hosts.answered(mirror.url, 9.0)  # so that it is not the first
    volunteer.hosts.received(mirror.url, 10**8, 10.0)
    with serving(CONTENT, pacing(200_000)) as slow:
        volunteer.hosts.received(slow.url, 10**8, 10.0)
        volunteer.fetch(slow.url, mirror.url)
        assert slow.asked
    assert mirror.asked


def test_when_all_are_slow_one_of_them_is_stayed_with(volunteer):
    with serving(CONTENT, pacing(150_000)) as one, serving(CONTENT, pacing(150_000)) as other:
        for server in (one, other):
            volunteer.hosts.received(server.url, 10**8, 1.0)
        volunteer.fetch(one.url, other.url)
        assert len(one.asked) + len(other.asked) <= 3


def test_a_mirror_is_not_called_slow_for_our_own_limit(tmp_path, mirror):
    limited = Volunteer(tmp_path, down_bytes_per_s=200_000.0)
    with serving(CONTENT, good) as server, limited.client:
        limited.hosts.received(mirror.url, 10**8, 1.0)
        limited.hosts.received(server.url, 10**9, 1.0)
        limited.fetch(server.url, mirror.url)
    assert mirror.asked == []


def test_a_server_that_ignores_ranges_is_taken_from_the_start(volunteer):
    with serving(CONTENT, dropping_after(100_000), ignoring_ranges) as server:
        volunteer.fetch(server.url)


def test_one_that_answers_ranges_oddly_is_asked_for_the_whole_in_the_end(volunteer):
    odd = sending(CONTENT[100_000:], status=206, Content_Range="lines 1-2")
    with serving(CONTENT, dropping_after(100_000), odd, good) as server:
        volunteer.fetch(server.url)
        assert starts(server) == [0, 100_000, 0]


# -- what is asked of a host


def test_a_busy_host_is_not_asked_before_it_said_and_a_mirror_is_used_meanwhile(volunteer, mirror):
    busy = sending(b"later", status=503, Retry_After="600")
    with serving(CONTENT, busy) as server:
        volunteer.fetch(server.url, mirror.url)
        volunteer.path.unlink()
        volunteer.fetch(server.url + "/2", mirror.url)
        assert len(server.asked) == 1


def test_when_all_hosts_are_busy_the_soonest_says_when_to_come_back(volunteer):
    with (
        serving(CONTENT, sending(b"", status=429, Retry_After="900")) as one,
        serving(CONTENT, sending(b"", status=503, Retry_After="60")) as other,
        pytest.raises(Unreachable) as caught,
    ):
        volunteer.fetch(one.url, other.url)
    assert 59 <= caught.value.retry_after_s <= 66


def test_links_that_lead_nowhere_ask_for_fresh_ones_even_if_a_mirror_may_come_back(volunteer):
    with (
        serving(CONTENT, sending(b"", status=503)) as busy,
        serving(CONTENT, sending(b"", status=403)) as expired,
        pytest.raises(LinkGone),
    ):
        volunteer.fetch(busy.url, expired.url)


def test_a_fresh_link_goes_on_where_the_old_one_broke(volunteer, mirror):
    expiring = serving(CONTENT, dropping_after(100_000), sending(b"", status=403))
    with expiring as expired, pytest.raises(LinkGone):
        volunteer.fetch(expired.url)
    volunteer.fetch(mirror.url)
    assert starts(mirror) == [100_000]


def test_when_one_mirror_may_come_back_that_counts_more_than_another_s_refusal(volunteer):
    with (
        serving(CONTENT, sending(b"", status=418)) as teapot,
        serving(CONTENT, sending(b"", status=503)) as busy,
        serving(LIE, good) as liar,
        pytest.raises(Unreachable),
    ):
        volunteer.fetch(teapot.url, busy.url, liar.url)


def test_a_no_from_all_is_a_no(volunteer):
    with serving(CONTENT, sending(b"", status=418)) as teapot, pytest.raises(Problem):
        volunteer.fetch(teapot.url)


def test_nobody_listening_is_unreachable_and_says_where(volunteer):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/chunk"
        with pytest.raises(Unreachable, match=url):
            volunteer.fetch(url)


def test_an_address_of_a_private_network_is_passed_over(volunteer, mirror):
    volunteer.downloads.client = reach.client(reach.Reach("https://1.1.1.1"))
    with pytest.raises(Forbidden):
        volunteer.fetch(mirror.url)
    assert mirror.asked == []


def test_the_page_of_a_service_is_passed(volunteer):
    form = b'<html><form id="download-form" action="/behind"><input name="confirm" value="t">'

    def page(request: Any, content: bytes) -> None:
        behaviour = (
            good if request.path.startswith("/behind") else sending(form, Content_Type="text/html")
        )
        behaviour(request, content)

    with serving(CONTENT, page) as server:
        volunteer.fetch(server.url)
        assert [path for path, _ in server.asked] == ["/chunk", "/behind?confirm=t"]


def test_a_page_that_leads_nowhere_is_a_fault_and_a_mirror_is_asked(volunteer, mirror):
    page = sending(b"<html>Sign in</html>", Content_Type="text/html")
    with serving(CONTENT, page) as server:
        volunteer.fetch(server.url, mirror.url)


# -- liars


def test_wrong_bytes_are_thrown_away_and_the_person_hears_of_it_once(volunteer, mirror):
    with serving(LIE, good) as liar:
        volunteer.fetch(liar.url, mirror.url)
        assert starts(mirror) == [0]
        assert volunteer.downloads.liars == [host_of(liar.url)]
        (said,) = volunteer.said
        assert said.startswith(host_of(liar.url))
        volunteer.path.unlink()
        volunteer.fetch(liar.url, mirror.url)
        assert len(liar.asked) == 1, "it is asked last from now on"
        assert len(volunteer.said) == 1


def test_the_server_hears_of_a_liar_once(volunteer, mirror):
    with serving(LIE, good) as liar:
        volunteer.fetch(liar.url, mirror.url)
        assert volunteer.downloads.untold_liars() == [host_of(liar.url)]
    assert volunteer.downloads.untold_liars() == []


@pytest.mark.parametrize("url", ["http://[", "http://a\x00b/", "http:// /x", "file:///etc/passwd"])
def test_what_is_no_address_is_passed_over(volunteer, mirror, url):
    volunteer.fetch(url, mirror.url)


def test_wrong_bytes_everywhere_are_an_error_that_names_both_digests(volunteer):
    lie = files.digest(LIE)
    with serving(LIE, good) as liar, pytest.raises(Corrupt, match=f"got {lie}"):
        volunteer.fetch(liar.url)
    assert not volunteer.path.exists()
    assert not volunteer.part.exists()


def test_a_liar_in_mid_file_is_told_from_who_gave_the_rest(volunteer):
    honest = (dropping_after(100_000), dropping_after(0), good)
    with serving(CONTENT, *honest) as broken, serving(LIE, good) as liar:
        volunteer.hosts.failed(liar.url, rest=False)  # so that it is not the first
        with pytest.raises(Unreachable):
            volunteer.fetch(broken.url, liar.url)
        assert volunteer.downloads.liars == [host_of(liar.url)]


def test_a_liar_s_beginning_is_found_out_by_the_right_file(volunteer, mirror):
    with serving(LIE, dropping_after(100_000), dropping_after(0)) as liar:
        volunteer.fetch(liar.url, mirror.url)
    assert starts(mirror) == [100_000, 0]
    assert volunteer.downloads.liars == [host_of(liar.url)]


def test_a_liar_of_an_earlier_run_does_not_put_the_blame_on_an_honest_host(volunteer, mirror):
    volunteer.part.parent.mkdir()
    volunteer.part.write_bytes(LIE[:1000])
    volunteer.fetch(mirror.url)
    assert volunteer.downloads.liars == []


def test_a_liar_with_the_only_link_to_another_file_is_still_asked(volunteer):
    with serving(LIE, good) as liar:
        with pytest.raises(Corrupt):
            volunteer.fetch(liar.url)
        liar.content = CONTENT
        volunteer.fetch(liar.url)


@pytest.mark.parametrize("behaviour", [endless, sending(CONTENT, Content_Encoding="gzip")])
def test_what_breaks_the_protocol_leaves_nothing_behind(volunteer, mirror, behaviour: Behaviour):
    with serving(CONTENT, behaviour) as odd:
        volunteer.fetch(odd.url, mirror.url)
    assert starts(mirror) == [0]
    assert volunteer.downloads.liars == []


# -- the volunteer's own limits


def test_what_a_day_allows_ends_it_and_what_came_is_kept(tmp_path, mirror):
    limited = Volunteer(tmp_path, down_bytes_a_day=100_000.0)
    with limited.client, pytest.raises(UsedUp):
        limited.fetch(mirror.url)
    assert limited.part.stat().st_size >= 100_000


def test_stopping_ends_the_download_soon_and_keeps_what_came(volunteer, mirror):
    threading.Timer(0.2, volunteer.stop.set).start()
    began = time.monotonic()
    slow = serving(CONTENT, dripping(0.005))
    with slow as server, pytest.raises(Unreachable, match="stopped"):
        volunteer.fetch(server.url, mirror.url)
    assert mirror.asked == []
    assert time.monotonic() - began < 3
    assert volunteer.part.stat().st_size > 0


# -- how many at once


def settle(rate_of: Any) -> int:
    at_once = AtOnce()
    for _ in range(8):
        at_once.note(rate_of(at_once.count))
    return at_once.count


def test_on_a_thin_line_two_at_once_are_enough():
    assert settle(lambda count: 1e6) == 2


def test_where_each_stream_is_slow_there_are_more_of_them_but_never_many():
    assert settle(lambda count: 1e5 * count) == MOST_AT_ONCE


def test_one_more_is_tried_again_later():
    at_once, tried = AtOnce(), 0
    for _ in range(60):
        at_once.note(1e6)
        tried += at_once.count == 3
    assert 2 <= tried <= 5
