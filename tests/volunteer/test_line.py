"""What may go over the volunteer's line: rates are kept, days are counted, over restarts too."""

import json
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcar.errors import Unreachable
from handcar.volunteer import line as lines
from handcar.volunteer.budget import Allowance
from handcar.volunteer.line import Bucket, Line, Meter, UsedUp

EVENING = datetime(2026, 11, 23, 18, 0)


class Clock:
    """A day that passes when told."""

    def __init__(self, now: datetime = EVENING) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def line(path: Path, clock: Clock | None = None, **allowed: float) -> Line:
    return Line(Allowance(**allowed), path / "line.json", clock=clock or Clock())


@given(
    st.floats(100, 1e7),
    st.lists(st.tuples(st.integers(1, 65_536), st.floats(0, 20)), min_size=1, max_size=60),
)
def test_between_any_two_moments_no_more_goes_than_the_rate_and_a_small_burst(rate, pieces):
    bucket, now, gone = Bucket(rate), 1000.0, []
    for size, idle in pieces:
        now += idle + bucket.take(size, now + idle)
        gone.append((now, size))
    for first in range(len(gone)):
        carried = 0
        for at, size in gone[first:]:
            carried += size
            passed = at - gone[first][0]
            assert carried <= rate * (passed + lines.BURST_S) + gone[first][1] + 1e-3


@given(st.floats(100, 1e7), st.lists(st.integers(1, 65_536), min_size=1, max_size=60))
def test_a_sender_that_never_rests_gets_all_of_the_rate(rate, sizes):
    bucket, now = Bucket(rate), 0.0
    for size in sizes:
        now += bucket.take(size, now)
    assert now <= sum(sizes) / rate + 1e-6


@given(st.lists(st.tuples(st.integers(1, 10**7), st.floats(0.01, 100)), min_size=1, max_size=30))
def test_the_measured_rate_lies_between_the_slowest_and_the_fastest_transfer(transfers):
    meter = Meter()
    for count, seconds in transfers:
        meter.note(count, seconds)
    rates = [count / seconds for count, seconds in transfers]
    if meter.bytes_per_s is not None:
        assert min(rates) * 0.999 <= meter.bytes_per_s <= max(rates) * 1.001


def test_from_a_few_small_messages_a_rate_cannot_be_told():
    meter = Meter()
    for _ in range(100):
        meter.note(1000, 0.05)
    assert meter.bytes_per_s is None
    meter.note(1000, 2.0)
    assert meter.bytes_per_s == 500


def test_the_measured_rate_follows_a_line_that_changes():
    meter = Meter()
    for _ in range(30):
        meter.note(1000, 1.0)
    for _ in range(60):
        meter.note(10_000, 1.0)
    assert meter.bytes_per_s == pytest.approx(10_000, rel=0.05)


def test_the_delay_of_a_busy_server_is_not_taken_for_a_slow_line(tmp_path: Path):
    here = line(tmp_path)
    with here.transfer("down"):
        time.sleep(lines.TELLING_S + 0.1)
        here.received(1500)
    assert here.bytes_per_s("down") is None
    with here.transfer("down"):
        time.sleep(lines.TELLING_S + 0.1)
        here.received(1500)
        time.sleep(lines.TELLING_S + 0.1)
        here.received(1500)
    assert here.bytes_per_s("down") == pytest.approx(1500 / lines.TELLING_S, rel=0.5)


def test_nothing_is_known_of_a_line_before_its_first_transfer(tmp_path: Path):
    here = line(tmp_path)
    here.count(up=500)
    assert here.bytes_per_s("up") is None
    with here.transfer("up"):
        here.send(10**6)
    assert here.bytes_per_s("up") > 0
    assert here.bytes_per_s("down") is None


def test_a_daily_limit_holds_to_the_byte(tmp_path: Path):
    here = line(tmp_path, up_bytes_a_day=1000)
    here.send(600)
    with pytest.raises(UsedUp) as told:
        here.send(500)
    assert told.value.after_s == 6 * 3600
    assert "short messages" in str(told.value)
    here.send(400)
    assert here.up == 1000


def test_short_messages_are_never_held_up_by_a_daily_limit(tmp_path: Path):
    here = line(tmp_path, up_bytes_a_day=100)
    here.count(up=400)
    here.count(up=400)
    with pytest.raises(UsedUp), here.transfer("up"):
        pass


def test_a_restart_does_not_forget_what_was_used_today(tmp_path: Path):
    first = line(tmp_path, down_bytes_a_day=1000)
    first.received(900)
    first.close()
    second = line(tmp_path, down_bytes_a_day=1000)
    with pytest.raises(UsedUp):
        second.received(200)


def test_the_next_day_has_room_again(tmp_path: Path):
    clock = Clock()
    here = line(tmp_path, clock, up_bytes_a_day=1000)
    here.send(1000)
    clock.now += timedelta(hours=7)
    here.send(1000)
    assert here.used_today() == (1000, 0, 23 * 3600)


def test_a_kill_forgets_only_the_last_seconds(tmp_path: Path):
    clock = Clock()
    here = line(tmp_path, clock)
    here.send(700)
    clock.now += timedelta(seconds=10)
    here.send(1)
    assert json.loads((tmp_path / "line.json").read_text())["up"] == 701


def test_a_damaged_count_starts_afresh(tmp_path: Path):
    (tmp_path / "line.json").write_text("{")
    assert line(tmp_path).used_today()[0] == 0


def test_a_limit_holds_up_its_own_thread_and_ends_with_the_program(tmp_path: Path):
    stop = threading.Event()
    here = Line(Allowance(up_bytes_per_s=10), tmp_path / "line.json", stop=stop)
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Unreachable):
        here.send(100_000)
    assert time.monotonic() - began < 5
    here.count(up=10)  # does not wait


def test_how_fast_it_was_is_remembered_by_the_next_run(tmp_path):
    first = line(tmp_path)
    assert first.down_expected() is None
    with first.transfer("down"):
        first.count(down=5_000_000)
        time.sleep(0.01)
    first.count(down=1)
    first.close()
    again = line(tmp_path)
    assert again.bytes_per_s("down") is None
    assert again.down_expected() == first.bytes_per_s("down")
    assert line(tmp_path, down_bytes_per_s=1000.0).down_expected() == 1000.0


def test_a_line_that_is_not_known_is_expected_to_bring_what_is_allowed(tmp_path):
    assert line(tmp_path, down_bytes_per_s=1000.0).down_expected() == 1000.0


def test_a_new_line_is_measured_within_a_second_or_so(tmp_path):
    new = line(tmp_path)
    with new.transfer("down"):
        new.received(1000)
        time.sleep(lines.MEASURED_FIRST_S)
        new.received(1000)
        assert new.bytes_per_s("down")


def test_the_seconds_in_which_the_systems_buffers_run_empty_count_going_up(tmp_path):
    here = line(tmp_path)
    with here.transfer("up"):
        here.send(100_000)
        time.sleep(lines.MEASURED_FIRST_S)
        here.count(up=100)  # a short message in the middle, so that the rate is taken there
        time.sleep(2 * lines.MEASURED_FIRST_S)
    assert here.bytes_per_s("up") == pytest.approx(100_100 / (3 * lines.MEASURED_FIRST_S), rel=0.3)
