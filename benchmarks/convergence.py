"""How much faster a crowd trains than one machine: speed-up at equal final loss.

Speed-up is the steps that one always-on machine of the crowd's mean speed, with all the data
and on its own annealed schedule, needs for the same final loss, over the virtual time that the
crowd took, in steps of that machine. The machine's losses for B/16 to 4 B steps make the curve,
straight between measured points in the logarithm of steps; beyond its ends it counts as its end.

Volunteers are ten times apart in speed; a tenth leave in the middle of a round, whose work is
lost, and stay away for two rounds; uploads take 5 to 30 % of a round, downloads 2 to 10 %; each
begins with 4 of 64 chunks. All that travels is coded as the product does.

HANDCAR_RESULTS names a folder in which each finished training is kept, so that a run can be
resumed, or shared by several. HANDCAR_PEERS names a Python that has flwr, for its strategies.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common import Bar, arguments, report
from handcar.files import write
from handcar.simulation.learner import Learner
from handcar.simulation.run import simulate
from handcar.simulation.scenario import Scenario
from tasks import TASKS, Task, source

ALONE = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
"""Budgets of the single machine, in those of the crowd."""
ROUND_S = 60.0
SEEDS = 3
ROUNDS = 4000
"""Rounds' worth of one machine's work in a whole training."""


@dataclass(frozen=True)
class Setting:
    """One line of the table: how many volunteers, under what."""

    name: str
    volunteers: int = 8
    rounds: int = ROUNDS
    scenario: dict[str, Any] = field(default_factory=dict)

    def of(self, task: Task, seed: int) -> Scenario:
        """Return the scenario of this setting for a task."""
        crowd = {"count": self.volunteers, "steps_per_second": task.steps / self.rounds / ROUND_S}
        said = {"seed": seed, "steps": task.steps, "round_seconds": ROUND_S, "points": 1}
        said |= self.scenario
        crowd |= said.pop("volunteers", {})
        return Scenario.model_validate(said | {"volunteers": crowd})


@dataclass(frozen=True)
class Outcome:
    """How one training of a crowd ended."""

    loss: float
    machine_steps: float
    """Virtual time, in steps of a machine of mean speed."""
    kept: float = 0.0
    refused: float = 0.0
    up_bits: float = 0.0
    staleness: float = 0.0
    volunteers: float = 0.0


# -- results that are kept ---------------------------------------------------------------------


def kept(name: str, said: object, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `make` returns, or what it returned in an earlier run for the same `said`."""
    folder = os.environ.get("HANDCAR_RESULTS")
    if folder is None:
        return make()
    digest = hashlib.sha256(json.dumps([source(), said], sort_keys=True).encode()).hexdigest()
    path = Path(folder) / f"{name}-{digest[:16]}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps({"said": said} | make()).encode())
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


_learners: dict[tuple[str, int], Learner] = {}


def learner(task: Task, steps: int) -> Learner:
    """Return the task's learner for so many steps; built once a process."""
    key = (task.name, steps)
    if key not in _learners:
        _learners.clear()  # one at a time: each holds its data
        _learners[key] = Learner(task.problem(steps), steps=steps)
    return _learners[key]


# -- trainings ---------------------------------------------------------------------------------


