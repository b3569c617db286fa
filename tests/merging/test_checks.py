"""Direction, gate, audit, watch: what may not count, and when a version goes back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcar.merging import audit, direction, gate, watch
from handcar.merging.activity import measure
from handcar.merging.merge import Contribution, Memory, merge
from handcar.merging.sketch import sketch
from handcar.wire.layout import Layout, TensorSpec

LAYOUT = Layout((TensorSpec("w", (64,)), TensorSpec("mean", (2,), "statistic")))


def course(*cosines: float) -> list[float]:
    """The running means after each."""
    means: list[float] = []
    for count, cosine in enumerate(cosines, start=1):
        means.append(direction.follow(means[-1] if means else None, cosine, count))
    return means


def test_who_keeps_going_the_other_way_is_refused_from_the_third_update():
    means = course(-0.3, -0.3, -0.3, -0.3)
    judged = [direction.opposes(mean, n, 0.2) for n, mean in enumerate(means, start=1)]
    assert judged == [False, False, True, True]


def test_honest_work_that_falls_below_zero_by_chance_is_not():
    assert not direction.opposes(course(0.3, -0.1, 0.2, 0.15, -0.05, 0.2)[-1], 6, 0.2)
    assert direction.opposes(math.nan, 6, 0.2)


def test_where_everyone_s_means_are_small_less_is_asked_for():
    assert direction.opposes(0.01, 9, None) and direction.opposes(0.01, 9, 0.2)
    assert not direction.opposes(0.01, 9, 0.03)
    assert direction.opposes(-0.01, 9, 0.03)
    assert "0.0075" in direction.text(0.001, 0.03)


def test_a_few_means_are_plain_and_later_ones_forget():
    assert course(0.1, 0.2, 0.6)[-1] == pytest.approx(0.3)
    long = course(*[0.0] * 100, *[1.0] * 10)
    assert long[-1] == pytest.approx(1 - 0.9**10)


def test_a_volunteer_s_own_part_is_taken_out_of_the_reference_to_the_last():
    rng = np.random.default_rng(0)
    changes = rng.normal(size=(3, 4, 66)).astype(np.float32)
    memory, own, number = Memory(), [], 0
    for merged in changes:
        given = [
            Contribution(lambda c=c: c, 10.0, 10.0, sketch=sketch(c, LAYOUT, b"key"))
            for c in merged
        ]
        result = merge(np.zeros(66, np.float32), LAYOUT, given, measure([10] * 4), memory=memory)
        memory, number = result.memory, number + 1
        own += [(number, part, one.sketch) for part, one in zip(result.parts, given, strict=True)]
    lately = [(number - then, part, image) for then, part, image in own]
    left = direction.of_others(memory.reference_sketch, lately)
    # All that was merged is somebody's, but for what clipping put in of the reference before.
    assert np.linalg.norm(left) < 0.35 * np.linalg.norm(memory.reference_sketch)
    alone = [one for n, one in enumerate(lately) if n % 4 == 0]
    mine = direction.of_others(memory.reference_sketch, alone)
    before = direction.cosine(alone[-1][2], memory.reference_sketch)
    assert direction.cosine(alone[-1][2], mine) < before - 0.1


def test_a_filter_that_would_refuse_most_of_the_work_is_suspended():
    assert direction.is_suspended([(True, 100.0)] * 11 + [(False, 100.0)] * 9)
    assert not direction.is_suspended([(True, 100.0)] * 4 + [(False, 100.0)] * 16)
    assert not direction.is_suspended([(True, 1.0)] * 15 + [(False, 100.0)] * 5)
    assert not direction.is_suspended([(True, 100.0)] * 9)


def test_the_gate_judges_by_the_others_rises():
    last = [0.01, -0.02, 0.015, 0.0, 0.03, 0.01]
    assert not gate.is_too_much(0.05, last)
    assert gate.is_too_much(0.3, last)
    assert gate.is_too_much(math.inf, [])
    assert not gate.is_too_much(5.0, last[:4])
    assert "+30.0%" in gate.text(0.3, last)
    assert gate.rise(math.nan, 1.0) == math.inf
    assert gate.rise(1.1, 1.0) == pytest.approx(0.1)


@given(st.lists(st.floats(-0.5, 0.5), min_size=5, max_size=20))
def test_the_gate_never_refuses_most_of_what_it_was_set_by(last):
    refused = sum(gate.is_too_much(one, last) for one in last)
    assert refused <= len(last) / 2


@pytest.mark.parametrize("cosine", [0.99, 0.9, 0.8, 0.5, 0.0])
def test_images_under_a_key_tell_cosines_and_lengths(cosine):
    rng = np.random.default_rng(1)
    layout = Layout((TensorSpec("kernel", (300, 400)),))
    one, other = rng.normal(size=(2, layout.size)).astype(np.float32)
    two = cosine * one + np.sqrt(1 - cosine**2) * other
    key = bytes(16)
    images = [sketch(change.astype(np.float32), layout, key) for change in (one, 1.5 * two)]
    found = audit.compare_images(*images)
    assert found.cosine == pytest.approx(cosine, abs=0.06)
    assert found.norm_ratio == pytest.approx(1 / 1.5, abs=0.05)


@pytest.mark.parametrize(
    ("evaluator", "auditor", "refuted"),
    [
        ((0.99, 1.0), (0.99, 1.0), False),
        ((0.99, 1.0), (0.0, 1.0), True),
        ((0.1, 1.0), (1.0, 1.0), True),
        ((0.9, 1.0), (0.8, 1.0), False),
        ((0.8, 1.0), (0.9, 1.0), False),
        ((0.99, 1.0), (0.99, 2.0), True),
        ((0.99, 1.15), (0.99, 1.25), False),
        ((0.2, 1.0), (0.6, 1.0), False),
    ],
)
def test_an_answer_is_wrong_when_no_honest_machine_could_have_found_it(evaluator, auditor, refuted):
    assert audit.Audit(*evaluator).refutes(audit.Audit(*auditor)) == refuted


def test_an_audit_compares_direction_and_length_of_the_weights_alone():
    rng = np.random.default_rng(0)
    sent = rng.normal(size=66).astype(np.float32)
    near = (sent + 0.3 * rng.normal(size=66)).astype(np.float32)
    near[64:] = 1e6
    assert audit.compare(sent, near, LAYOUT).passed
    assert not audit.compare(sent, 0.7 * sent, LAYOUT).passed
    assert not audit.compare(sent, rng.normal(size=66).astype(np.float32), LAYOUT).passed
    assert not audit.compare(sent, np.zeros(66, np.float32), LAYOUT).passed
    assert "cosine" in audit.compare(sent, -sent, LAYOUT).text


def test_a_version_is_worse_when_chance_does_not_explain_it():
    steady = [1.0, 0.98, 0.97, 0.99, 0.96, 0.95]
    assert watch.is_worse(1.3, steady)
    assert not watch.is_worse(1.0, steady)
    assert not watch.is_worse(1.01, [1.0] * 10)
    assert watch.is_worse(math.nan, []) and watch.is_worse(None, steady)
    assert not watch.is_worse(9.0, steady[:3])


@given(st.floats(0.1, 3), st.floats(0.5, 0.99), st.integers(6, 40))
def test_a_training_that_goes_well_is_never_taken_back(first, falls, count):
    losses = [first * falls**n for n in range(count)]
    assert not any(watch.is_worse(losses[n], losses[:n]) for n in range(count))
