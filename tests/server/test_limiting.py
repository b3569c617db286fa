"""How often one may ask, and what a server says that can't keep up."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from handcar.protocol import limits
from handcar.server import limiting, turns
from handcar.server.limiting import Bucket, Buckets, Limit
from handcar.server.problems import Refusal
from handcar.server.rounds import assignments, pace, pressure
from handcar.server.rounds.models import RECEIVED, Update
from handcar.server.rounds.pressure import Line, Recent
from server_api import Api, announcement, update_frame

ELSEWHERE = "203.0.113.7"


@pytest.fixture
def away(server: Api) -> Api:
    """The API as another machine asks it."""
    server.client.defaults["REMOTE_ADDR"] = ELSEWHERE
    return server


def allow(monkeypatch: pytest.MonkeyPatch, kind: str, **buckets: Bucket) -> None:
    monkeypatch.setitem(limiting.LIMITS, kind, Limit(**buckets))


def join(api: Api, **headers: str) -> Any:
    return api.ask("POST", "/volunteers", {"name": "a", "client_version": "1"}, headers=headers)


def beat(api: Api, token: str) -> Any:
    body = {"model_id": "digits", "version": 0, "step": 5, "records": 50}
    return api.ask("POST", "/heartbeat", body, token=token)


# -- buckets ---------------------------------------------------------------------------------


def test_a_bucket_gives_what_is_in_it_and_then_what_runs_into_it():
    now = [0.0]
    buckets = Buckets(lambda: now[0])
    bucket = Bucket(at_once=3, per_second=0.5)
    assert [buckets.take("a", bucket) for _ in range(4)] == [0, 0, 0, 2]
    now[0] = 2.0
    assert [buckets.take("a", bucket) for _ in range(2)] == [0, 2]
    assert buckets.take("b", bucket) == 0


def test_more_addresses_than_are_remembered_take_no_more_memory(monkeypatch):
    monkeypatch.setattr(limiting, "REMEMBERED", 100)
    buckets = Buckets()
    for number in range(1000):
        buckets.take(number, Bucket(1, 1))
    assert len(buckets._levels) <= 100


@pytest.mark.parametrize(
    ("first", "second", "are_one"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
    ],
)
def test_an_address_is_a_machine_or_a_household(rf, first, second, are_one):
    given = [limiting.address_of(rf.get("/", REMOTE_ADDR=one)) for one in (first, second)]
    assert (given[0] == given[1]) == are_one


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "127.8.8.8"])
def test_this_machine_itself_is_not_limited(rf, address):
    assert limiting.address_of(rf.get("/", REMOTE_ADDR=address)) is None


# -- limits ----------------------------------------------------------------------------------


def test_joining_too_often_from_one_address_has_to_wait(away, monkeypatch):
    allow(monkeypatch, "joins", address=Bucket(2, 0.1))
    replies = [join(away) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [201, 201, 429]
    assert replies[2]["Retry-After"] in ("10", "11")
    assert replies[2]["Content-Type"] == "application/problem+json"
    assert replies[2].json()["type"] == "/problems/too-many-requests"
    away.client.defaults["REMOTE_ADDR"] = "203.0.113.8"
    assert join(away).status_code == 201


def test_behind_a_proxy_the_address_is_the_one_that_the_proxy_names(away, monkeypatch, settings):
    from rest_framework.settings import api_settings

    allow(monkeypatch, "joins", address=Bucket(1, 0.1))
    through = {"X-Forwarded-For": "198.51.100.1"}
    # Not named in the settings: what a stranger writes there counts for nothing.
    assert [join(away, **through).status_code, join(away).status_code] == [201, 429]
    monkeypatch.setattr(api_settings, "NUM_PROXIES", 1)
    assert join(away, **through).status_code == 201
    forged = {"X-Forwarded-For": "192.0.2.99, 198.51.100.1"}
    assert join(away, **forged).status_code == 429


def test_one_volunteer_that_beats_all_the_time_has_to_wait_and_no_other(away, monkeypatch):
    away.model()
    allow(monkeypatch, "heartbeats", token=Bucket(2, 0.1))
    ann, bob = away.join(), away.join()
    assert [beat(away, ann.token).status_code for _ in range(3)] == [200, 200, 429]
    assert beat(away, bob.token).status_code == 200


def test_announcements_downloads_and_owners_have_limits_of_their_own(away, monkeypatch):
    model = away.model()
    ann = away.join()
    for kind in ("updates", "owners"):
        allow(monkeypatch, kind, token=Bucket(1, 0.1))
    allow(monkeypatch, "downloads", address=Bucket(1, 0.1))
    frame = update_frame(model)
    told = announcement(frame)
    assert [away.announce(ann, told).status_code for _ in range(2)] == [200, 429]
    file = f"/files/{model.model_file_digest.removeprefix('sha256:')}"
    assert [away.ask("GET", file).status_code for _ in range(2)] == [200, 429]
    say = {"text": "hi"}
    replies = [away.ask("POST", "/messages", say, token=away.owner) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [201, 429]


def test_who_tries_tokens_has_to_wait(away, monkeypatch):
    allow(monkeypatch, "strangers", address=Bucket(2, 0.1))
    tried = [away.ask("GET", "/default", token=f"hcv_{n}").status_code for n in range(3)]
    assert tried == [401, 401, 429]


def test_the_usual_limits_never_meet_a_volunteer_with_rounds_of_a_second():
    limit = limiting.LIMITS
    assert limit["heartbeats"].token.per_second >= 2  # each round brings one, each minute one
    assert limit["updates"].token.per_second >= 1
    for kind in ("heartbeats", "updates", "downloads"):
        assert limit[kind].address.at_once >= 5_000  # a school's machines, after a power cut


# -- turns -----------------------------------------------------------------------------------


def test_assignments_wait_for_their_turn_and_only_a_long_line_is_sent_away():
    line = turns.Turns(1, 1)
    inside, goes_on, second = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        with line.turn():
            inside.set()
            goes_on.wait(10)

    def wait() -> None:
        with line.turn():
            second.set()

    threads = [threading.Thread(target=hold)]
    threads[0].start()
    inside.wait(10)
    threads.append(threading.Thread(target=wait))
    threads[1].start()
    while line.here < 2:
        pass
    assert not second.is_set()
    with pytest.raises(Refusal) as refused, line.turn():
        pass
    assert int(refused.value.headers["Retry-After"]) >= turns.AGAIN_S
    goes_on.set()
    assert second.wait(10)
    for thread in threads:
        thread.join()
    assert line.here == 0


def test_an_assignment_is_given_in_a_turn(server, monkeypatch):
    server.model()
    monkeypatch.setattr(assignments, "at_once", turns.Turns(1, -1))
    reply = server.ask("GET", "/default", token=server.join().token)
    assert reply.status_code == 429
    assert int(reply["Retry-After"]) >= turns.AGAIN_S


# -- back-pressure ---------------------------------------------------------------------------


@pytest.fixture
def model(server: Api) -> Any:
    return server.model()


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> Recent:
    """No request was slow lately, however slow this machine is."""
    recent = Recent()
    monkeypatch.setattr(pressure, "requests", recent)
    return recent


def wait_in_line(model: Any, count: int, *, since_s: float) -> None:
    """Let updates wait for the worker, as nobody has seen otherwise."""
    pressure._short_at.clear()
    update = Update.objects.get()
    update.received_at = timezone.now() - timedelta(seconds=since_s)
    update.state = RECEIVED
    for _ in range(count):
        update.pk = None
        update.pk = Update._meta.pk.get_default()
        update.save(force_insert=True)


def test_heartbeats_come_a_minute_apart_while_the_server_is_well(model, calm):
    calm.note(0.01)
    assert pressure.heartbeat_s(model, timezone.now()) == limits.HEARTBEAT_S


def test_heartbeats_become_rarer_and_spread_while_requests_are_slow(server, model, calm):
    for _ in range(20):
        calm.note(2 * pressure.SLOW_S)
    told = {pressure.heartbeat_s(model, timezone.now()) for _ in range(50)}
    assert len(told) > 40
    assert all(1.6 * limits.HEARTBEAT_S < one < 2.4 * limits.HEARTBEAT_S for one in told)
    reply = beat(server, server.join().token).json()
    assert reply["heartbeat_s"] > 1.2 * limits.HEARTBEAT_S


def test_the_rarest_heartbeat_still_comes_twice_before_one_counts_as_gone(model, calm):
    calm.note(1000.0)
    for _ in range(200):
        assert 1.5 * pressure.heartbeat_s(model, timezone.now()) < limits.GONE_AFTER_S


def test_what_was_slow_long_ago_is_forgotten():
    recent = Recent(window_s=0.0)
    recent.note(5.0)
    assert recent.mean() == 0.0


def test_heartbeats_become_rarer_while_updates_wait_long(server, model, calm):
    server.deliver(server.join(), update_frame(model))
    wait_in_line(model, 20, since_s=pressure.BEHIND_S * 0.9)
    assert pressure.heartbeat_s(model, timezone.now()) > 1.4 * limits.HEARTBEAT_S


def test_an_update_is_to_be_kept_while_more_wait_than_the_workers_do_in_minutes(server, model):
    ann = server.join()
    server.deliver(ann, update_frame(model))
    wait_in_line(model, 20, since_s=pressure.BEHIND_S + 60)
    told = announcement(update_frame(model, seed=2))
    refused = server.announce(server.join("bob"), told)
    assert refused.status_code == 429
    assert limits.RETRY_FIRST_S <= int(refused["Retry-After"]) <= limits.RETRY_MOST_S
    assert "keep this one" in refused.json()["detail"]
    Update.objects.filter(state=RECEIVED).update(examined_at=timezone.now())
    assert server.announce(server.join("carl"), told).status_code == 200


def test_an_update_that_was_announced_before_is_taken_whatever_waits(server, model):
    ann = server.join()
    told = announcement(update_frame(model))
    assert server.announce(ann, told).status_code == 200
    wait_in_line(model, 20, since_s=pressure.BEHIND_S + 60)
    assert server.announce(ann, told).status_code == 200


def test_a_few_updates_that_wait_for_ever_close_the_door_to_nobody(server, model):
    server.deliver(server.join(), update_frame(model))
    wait_in_line(model, pressure.FEW - 1, since_s=10 * pressure.BEHIND_S)
    told = announcement(update_frame(model, seed=2))
    assert server.announce(server.join("bob"), told).status_code == 200


def test_a_clock_that_is_set_sends_nobody_away(server, model):
    server.deliver(server.join(), update_frame(model))
    wait_in_line(model, 20, since_s=3600)
    pressure._short_at["digits"] = time.monotonic() - 5  # the line was short then
    assert pressure.line(model, timezone.now()).oldest_s == pytest.approx(5, abs=3)
    told = announcement(update_frame(model, seed=2))
    assert server.announce(server.join("bob"), told).status_code == 200


def test_a_line_that_was_short_a_moment_ago_is_noted(server, model):
    pressure.line(model, timezone.now())
    assert time.monotonic() - pressure._short_at["digits"] < 60


def test_a_burst_is_counted_before_it_has_waited():
    assert Line(waiting=1000, oldest_s=1.0, seconds_an_update=0.5).behind_s == 500
    assert Line(waiting=1000, oldest_s=1.0, seconds_an_update=0.0).behind_s == 1


# -- what the worker carries -----------------------------------------------------------------


BEGAN = timezone.now()


def looks(*costs: float, arrive: Any = lambda number: 0.0, workers: int = 1) -> list[Any]:
    """Simulate workers: when updates were received, and when they were looked at."""
    free = [0.0] * workers
    found = []
    for number, cost in enumerate(costs):
        came = arrive(number)
        worker = min(range(workers), key=lambda one: free[one])
        begins = max(free[worker], came)
        free[worker] = begins + cost
        found.append((BEGAN + timedelta(seconds=came), BEGAN + timedelta(seconds=begins)))
    return found


def test_a_saturated_worker_is_seen_to_take_what_checks_and_merges_take_together():
    # A merge of 9 s after every 20 checks of 0.2 s: 0.65 s an update, of which no gap tells.
    costs = [0.2 + (9.0 if number % 20 == 19 else 0.0) for number in range(101)]
    assert pace.busy_seconds(looks(*costs)) == pytest.approx(0.65, rel=0.1)


def test_a_worker_that_was_away_or_a_clock_that_was_set_makes_no_rounds_longer():
    costs = [0.05] * 99
    costs[40] = 3600.0
    assert pace.busy_seconds(looks(*costs)) == pytest.approx(0.05 + pace.AWAY_S / 98, rel=0.05)
    dear = [40.0] * 50
    dear[20] = 400.0  # a merge of large weights counts as it is
    assert pace.busy_seconds(looks(*dear)) == pytest.approx(40 + 360 / 49)


def test_two_workers_take_half_as_long_an_update():
    one = pace.busy_seconds(looks(*[0.5] * 100))
    two = pace.busy_seconds(looks(*[0.5] * 100, workers=2))
    assert two == pytest.approx(one / 2, rel=0.05)


def test_an_idle_worker_needs_no_longer_rounds():
    assert pace.busy_seconds(looks(*[0.5] * 100, arrive=lambda number: 10.0 * number)) == 0.0


@pytest.mark.parametrize("load", [0.4, 0.6, 0.9])
def test_a_worker_that_is_half_busy_is_seen_to_take_what_it_takes(load):
    import random

    rng, at = random.Random(1), 0.0
    arrivals = []
    for _ in range(100):
        at += rng.expovariate(load / 0.5)
        arrivals.append(at)
    seen = pace.busy_seconds(looks(*[0.5] * 100, arrive=lambda number: arrivals[number]))
    assert seen == pytest.approx(0.5, rel=0.15)


def test_a_crowd_of_ten_thousand_settles_at_rounds_that_the_worker_carries():
    """Rounds by what was measured, what is measured by the rounds: it must not swing."""
    import random

    rng, cost, machines, round_s = random.Random(2), 0.02, 10_000, 60.0
    loads = []
    for _ in range(20):
        rate = machines / round_s
        at, arrivals = 0.0, []
        for _ in range(pace.LOOKED_AT):
            at += rng.expovariate(rate)
            arrivals.append(at)
        costs = [cost] * pace.LOOKED_AT
        found = pace.busy_seconds(looks(*costs, arrive=lambda n, all=arrivals: all[n]))
        round_s = max(60.0, min(limits.ROUND_S, machines * found / pace.LOAD))
        loads.append(machines / round_s * cost)
    assert all(load < 0.8 for load in loads[1:])
