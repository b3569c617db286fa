"""What a version is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcar.merging import activity, staleness
from handcar.merging.activity import Activity
from handcar.merging.merge import Contribution, Memory, merge
from handcar.merging.rules import AVERAGE, DILOCO, FEDBUFF, RULES
from handcar.merging.sketch import sketch
from handcar.wire.layout import Layout, TensorSpec
from strategies import layouts_with

LAYOUT = Layout((TensorSpec("w", (4,)), TensorSpec("variance", (2,), "statistic")))
ALONE = Activity(round_steps=100.0, effective_volunteers=1.0)


def sent(change, steps, **more) -> Contribution:
    return Contribution(lambda: change, steps, steps, **more)


def change(value: float, statistic: float = 1.0) -> np.ndarray:
    return np.array([value] * 4 + [statistic] * 2, np.float32)


def test_one_volunteer_alone_is_plain_training():
    weights = np.zeros(6, np.float32)
    result = merge(weights, LAYOUT, [sent(change(0.5), 100.0)], ALONE)
    assert result.weights.tolist() == [0.5] * 4 + [1.0] * 2
    assert (result.share, result.gain) == (1.0, 1.0)


def test_updates_merged_one_by_one_move_the_weights_as_far_as_together():
    both = Activity(round_steps=200.0, effective_volunteers=2.0)
    parts = [sent(change(0.5), 100.0), sent(change(0.25), 100.0)]
    together = merge(np.zeros(6, np.float32), LAYOUT, parts, both).weights
    apart = np.zeros(6, np.float32)
    for part in parts:
        apart = merge(apart, LAYOUT, [part], both).weights
    assert np.allclose(together[:4], apart[:4], rtol=1e-6)


def test_a_volunteer_who_did_three_times_the_work_counts_three_times():
    both = Activity(round_steps=400.0, effective_volunteers=1.0)
    parts = [sent(change(1.0), 300.0), sent(change(0.0, 5.0), 100.0)]
    merged = merge(np.zeros(6, np.float32), LAYOUT, parts, both).weights
    assert np.allclose(merged, [0.75] * 4 + [2.0] * 2)


@given(layouts_with(3), st.floats(1, 1e3), st.floats(1, 1e3))
def test_statistics_stay_between_what_the_volunteers_measured(drawn, first, second):
    layout, (weights, one, other) = drawn
    parts = [sent(one, first), sent(other, second)]
    merged = merge(weights, layout, parts, Activity(first + second, 2.0)).weights
    for place in layout.statistic_slices:
        low, high = np.minimum(one, other)[place], np.maximum(one, other)[place]
        room = 1e-5 * (np.abs(low) + np.abs(high))
        assert (merged[place] >= low - room).all()
        assert (merged[place] <= high + room).all()


def test_the_same_updates_in_the_same_order_give_the_same_bits():
    rng = np.random.default_rng(0)
    parts = [sent(rng.normal(size=6).astype(np.float32), 7.0 * n) for n in range(1, 9)]
    start = rng.normal(size=6).astype(np.float32)
    ends = [merge(start, LAYOUT, parts, Activity(300.0, 5.0)).weights for _ in range(2)]
    assert ends[0].tobytes() == ends[1].tobytes()


def test_clipping_shortens_the_difference_but_not_the_statistics():
    part = sent(change(1.0, 9.0), 100.0, factor=0.5)
    merged = merge(np.zeros(6, np.float32), LAYOUT, [part], ALONE).weights
    assert merged.tolist() == [0.5] * 4 + [9.0] * 2


def test_nothing_to_merge_is_an_error():
    with pytest.raises(ValueError, match="nothing to merge"):
        merge(np.zeros(6, np.float32), LAYOUT, [], ALONE)


def test_the_gain_is_one_alone_and_grows_to_its_limit():
    assert activity.gain(1.0) == 1.0
    assert activity.gain(8.0) == pytest.approx(2.0)
    assert activity.gain(1000.0) == 2.5
    assert activity.gain(0.0) == 1.0


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


KEY = b"a server's secret"
MANY = Layout((TensorSpec("w", (4000,)), TensorSpec("variance", (2,), "statistic")))


def work(direction, steps: int, rng, noise: float = 0.1) -> np.ndarray:
    """What a round of so many steps changes: a drift, and chance that grows with its root."""
    drift = steps * direction + noise * np.sqrt(steps) * rng.normal(size=direction.size)
    return np.concatenate([drift, [1.0, 2.0]]).astype(np.float32)


def crowd(rng, *, bad: float = 0.0) -> tuple[list[Contribution], np.ndarray]:
    """Eight honest volunteers ten times apart; with `bad`, two of them send that many times it."""
    direction = 0.02 * rng.normal(size=4000)
    changes = [work(direction, int(steps), rng) for steps in np.geomspace(10, 100, 8)]
    if bad:
        changes[2], changes[6] = bad * changes[2], bad * changes[6]
    parts = [
        sent(one, float(int(steps)), sketch=sketch(one, MANY, KEY))
        for one, steps in zip(changes, np.geomspace(10, 100, 8), strict=True)
    ]
    return parts, direction


def moved(parts, memory=None) -> np.ndarray:
    active = activity.measure([int(part.steps) for part in parts])
    start = np.zeros(MANY.size, np.float32)
    return merge(start, MANY, parts, active, memory=memory or Memory()).weights[:4000]


def test_clipping_costs_honest_volunteers_little_though_their_steps_differ_tenfold():
    parts, _ = crowd(np.random.default_rng(1))
    exact = moved([sent(part.decode(), part.steps) for part in parts])  # nothing to clip by
    clipped = moved(parts)
    cosine = clipped @ exact / np.linalg.norm(clipped) / np.linalg.norm(exact)
    assert cosine > 0.99
    assert np.linalg.norm(clipped) / np.linalg.norm(exact) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("bad", [-1.0, -100.0, 1e4])
def test_two_attackers_of_eight_move_a_clipped_merge_little(bad):
    parts, direction = crowd(np.random.default_rng(1), bad=bad)
    memory = Memory(np.append(direction, [0, 0]).astype(np.float32))
    memory = Memory(memory.reference, sketch(memory.reference, MANY, KEY))
    merged = moved(parts, memory)
    cosine = merged @ direction / np.linalg.norm(merged) / np.linalg.norm(direction)
    assert cosine > 0.8


def test_the_reference_is_the_slow_mean_of_the_change_per_step_and_its_sketch_is_of_it():
    rng = np.random.default_rng(3)
    memory, active = Memory(), activity.measure([40] * 4)
    for _ in range(3):
        parts = []
        for _ in range(4):
            one = work(np.full(4000, 0.02), 40, rng)
            parts.append(sent(one, 40.0, sketch=sketch(one, MANY, KEY)))
        memory = merge(np.zeros(MANY.size, np.float32), MANY, parts, active, memory=memory).memory
    assert memory.reference[:4000].mean() == pytest.approx(0.02, rel=0.1)
    assert memory.reference[4000:].tolist() == [0.0, 0.0]
    image = sketch(memory.reference, MANY, KEY)
    assert np.allclose(image, memory.reference_sketch, atol=1e-3 * np.abs(image).max())


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_every_rule_averages_statistics_as_values(rule):
    parts = [sent(change(0.5, 3.0), 100.0), sent(change(0.5, 5.0), 300.0)]
    active, memory = Activity(400.0, 1.6), Memory()
    for _ in range(2):
        result = merge(np.zeros(6, np.float32), LAYOUT, parts, active, rule=rule, memory=memory)
        memory = result.memory
    assert np.allclose(result.weights[4:], [4.5, 4.5])


def test_diloco_is_nesterov_momentum_over_the_means():
    parts, active = [sent(change(1.0), 100.0)], Activity(100.0, 1.0)
    weights, memory = np.zeros(6, np.float32), Memory()
    momentum = expected = 0.0
    for _ in range(3):
        result = merge(weights, LAYOUT, parts, active, rule=DILOCO, memory=memory)
        weights, memory = result.weights, result.memory
        momentum = 0.9 * momentum + 1.0
        expected += 0.7 * (1.0 + 0.9 * momentum)
    assert np.allclose(weights[:4], expected)


def test_fedbuff_counts_updates_by_their_staleness_alone():
    parts = [sent(change(1.0), 1000.0), sent(change(1.0), 10.0, staleness=3)]
    merged = merge(np.zeros(6, np.float32), LAYOUT, parts, Activity(1010.0, 1.02), rule=FEDBUFF)
    assert np.allclose(merged.weights[:4], (1.0 + 0.5) / 2)


def test_a_round_of_all_moves_averaging_by_its_gain():
    parts = [sent(change(1.0), 100.0)] * 8
    merged = merge(np.zeros(6, np.float32), LAYOUT, parts, Activity(800.0, 8.0), rule=AVERAGE)
    assert np.allclose(merged.weights[:4], 2.0)
