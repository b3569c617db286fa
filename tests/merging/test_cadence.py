"""What goes into the next version, and what it counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcar.merging import trust
from handcar.merging.cadence import Active, Waiting, choose
from handcar.merging.rules import AVERAGE, FEDBUFF
from handcar.merging.trust import Standing, audit_rate, weight, within_shares

THREE = {name: Active(100) for name in "abc"}


def test_a_merge_is_due_at_half_a_round_s_work_or_after_a_round_s_time():
    assert choose([Waiting("a", 100)], THREE, waited_rounds=0.9) is None
    late = choose([Waiting("a", 100)], THREE, waited_rounds=1.0)
    assert late.counted_steps == (100.0,)
    due = choose([Waiting("a", 100), Waiting("b", 100)], THREE, waited_rounds=0.0)
    assert due.counted_steps == (100.0, 100.0)
    assert due.activity.round_steps == 300.0
    assert choose([], THREE, waited_rounds=9.0) is None


def test_a_backlog_becomes_several_versions():
    waiting = [Waiting(name, 100) for name in "abcabcabc"]
    assert choose(waiting, THREE, waited_rounds=0.0).count == 2


def test_a_claim_counts_at_most_three_medians():
    found = choose([Waiting("a", 10**9)], THREE, waited_rounds=0.0)
    assert found.counted_steps == (300.0,)


def test_synchronous_rules_wait_for_everyone_who_is_there():
    waiting = [Waiting("a", 100), Waiting("b", 100)]
    assert choose(waiting, THREE, waited_rounds=1.4, rule=AVERAGE) is None
    assert choose([*waiting, Waiting("c", 5)], THREE, waited_rounds=0, rule=AVERAGE).count == 3
    assert choose(waiting, THREE, waited_rounds=1.5, rule=AVERAGE).count == 2


def test_a_buffer_holds_half_the_volunteers_updates():
    active = {name: Active(100) for name in "abcdefgh"}
    waiting = [Waiting(name, 10) for name in "abc"]
    assert choose(waiting, active, waited_rounds=0.0, rule=FEDBUFF) is None
    assert choose([*waiting, Waiting("a", 1)], active, waited_rounds=0, rule=FEDBUFF).count == 4


def test_newcomers_count_a_quarter_among_others_but_alone_they_lose_nothing():
    active = {"a": Active(100), "b": Active(100, 0.25)}
    found = choose([Waiting("a", 100), Waiting("b", 100, trust=0.25)], active, waited_rounds=0)
    assert sum(found.counted_steps) <= found.activity.round_steps == 125.0
    alone = choose([Waiting("b", 100, trust=0.25)], {}, waited_rounds=0)
    assert alone.counted_steps == (25.0,)
    assert (alone.activity.round_steps, alone.activity.effective_volunteers) == (25.0, 1.0)


def test_nobody_has_more_than_a_third_of_a_round_in_a_merge_where_there_are_three():
    active = {name: Active(100, groups=(name, None)) for name in "abcdef"}
    waiting = [Waiting("a", 100, groups=("a", None)) for _ in range(5)]
    found = choose([*waiting, Waiting("b", 100)], active, waited_rounds=1.0)
    assert sum(found.counted_steps[:5]) == pytest.approx(200.0)


groups_of = st.lists(st.sampled_from(["ann", "bob", "cy", "di", "ed", None]), min_size=1)


@given(
    groups_of.flatmap(
        lambda g: st.tuples(
            st.just(g), st.lists(st.floats(0, 1e6), min_size=len(g), max_size=len(g))
        )
    ),
    st.floats(1, 1e6),
)
def test_no_group_is_above_its_share_and_nobody_gains(drawn, total):
    names, counted = drawn
    groups = [(name,) for name in names]
    kept = within_shares(counted, groups, total=total, all_groups=groups)
    kinds = len({name for name in names if name}) + names.count(None)
    most = max(trust.MOST, 1 / kinds) * total
    assert all(k <= c for k, c in zip(kept, counted, strict=True))
    for name in {name for name in names if name}:
        held = sum(k for k, n in zip(kept, names, strict=True) if n == name)
        assert held <= most * (1 + 1e-9)
    if sum(counted) <= total * trust.MOST:
        assert kept == counted


def test_standing_is_earned_by_work_and_lost_at_once():
    new = Standing()
    assert (weight(new), audit_rate(new), new.is_trusted) == (0.25, 1.0, False)
    known = Standing(accepted=20, audited=2)
    assert (weight(known), audit_rate(known), known.is_trusted) == (1.0, 6 / 20, True)
    assert weight(Standing(accepted=2, audited=2)) == 1.0
    assert audit_rate(Standing(accepted=10**6, audited=9)) == trust.AUDITED_AT_LEAST
    assert audit_rate(Standing(accepted=50, audited=1)) == 1.0