def alone(task: Task, seed: int, steps: int) -> float:
    """Return the final loss of one machine that has all the data and never stops."""

    def train() -> dict[str, Any]:
        one = learner(task, steps)
        rng, records = np.random.default_rng(seed), len(one.problem.seen.x)
        passes = -(-steps * task.batch // records)
        order = np.concatenate([rng.permutation(records) for _ in range(passes)])
        rows = order[: steps * task.batch].reshape(steps, task.batch).astype(np.int32)
        weights, _ = one.train(one.first(seed), one.fresh(), rows, one.rates(0, steps))
        return {"loss": one.judge(weights).loss}

    said = [task.name, task.rate, task.batch, seed, steps]
    return float(kept(f"{task.name}-alone-{steps}-{seed}", said, train)["loss"])


def crowd(task: Task, setting: Setting, seed: int) -> Outcome:
    """Train one crowd."""
    scenario = setting.of(task, seed)

    def train() -> dict[str, Any]:
        one = learner(task, task.steps)
        found = simulate(scenario, one.problem, one)
        return asdict(
            Outcome(
                found.loss,
                found.seconds * scenario.volunteers.steps_per_second,
                found.kept,
                found.refused / max(found.updates, 1),
                found.up_bits,
                found.staleness,
                found.volunteers,
            )
        )

    said = [task.name, task.rate, task.batch, scenario.model_dump(mode="json")]
    name = f"{task.name}-{setting.name.replace(' ', '-').replace('/', '-')}-{seed}"
    found = kept(name, said, train)
    found.pop("said", None)
    return Outcome(**found)


def curve(task: Task, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the single machine's budgets and its final losses, never rising."""
    budgets = np.array([max(1, round(share * task.steps)) for share in ALONE])
    losses = np.array([alone(task, seed, int(steps)) for steps in budgets])
    return budgets, np.minimum.accumulate(losses)


def steps_for(loss: float, budgets: np.ndarray, losses: np.ndarray) -> float:
    """Return the steps that the single machine needs for a loss."""
    logs = np.interp(-loss, -losses, np.log(budgets))
    return float(np.exp(logs))


# -- the matrix --------------------------------------------------------------------------------

DEFAULT = "share, 8"
SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("share, 1", volunteers=1),
        Setting("share, 4", volunteers=4),
        Setting("share, 8"),
        Setting("share, 16", volunteers=16),
        Setting("share, 64", volunteers=64),
        Setting("share, 8, 1000 rounds", rounds=1000),
        Setting("share, 8, 200 rounds", rounds=200),
        Setting("average, 8", scenario={"merging": {"rule": "average"}}),
        Setting("average, 8, 200 rounds", rounds=200, scenario={"merging": {"rule": "average"}}),
        Setting("diloco, 8, 200 rounds", rounds=200, scenario={"merging": {"rule": "diloco"}}),
        Setting("fedbuff, 8", scenario={"merging": {"rule": "fedbuff"}}),
        Setting("fedbuff, 8, 200 rounds", rounds=200, scenario={"merging": {"rule": "fedbuff"}}),
    )
}
FLOWER_ROUNDS = (1000, 200)
STRATEGIES = ("FedAvg", "FedAvgM", "FedAdam", "FedYogi")
QUICK = ("share, 1", "share, 8, 200 rounds")


def flower(task: Task, strategy: str, rounds: int, seed: int) -> Outcome:
    """Train a crowd of eight with one of Flower's strategies."""
    import flower as flowers

    scenario = Setting("flower", rounds=rounds).of(task, seed)

    def train() -> dict[str, Any]:
        python = os.environ["HANDCAR_PEERS"]
        loss, seconds = flowers.train(scenario, learner(task, task.steps), python, strategy)
        return asdict(Outcome(loss, seconds * scenario.volunteers.steps_per_second))

    said = [task.name, task.rate, task.batch, strategy, scenario.model_dump(mode="json")]
    found = kept(f"{task.name}-{strategy}-{rounds}-{seed}", said, train)
    found.pop("said", None)
    return Outcome(**found)


@dataclass(frozen=True)
class Row:
    """One training, held against the single machine."""

    task: str
    setting: str
    seed: int
    speed_up: float
    loss: float
    loss_ratio: float
    """To the single machine's after as many steps."""
    kept: float
    refused: float


def row(task: Task, name: str, seed: int, found: Outcome) -> Row:
    """Hold a crowd's training against the single machine's of the same seed."""
    budgets, losses = curve(task, seed)
    equal = alone(task, seed, task.steps)
    return Row(
        task.name,
        name,
        seed,
        steps_for(found.loss, budgets, losses) / found.machine_steps,
        found.loss,
        found.loss / equal,
        found.kept,
        found.refused,
    )


