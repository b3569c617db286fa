"""What a version is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcar.merging import activity, staleness
from handcar.merging.activity import Activity
from handcar.merging.merge import Contribution, gain, is_due, merge
from handcar.wire.layout import Layout, TensorSpec
from strategies import layouts_with

LAYOUT = Layout((TensorSpec("w", (4,)), TensorSpec("variance", (2,), "statistic")))
ALONE = Activity(round_steps=100.0, effective_volunteers=1.0)


def change(value: float, statistic: float = 1.0) -> np.ndarray:
    return np.array([value] * 4 + [statistic] * 2, np.float32)


def test_one_volunteer_alone_is_plain_training():
    weights = np.zeros(6, np.float32)
    result = merge(weights, LAYOUT, [Contribution(change(0.5), 100.0)], ALONE)
    assert result.weights.tolist() == [0.5] * 4 + [1.0] * 2
    assert (result.share, result.gain) == (1.0, 1.0)


def test_updates_merged_one_by_one_move_the_weights_as_far_as_together():
    both = Activity(round_steps=200.0, effective_volunteers=2.0)
    parts = [Contribution(change(0.5), 100.0), Contribution(change(0.25), 100.0)]
    together = merge(np.zeros(6, np.float32), LAYOUT, parts, both).weights
    apart = np.zeros(6, np.float32)
    for part in parts:
        apart = merge(apart, LAYOUT, [part], both).weights
    assert np.allclose(together[:4], apart[:4], rtol=1e-6)


def test_a_volunteer_who_did_three_times_the_work_counts_three_times():
    both = Activity(round_steps=400.0, effective_volunteers=1.0)
    parts = [Contribution(change(1.0), 300.0), Contribution(change(0.0, 5.0), 100.0)]
    merged = merge(np.zeros(6, np.float32), LAYOUT, parts, both).weights
    assert np.allclose(merged, [0.75] * 4 + [2.0] * 2)


@given(layouts_with(3), st.floats(1, 1e3), st.floats(1, 1e3))
def test_statistics_stay_between_what_the_volunteers_measured(drawn, first, second):
    layout, (weights, one, other) = drawn
    parts = [Contribution(one, first), Contribution(other, second)]
    merged = merge(weights, layout, parts, Activity(first + second, 2.0)).weights
    for place in layout.statistic_slices:
        low, high = np.minimum(one, other)[place], np.maximum(one, other)[place]
        room = 1e-5 * (np.abs(low) + np.abs(high))
        assert (merged[place] >= low - room).all()
        assert (merged[place] <= high + room).all()


def test_the_same_updates_in_the_same_order_give_the_same_bits():
    rng = np.random.default_rng(0)
    parts = [Contribution(rng.normal(size=6).astype(np.float32), 7.0 * n) for n in range(1, 9)]
    start = rng.normal(size=6).astype(np.float32)
    ends = [merge(start, LAYOUT, iter(parts), Activity(300.0, 5.0)).weights for _ in range(2)]
    assert ends[0].tobytes() == ends[1].tobytes()


def test_clipping_shortens_the_difference_but_not_the_statistics():
    part = Contribution(change(1.0, 9.0), 100.0, factor=0.5)
    merged = merge(np.zeros(6, np.float32), LAYOUT, [part], ALONE).weights
    assert merged.tolist() == [0.5] * 4 + [9.0] * 2


def test_nothing_to_merge_is_an_error():
    with pytest.raises(ValueError, match="nothing to merge"):
        merge(np.zeros(6, np.float32), LAYOUT, [], ALONE)


def test_the_gain_is_one_alone_and_grows_to_its_limit():
    assert gain(Activity(1, 1.0)) == 1.0
    assert gain(Activity(1, 8.0)) == pytest.approx(2.0)
    assert gain(Activity(1, 1000.0)) == 2.5
    assert gain(Activity(0, 0.0)) == 1.0


def test_a_merge_is_due_at_half_a_round_s_work_or_after_a_round_s_time():
    active = Activity(round_steps=100.0, effective_volunteers=3.0)
    assert is_due(50.0, active, waited_rounds=0.0)
    assert not is_due(49.0, active, waited_rounds=0.9)
    assert is_due(1.0, active, waited_rounds=1.0)
    assert not is_due(0.0, active, waited_rounds=9.0)


def test_ten_machines_of_which_one_does_it_all_count_as_few():
    even = activity.measure([100] * 10)
    uneven = activity.measure([1] * 9 + [1_000_000])
    assert even.effective_volunteers == pytest.approx(10.0)
    assert uneven.round_steps == pytest.approx(12.0)  # a claim is capped at three medians
    assert uneven.effective_volunteers < 9
    assert activity.measure([]) == Activity(0.0, 0.0)


def test_a_late_update_counts_in_full_for_four_rounds_then_halves_then_is_refused():
    assert staleness.weight(0.0) == staleness.weight(4.0) == 1.0
    assert staleness.weight(6.0) == pytest.approx(0.5)
    assert staleness.weight(8.0) == pytest.approx(0.25)
    assert staleness.weight(12.0) == 0.0
