"""What `handcar plan` reckons, and that it follows from what it is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcar.protocol import limits
from handcar.simulation import coefficients, planning
from handcar.simulation.planning import Crowd, Job

JOB = Job(weights=1_000_000, steps=1e6, step_of_updates=3.0, dataset=1e9, first_chunk=256e3)
CROWD = Crowd(volunteers=8, up_mbit=5, down_mbit=25, steps_per_second=10)


@given(
    st.integers(1, 1000),
    st.floats(0.05, 1000),
    st.floats(0.01, 1000),
    st.integers(100, 50_000_000),
)
def test_rounds_keep_within_what_the_protocol_allows(n, up, speed, weights):
    one = planning.outlook(replace(JOB, weights=weights), Crowd(n, up, 25, speed))
    assert 0 < one.round_s <= limits.ROUND_S
    assert one.hours > 0
    assert one.speedup <= n


@given(st.floats(0.01, 100), st.floats(1.1, 10))
def test_a_thinner_line_never_makes_rounds_shorter_or_the_training_faster(up, times):
    thin, fat = (planning.outlook(JOB, replace(CROWD, up_mbit=u)) for u in (up, up * times))
    assert thin.round_s >= fat.round_s
    assert thin.hours >= fat.hours * 0.999


def test_speedups_are_those_measured_where_they_were_measured():
    for size, measured in coefficients.SPEEDUPS.items():
        assert coefficients.speedup(size, 4000) == pytest.approx(measured)
    few, many = (coefficients.speedup(8, rounds) for rounds in (200, 4000))
    assert few == pytest.approx(many * coefficients.OF_ROUNDS[200])


@given(st.floats(1, 1000), st.floats(1, 1e6))
def test_a_speedup_lies_between_those_measured(volunteers, rounds):
    every = coefficients.SPEEDUPS.values()
    assert min(every) <= coefficients.speedup(volunteers, rounds) <= max(every)


def test_more_volunteers_than_help_save_less_than_a_tenth():
    most = planning.most_that_help(JOB, CROWD)
    now = planning.outlook(JOB, replace(CROWD, volunteers=most))
    more = planning.outlook(JOB, replace(CROWD, volunteers=-(-3 * most // 2)))
    assert more.hours > 0.9 * now.hours or most == coefficients.MOST_VOLUNTEERS


def test_a_newcomer_waits_for_the_weights_and_one_chunk():
    wait = planning.newcomer_wait_s(JOB, CROWD)
    assert wait == pytest.approx((1.5e6 + 256e3) * 8 / 25e6)
