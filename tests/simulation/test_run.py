"""Whole trainings in virtual time, real ones: small enough for seconds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from handcar.modelfile.check import check
from handcar.simulation.learner import Learner, Problem, Records
from handcar.simulation.run import Simulation
from handcar.simulation.scenario import Scenario

pytest.importorskip("tensorflow")

STEPS = 120
MODEL = {
    "name": "blobs",
    "dataset": {"name": "blobs"},
    "input": {"shape": [6]},
    "layers": [
        {"layer": "Dense", "units": 16, "activation": "relu"},
        {"layer": "Dense", "units": 3},
    ],
    "loss": {"name": "SparseCategoricalCrossentropy", "from_logits": True},
    "optimizer": {
        "name": "Adam",
        "learning_rate": {
            "name": "CosineDecay",
            "initial_learning_rate": 0.02,
            "decay_steps": STEPS,
        },
    },
    "batch_size": 8,
}


@pytest.fixture(scope="module")
def learner():
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras runs on another backend here")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 1200).astype(np.int32)
    x = (rng.normal(size=(1200, 6)) + 2 * np.eye(3, 6)[y]).astype(np.float32)
    model_file = check(json.dumps(MODEL).encode())
    problem = Problem(model_file, Records(x[200:], y[200:]), Records(x[:200], y[:200]))
    return Learner(problem, steps=STEPS)


def run(learner, **said):
    crowd = {"count": 4, "steps_per_second": 0.1} | said.pop("volunteers", {})
    scenario = Scenario.model_validate({"steps": STEPS, "volunteers": crowd} | said)
    return Simulation(scenario, learner).run()


def test_a_crowd_learns(learner):
    untrained = learner.judge(learner.first(0)).loss
    result = run(learner)
    assert result.loss < untrained / 2
    assert result.steps >= STEPS
    assert [point.steps for point in result.curve] == sorted(p.steps for p in result.curve)


def test_the_same_scenario_gives_the_same_result(learner):
    assert run(learner, seed=3) == run(learner, seed=3)


def test_another_seed_gives_another(learner):
    assert run(learner, seed=3) != run(learner, seed=4)


def test_one_volunteer_alone_trains_as_if_there_were_no_server(learner):
    alone = {"count": 1, "leave": 0.0}
    exact = {"up": None, "down": None, "usual": False}
    result = run(learner, volunteers=alone, coding=exact, checks="none", records={"first": 64})
    rng = np.random.default_rng(1)
    rows = np.concatenate([rng.permutation(1000) for _ in range(STEPS // 100)])
    rows = rows[: STEPS * 8].reshape(STEPS, 8).astype(np.int32)
    plain, _ = learner.train(learner.first(0), learner.fresh(), rows, learner.rates(0, STEPS))
    assert result.volunteers == pytest.approx(1.0)
    assert result.loss == pytest.approx(learner.judge(plain).loss, rel=0.25)


@pytest.mark.parametrize("rule", ["average", "diloco"])
def test_who_waits_sends_nothing_stale(learner, rule):
    steady = {"leave": 0.0, "spread": 1.0}
    result = run(learner, volunteers=steady, merging={"rule": rule})
    assert result.staleness < 0.5


def test_rules_give_different_trainings(learner):
    losses = {run(learner, merging={"rule": rule}).loss for rule in ("share", "fedbuff", "average")}
    assert len(losses) == 3


def test_leaving_costs_work(learner):
    assert run(learner, volunteers={"leave": 0.5}).kept < run(learner, volunteers={"leave": 0}).kept


def test_on_thin_lines_a_round_takes_longer(learner):
    thin, thick = (
        run(learner, lines={"up_mbit_per_s": [rate, rate], "down_mbit_per_s": [1, 1]})
        for rate in (0.00002, 10)
    )
    assert thin.updates < thick.updates


@pytest.mark.parametrize("kind", ["nan", "zeros", "x10"])
def test_what_is_plainly_wrong_is_refused(learner, kind):
    result = run(learner, attackers={"kind": kind, "share": 0.25}, round_seconds=30)
    assert result.caught > 0.5
    assert np.isfinite(result.loss)


def test_audits_catch_those_who_poison(learner):
    from handcar.simulation.run import simulate

    crowd = {"count": 4, "steps_per_second": 0.1}
    scenario = Scenario.model_validate(
        {
            "steps": STEPS,
            "volunteers": crowd,
            "attackers": {"kind": "wrong labels", "share": 0.25},
            "checks": "all",
        }
    )
    result = simulate(scenario, learner.problem)
    assert result.caught > 0.5
    assert result.honest_refused < 0.3


def test_going_on_at_once_makes_updates_fresher(learner):
    at_once, next_round = (run(learner, takes_up=when) for when in ("at once", "next round"))
    assert at_once.staleness < next_round.staleness
