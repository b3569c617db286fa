"""Which mirror is asked: the best by what was measured, others now and then, none that rests."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from handcar.volunteer.hosts import Hosts, host_of

A, B, C = "https://a.example.org/1", "https://b.example.org/1", "https://c.example.org/1"
MB = 1_000_000


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def hosts(clock: Clock, path: Path | None = None) -> Hosts:
    return Hosts(path, clock=clock, rng=random.Random(0))


def measured(hosts: Hosts, address: str, bytes_per_s: float, latency_s: float = 0.05) -> None:
    hosts.answered(address, latency_s)
    hosts.received(address, 4 * MB, 4 * MB / bytes_per_s)


def choices(hosts: Hosts, size: int = 4 * MB) -> Counter[str | None]:
    return Counter(hosts.choose([A, B, C], size) for _ in range(1000))


def test_a_host_has_no_path_no_password_and_one_spelling():
    assert host_of("https://user:secret@Data.Example.org:8443/x?y") == "data.example.org:8443"


def test_while_nothing_is_known_the_owners_order_holds(clock):
    assert choices(hosts(clock)) == {A: 1000}


def test_the_fast_one_is_preferred_and_the_others_are_still_tried_now_and_then(clock):
    known = hosts(clock)
    for address, rate in ((A, MB), (B, 10 * MB), (C, 2 * MB)):
        measured(known, address, rate)
    found = choices(known)
    assert found[B] > 900
    assert found[A] > 5
    assert found[C] > 5


def test_one_that_was_never_measured_is_tried_soon(clock):
    known = hosts(clock)
    measured(known, A, MB)
    found = choices(known)
    assert found[B] + found[C] > 200
    assert found[A] > 600


def test_a_short_delay_counts_for_small_files_and_the_rate_for_large_ones(clock):
    known = hosts(clock)
    measured(known, A, 20 * MB, latency_s=2.0)
    measured(known, B, MB, latency_s=0.01)
    measured(known, C, 1000)
    assert choices(known, 10_000).most_common(1)[0][0] == B
    assert choices(known, 40 * MB).most_common(1)[0][0] == A


def test_one_that_fails_is_left_alone_longer_each_time_and_others_come_first(clock):
    known = hosts(clock)
    rests = []
    for _ in range(12):
        known.failed(A)
        rests.append(known.rest_s([A]))
        assert known.choose([A], MB) is None
        clock.now += rests[-1]
    assert rests[0] <= 2.0
    assert 450 <= rests[-1] <= 900
    assert known.choose([A, B], MB) == B
    known.served(A)
    assert known.choose([A, B], MB) == A


def test_what_a_host_asks_for_holds_for_every_address_of_it_and_over_a_restart(clock, tmp_path):
    known = hosts(clock, tmp_path / "hosts.json")
    known.answered(A, 0.1)
    known.failed(A, asked_s=600)
    other = A.replace("/1", "/2")
    assert known.choose([other, B], MB) == B
    assert 600 <= known.rest_s([other]) <= 660
    known.keep()
    again = hosts(clock, tmp_path / "hosts.json")
    assert again.choose([other], MB) is None
    clock.now += 661
    assert again.choose([other], MB) == other


def test_what_was_measured_is_remembered_but_not_who_lied(clock, tmp_path):
    known = hosts(clock, tmp_path / "hosts.json")
    measured(known, B, 10 * MB)
    measured(known, A, MB)
    known.lied(B)
    known.keep()
    again = hosts(clock, tmp_path / "hosts.json")
    assert again.bytes_per_s(B) == pytest.approx(10 * MB)
    assert again.choose([A, B], 4 * MB) == B


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": {"latency_s": "x"}}', "null"])
def test_a_damaged_file_starts_afresh(clock, tmp_path, text):
    (tmp_path / "hosts.json").write_text(text)
    assert hosts(clock, tmp_path / "hosts.json").choose([A], MB) == A


def test_a_liar_is_asked_last_and_is_news_once(clock):
    known = hosts(clock)
    measured(known, A, 100 * MB)
    measured(known, B, 1000)
    assert known.lied(A)
    assert not known.lied(A)
    assert known.choose([A, B], MB) == B
    assert known.choose([A], MB) == A


def test_a_rate_follows_what_is_measured_lately(clock):
    known = hosts(clock)
    for _ in range(20):
        measured(known, A, 10 * MB)
    for _ in range(20):
        measured(known, A, MB)
    assert known.bytes_per_s(A) == pytest.approx(MB, rel=0.1)


def test_a_few_bytes_tell_nothing_of_a_rate(clock):
    known = hosts(clock)
    known.received(A, 1000, 0.5)
    assert known.bytes_per_s(A) is None
