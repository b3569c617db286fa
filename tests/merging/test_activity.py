"""How much work is going on, and what follows for learning rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcar.merging import activity

LATE = 1e6
"""Steps after which no optimizer is young."""


def test_equal_volunteers_count_each():
    assert activity.measure([10] * 6).effective_volunteers == pytest.approx(6)


def test_one_who_does_nearly_all_the_work_counts_for_little_more_than_one():
    assert activity.of_work([100.0, 1.0, 1.0]).effective_volunteers < 1.1


def test_rates_grow_only_with_more_than_four_volunteers_and_no_further_than_twice():
    assert activity.rate_factor(1, LATE) == activity.rate_factor(4, LATE) == 1.0
    assert activity.rate_factor(6, LATE) == pytest.approx(1.5)
    assert activity.rate_factor(8, LATE) == activity.rate_factor(64, LATE) == 2.0


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_more_volunteers_never_mean_a_smaller_rate(one, other):
    fewer, more = sorted((one, other))
    assert activity.rate_factor(fewer, LATE) <= activity.rate_factor(more, LATE)


def test_a_volunteer_alone_has_the_owners_rate_from_its_first_step_on():
    assert activity.rate_factor(1, 0) == activity.rate_factor(0, 0) == 1.0


def test_a_crowds_rates_rise_until_each_optimizer_has_made_its_first_steps():
    at = [activity.rate_factor(8, 8 * own) for own in (0, 12.5, 25, 50, 100, 1000)]
    assert at == pytest.approx([0.25, 0.25, 0.5, 1.0, 2.0, 2.0])
