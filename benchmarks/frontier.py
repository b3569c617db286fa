"""Speed-up against what goes over each volunteer's line: the curve that plans come from.

Eight volunteers as in `convergence.py`, with rounds of several lengths and three ways to code
what goes up: as the product does for the model, frugally (k = 4), and exactly. Shorter rounds
train better and send more. What goes up and down is counted by the product's own codecs, in
bytes a weight, and told in megabytes an hour for 20 million weights and two steps a second.
Bytes a weight of small models are an upper end: their frames have more beside the weights.

`--picture FILE.svg` draws it. HANDCAR_RESULTS names a folder in which finished trainings are
kept, as for `convergence.py`.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import Bar, on_all_cores, report
from convergence import Setting, curve, kept, learner, steps_for
from handcar.simulation.picture import Axis, Line, draw
from handcar.simulation.run import simulate
from tasks import TASKS, source

ROUNDS = (50, 200, 1000, 4000)
CODINGS: dict[str, dict[str, Any]] = {
    "usual": {},
    "frugal": {"up": 4.0},
    "exact": {"up": None, "down": None, "usual": False},
}
QUICK = (("mnist", 50, "usual"), ("mnist", 200, "usual"), ("mnist", 200, "frugal"))
WEIGHTS, STEPS_AN_HOUR = 20e6, 2 * 3600
"""Of the model that the megabytes are told for."""


@dataclass(frozen=True)
class Trial:
    """One training."""

    task: str
    rounds: int
    coding: str


@dataclass(frozen=True)
class Outcome:
    """How it went; bytes are a weight's and a step's of a machine of mean speed."""

    speed_up: float
    up: float
    down: float


def train(trial: Trial) -> Outcome:
    """Run one trial, or take what an earlier run kept."""
    task = TASKS[trial.task]
    setting = Setting("frontier", 8, trial.rounds, {"coding": CODINGS[trial.coding]})
    scenario = setting.of(task, 0)

    def run() -> dict[str, Any]:
        one = learner(task, task.steps)
        found = simulate(scenario, one.problem, one)
        machine_steps = found.seconds * scenario.volunteers.steps_per_second
        each = scenario.volunteers.count * machine_steps * one.layout.size
        budgets, losses = curve(task, 0)
        return asdict(
            Outcome(
                steps_for(found.loss, budgets, losses) / machine_steps,
                found.bytes_up / each,
                found.bytes_down / each,
            )
        )

    said = [task.name, task.rate, task.batch, scenario.model_dump(mode="json"), "frontier"]
    found = kept(f"frontier-{trial.task}-{trial.rounds}-{trial.coding}", said, run)
    found.pop("said", None)
    return Outcome(**found)


def megabytes(bytes_a_weight: float) -> float:
    """Return the megabytes an hour for the model that they are told for."""
    return bytes_a_weight * WEIGHTS * STEPS_AN_HOUR / 1e6


def picture(found: dict[Trial, Outcome]) -> str:
    """Return the curves, a line a task and coding."""
    lines = []
    for task, coding in dict.fromkeys((trial.task, trial.coding) for trial in found):
        points = sorted(
            (megabytes(one.up + one.down), one.speed_up)
            for trial, one in found.items()
            if (trial.task, trial.coding) == (task, coding)
        )
        lines.append(Line(points, f"{task}, {coding}"))
    x = Axis("MB an hour, up and down (20 million weights, 2 steps a second)", logarithmic=True)
    return draw("Speed-up of eight volunteers against their lines", lines, x, Axis("speed-up"))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within about a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--picture", type=Path, help="write the curves as SVG")
    wanted = parser.parse_args()
    told = QUICK if wanted.quick else [(t, r, c) for t in TASKS for c in CODINGS for r in ROUNDS]
    found = on_all_cores(train, [Trial(*one) for one in told], wanted.quick)
    if wanted.picture:
        wanted.picture.write_text(picture(found))
    rows = [
        (
            trial.task,
            trial.coding,
            trial.rounds,
            one.speed_up,
            megabytes(one.up),
            megabytes(one.down),
        )
        for trial, one in found.items()
    ]
    usual = [one for trial, one in found.items() if trial.coding == "usual"]
    report(
        wanted,
        f"Speed-up and traffic of each of 8 volunteers, data from {source()}, one seed",
        ("task", "coding", "rounds' worth", "speed-up", "up MB/h", "down MB/h"),
        rows,
        [Bar("frontier.usual", statistics.fmean(one.speed_up for one in usual), "times, mean")],
    )


if __name__ == "__main__":
    main()