def measured(task_name: str, seed: int, wanted: Sequence[str]) -> list[Row]:
    """Return all rows of a task and seed: what one process does."""
    task = TASKS[task_name]
    curve(task, seed)  # all budgets first: each has a learner of its own
    rows = [row(task, name, seed, crowd(task, SETTINGS[name], seed)) for name in wanted]
    if os.environ.get("HANDCAR_PEERS") and len(wanted) > len(QUICK):
        for rounds in FLOWER_ROUNDS:
            for strategy in STRATEGIES:
                found = flower(task, strategy, rounds, seed)
                rows.append(row(task, f"Flower {strategy}, {rounds} rounds", seed, found))
    print(f"{task_name}, seed {seed}: done", file=sys.stderr, flush=True)
    return rows


def everything(quick: bool) -> list[Row]:
    """Measure all; a task and seed a process."""
    if quick:
        return measured("mnist", 0, QUICK)
    jobs = [(name, seed, tuple(SETTINGS)) for seed in range(SEEDS) for name in TASKS]
    with ProcessPoolExecutor(
        os.cpu_count(), mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        futures = [pool.submit(measured, *job) for job in jobs]
        return [one for done in as_completed(futures) for one in done.result()]


# -- what is reported --------------------------------------------------------------------------


def mean(rows: Sequence[Row], task: str, setting: str, of: str) -> float:
    """Return a figure's mean over the seeds."""
    found = [getattr(one, of) for one in rows if (one.task, one.setting) == (task, setting)]
    return float(np.mean(found))


def bars(rows: Sequence[Row]) -> list[Bar]:
    """Return the worst task's figures."""
    names = {one.setting for one in rows}
    tasks = sorted({one.task for one in rows})

    def over_tasks(setting: str, of: str) -> list[float]:
        return [mean(rows, task, setting, of) for task in tasks]

    eight = DEFAULT if DEFAULT in names else QUICK[-1]
    found = [
        Bar("alone.loss_ratio", max(over_tasks("share, 1", "loss_ratio")), "of plain Keras's loss"),
        Bar("speedup.8", min(over_tasks(eight, "speed_up")), "times"),
        Bar("work.kept", min(over_tasks(eight, "kept")), "of all machines' work"),
    ]
    if "share, 16" in names:
        found.append(Bar("speedup.16", min(over_tasks("share, 16", "speed_up")), "times"))
    if others := [name for name in names if name.startswith("Flower")]:
        best = {task: max(mean(rows, task, name, "speed_up") for name in others) for task in tasks}
        ours = {task: mean(rows, task, DEFAULT, "speed_up") for task in tasks}
        found.append(Bar("vs.flower", min(ours[task] / best[task] for task in tasks), "times"))
    return found


def table(rows: Sequence[Row]) -> list[tuple[object, ...]]:
    """Return a line for each task and setting, mean of the seeds."""
    keys = dict.fromkeys((one.task, one.setting) for one in sorted(rows, key=lambda r: r.task))
    lines = []
    for task, setting in keys:
        each = [one.speed_up for one in rows if (one.task, one.setting) == (task, setting)]
        figures = [mean(rows, task, setting, of) for of in ("speed_up", "loss", "loss_ratio")]
        shares = [100 * mean(rows, task, setting, of) for of in ("kept", "refused")]
        lines.append((task, setting, *figures, *shares, " ".join(f"{one:.2f}" for one in each)))
    return lines


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    rows = everything(wanted.quick)
    title = (
        f"Speed-up at equal final loss, {ROUNDS} rounds' worth unless said, data from {source()}"
    )
    if not os.environ.get("HANDCAR_PEERS"):
        title += "; not Flower: HANDCAR_PEERS names no Python with it"
    report(
        wanted,
        title,
        ("task", "setting", "speed-up", "loss", "of alone", "kept %", "refused %", "of each seed"),
        table(rows),
        bars(rows),
    )


if __name__ == "__main__":
    main()
