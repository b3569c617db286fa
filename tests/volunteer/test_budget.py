"""How long a round lasts: never beyond the longest, and no longer than a budget needs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcar.protocol import limits
from handcar.protocol.messages import RoundLimits
from handcar.volunteer import budget as b
from handcar.volunteer.budget import Allowance, Known, RoundBudget

sizes = st.one_of(st.none(), st.floats(1, 1e9))
rates = st.one_of(st.none(), st.floats(1, 1e9))
asked = st.builds(
    RoundLimits,
    max_steps=st.integers(1, limits.ROUND_STEPS),
    max_seconds=st.floats(0.1, limits.ROUND_S),
    min_seconds=st.floats(0, limits.ROUND_S),
    longest_steps=st.one_of(st.none(), st.integers(1, 2 * limits.ROUND_STEPS)),
)
allowances = st.builds(
    Allowance,
    up_share=st.floats(0.01, 1),
    up_bytes_per_s=rates,
    up_bytes_a_day=st.one_of(st.none(), st.floats(0, 1e12)),
)
knowns = st.builds(
    Known,
    update_bytes=sizes,
    coarse_bytes=sizes,
    up_bytes_per_s=rates,
    left_today=st.one_of(st.none(), st.floats(0, 1e9)),
    version_bytes=st.one_of(st.none(), st.floats(1, 1e9)),
    down_bytes_per_s=rates,
    between_s=st.one_of(st.none(), st.floats(0, 100)),
)
budgets = st.builds(b.plan, asked, st.just(2.0), allowances, knowns)
moments = st.tuples(st.integers(0, 5000), st.floats(0, 5000))


def plan(*, asks: RoundLimits | None = None, allow: Allowance | None = None, **known: float):
    return b.plan(asks or RoundLimits(), 2.0, allow or Allowance(), Known(**known))


@given(budgets)
def test_a_planned_round_is_never_beyond_the_longest(budget: RoundBudget):
    assert 0 <= budget.min_seconds <= budget.max_seconds <= limits.ROUND_S
    assert 1 <= budget.max_steps <= limits.ROUND_STEPS


@given(asked, allowances, knowns)
def test_a_round_is_longer_than_the_model_asks_only_where_a_budget_needs_it(
    asks: RoundLimits, allow: Allowance, known: Known
):
    budget = b.plan(asks, 2.0, allow, known)
    assert budget.max_seconds <= max(asks.max_seconds, budget.min_seconds)
    assert budget.max_steps == asks.max_steps


@given(asked, allowances, knowns, st.floats(1, 100))
def test_a_faster_line_never_makes_rounds_longer(
    asks: RoundLimits, allow: Allowance, known: Known, times: float
):
    if known.up_bytes_per_s is None or known.update_bytes is None:
        return
    faster = replace(known, up_bytes_per_s=known.up_bytes_per_s * times)
    # Another step means another size; within one step the rule holds.
    slow, fast = b.plan(asks, 2.0, allow, known), b.plan(asks, 2.0, allow, faster)
    if slow.update_step == fast.update_step:
        assert fast.min_seconds <= slow.min_seconds


@given(budgets, moments, st.integers(0, limits.PENDING_UPDATES - 1))
def test_a_round_is_over_at_the_longest_at_the_latest(budget, moment, waiting):
    steps, seconds = moment
    if steps >= limits.ROUND_STEPS or seconds >= limits.ROUND_S:
        assert b.is_over(budget, steps=steps, seconds=seconds, waiting=waiting)


@given(budgets, moments)
def test_a_round_goes_on_while_two_updates_wait(budget, moment):
    steps, seconds = moment
    if steps < limits.ROUND_STEPS and seconds < limits.ROUND_S:
        assert not b.is_over(budget, steps=steps, seconds=seconds, waiting=b.AHEAD)


@given(budgets, moments)
def test_the_next_stretch_is_never_empty_and_ends_within_the_round(budget, moment):
    steps, seconds = moment
    more, more_s = b.stretch(budget, steps=steps, seconds=seconds)
    stands = budget.longest_steps is not None and steps >= budget.longest_steps
    assert more > 0 or stands
    assert more_s > 0
    if not b.is_over(budget, steps=steps, seconds=seconds, waiting=0):
        assert steps + more <= limits.ROUND_STEPS
        assert seconds + more_s <= limits.ROUND_S + 1e-6


def test_a_round_of_a_short_training_stands_still_while_updates_wait_and_then_is_over():
    budget = plan(asks=RoundLimits(max_steps=90, longest_steps=90))
    assert b.stretch(budget, steps=0, seconds=0.0)[0] == 90
    assert b.stretch(budget, steps=90, seconds=1.0)[0] == 0
    assert not b.is_over(budget, steps=90, seconds=1.0, waiting=b.AHEAD)
    assert b.is_over(budget, steps=90, seconds=1.0, waiting=b.AHEAD - 1)


def test_a_line_that_needs_long_rounds_keeps_a_short_training_going():
    budget = plan(
        asks=RoundLimits(max_steps=90, longest_steps=90), update_bytes=1e6, up_bytes_per_s=1e4
    )
    assert b.stretch(budget, steps=90, seconds=1.0)[0] > 0


@given(knowns, allowances)
def test_the_step_grows_only_when_half_an_hour_cannot_carry_an_update(known, allow):
    budget = b.plan(RoundLimits(), 2.0, allow, known)
    rate = b.allowed_rate(allow, known)
    by_line = rate is not None and (known.update_bytes or 0) > rate * limits.ROUND_S
    a_day = allow.up_bytes_a_day
    by_day = a_day is not None and (known.update_bytes or 0) > a_day / 48
    assert (budget.update_step == b.COARSE_STEP) == (by_line or by_day)


def test_a_home_line_gives_rounds_of_minutes():
    budget = plan(update_bytes=2.5e6, up_bytes_per_s=1.2e6 / 8)
    assert 120 < budget.min_seconds == budget.max_seconds < 240
    assert budget.because == "line"


def test_a_small_network_on_fibre_trains_rounds_of_seconds():
    # 15,000 weights, 2.3 kB an update, 100 Mbit/s; encoding and the like take 60 ms.
    budget = plan(update_bytes=2300, up_bytes_per_s=12.5e6, between_s=0.06, version_bytes=2300)
    assert budget.max_seconds == b.SHORTEST_S
    assert budget.min_seconds < 0.1


def test_a_large_network_on_a_thin_line_trains_rounds_of_minutes():
    # 20 million weights at 1.2 bits, 1 Mbit/s up, 8 down.
    budget = plan(
        update_bytes=3e6,
        up_bytes_per_s=125_000,
        version_bytes=3e6,
        down_bytes_per_s=1e6,
        between_s=4.0,
    )
    assert (budget.max_seconds, budget.because) == (240, "line")


def test_versions_that_are_slow_to_fetch_make_rounds_longer():
    budget = plan(update_bytes=1e5, up_bytes_per_s=1e6, version_bytes=1e6, down_bytes_per_s=1e5)
    assert budget.min_seconds == pytest.approx(10 / b.DOWN_SHARE)
    assert budget.because == "down"


def test_a_machine_that_is_slow_between_rounds_makes_fewer_of_them():
    assert plan(between_s=2.0).max_seconds == pytest.approx(40)
    assert plan(asks=RoundLimits(max_seconds=20), between_s=2.0).max_seconds == 20
    few = plan(asks=RoundLimits(max_steps=60), between_s=2.0)
    assert b.is_over(few, steps=60, seconds=1, waiting=0), "the owner knows best"


def test_a_model_may_ask_for_rounds_still_shorter():
    asks = RoundLimits(max_steps=100, max_seconds=1)
    budget = plan(asks=asks, update_bytes=2000, up_bytes_per_s=1e7)
    assert (budget.max_steps, budget.max_seconds) == (100, 1)


def test_where_no_budget_needs_more_a_round_lasts_some_seconds():
    assert plan().max_seconds == b.SHORTEST_S


def test_a_bad_line_gives_half_an_hour_and_then_a_coarser_update():
    thin = plan(update_bytes=2.5e6, up_bytes_per_s=10_000)
    assert (thin.max_seconds, thin.update_step) == (1800, 2.0)
    thinner = plan(update_bytes=2.5e6, up_bytes_per_s=1000)
    assert (thinner.max_seconds, thinner.update_step) == (1800, 4.0)


def test_a_daily_limit_is_spread_over_what_is_left_of_the_day():
    left = b.left_today(1e9, 4e8, 6 * 3600)
    budget = plan(allow=Allowance(up_bytes_a_day=1e9), update_bytes=2.5e6, left_today=left)
    assert budget.min_seconds == pytest.approx(2.5e6 / (6e8 / 21600))
    assert budget.because == "day"


def test_the_server_asks_for_longer_rounds():
    budget = plan(asks=RoundLimits(max_seconds=20, min_seconds=45), update_bytes=10)
    assert (budget.max_seconds, budget.because) == (45, "server")


def test_steps_alone_do_not_end_a_round_that_the_line_wants_longer():
    budget = plan(
        asks=RoundLimits(max_steps=100, max_seconds=20), update_bytes=1e6, up_bytes_per_s=1e5
    )
    assert not b.is_over(budget, steps=100, seconds=5, waiting=0)
    assert b.stretch(budget, steps=100, seconds=5) == (900, 95)
    assert b.is_over(budget, steps=300, seconds=100, waiting=0)


def told(budget: RoundBudget, allow: Allowance | None = None, **known: float) -> str:
    return b.describe(budget, allow or Allowance(), Known(**known))


def test_the_person_is_told_in_plain_words():
    known = {"update_bytes": 2.5e6, "up_bytes_per_s": 1.2e6 / 8}
    assert told(plan(**known), **known) == (
        "Your line carries about 1.2 Mbit/s up. An update of 2.5 MB takes 17 s, "
        "so a round lasts about 3 minutes."
    )


def test_a_limit_and_a_coarser_update_are_told():
    allow = Allowance(up_bytes_per_s=1e6 / 8, up_bytes_a_day=1e8)
    known = {"update_bytes": 2.5e6, "up_bytes_per_s": 1e6 / 8, "left_today": 1e8 / 86400}
    text = told(plan(allow=allow, **known), allow, **known)
    assert "You allow 1 Mbit/s up." in text
    assert "coded more coarsely" in text
    assert "you allow 100.0 MB a day up" in text


def test_a_day_is_told_of_even_where_the_line_is_not_known():
    allow = Allowance(up_bytes_a_day=1e8)
    known = {"update_bytes": 1e5, "left_today": 1e8 / 86400}
    assert told(plan(allow=allow, **known), allow, **known) == (
        "An update takes 100.0 kB, and you allow 100.0 MB a day up, so a round lasts about 86 s."
    )


def test_small_changes_are_not_news():
    def lasting(seconds: float, step: float = 2.0) -> RoundBudget:
        return RoundBudget(1000, seconds, step, min_seconds=seconds)

    assert b.is_news(None, lasting(1))
    assert not b.is_news(lasting(100), lasting(120))
    assert b.is_news(lasting(100), lasting(200))
    assert b.is_news(lasting(100), lasting(100, 4.0))
    assert not b.is_news(lasting(0.1), lasting(3))


def test_what_is_allowed_is_told_at_the_start():
    assert Allowance().in_words() is None
    allow = Allowance(up_bytes_per_s=250_000, down_bytes_a_day=1.5e9)
    assert allow.in_words() == "You allow at most 2 Mbit/s up, 1.5 GB a day down."
