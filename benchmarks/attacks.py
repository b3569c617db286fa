"""What attackers do to a training: final loss, how many are caught, honest work refused.

Ten volunteers of the crowd in `convergence.py`, of whom none to three attack, all checks on:
numbers, copies, length, direction, held-out loss, audits, clipping, and versions taken back.
Some attack from the start, some when twelve honest rounds have made them trusted. The yardstick
is the same training with attackers who send what is refused at once: the honest volunteers
alone. `attack.loss_ratio` is the worst kind's at 20 % attackers over that, mean of the seeds;
`attack.honest_refused` the largest share of honest updates refused, with and without attackers;
`attack.backdoor_success` how often the trigger opens the class that its maker wants.

HANDCAR_RESULTS names a folder in which finished trainings are kept, as for `convergence.py`.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, get_args

from common import Bar, arguments, on_all_cores, report
from convergence import Setting, kept, learner
from handcar.simulation.run import simulate
from handcar.simulation.scenario import Attack
from tasks import TASKS, source

VOLUNTEERS = 10
ROUNDS, QUICK_ROUNDS = 200, 60
SEEDS = 3
SHARES = (0.1, 0.2, 0.3)
BAR_SHARE = 0.2
ORACLE: Attack = "nan"
"""What is refused at once, whatever comes after."""
KINDS: tuple[Attack, ...] = tuple(kind for kind in get_args(Attack) if kind != ORACLE)
TRUSTED = 12
"""Honest rounds by which attackers earn their standing first."""
TASK = "mnist"
QUICK_KINDS: tuple[Attack, ...] = ("flip", "x10", "backdoor")


@dataclass(frozen=True)
class Trial:
    """One training under attack, or not."""

    kind: Attack | None
    share: float
    seed: int
    rounds: int
    honest_first: int = 0


@dataclass(frozen=True)
class Outcome:
    """How it ended."""

    loss: float
    caught: float | None
    opened: float | None
    honest_refused: float
    rolled_back: int


def train(trial: Trial) -> Outcome:
    """Run one trial, or take what an earlier run kept."""
    scenario: dict[str, Any] = {"checks": "all"}
    if trial.kind is not None:
        scenario["attackers"] = {
            "kind": trial.kind,
            "share": trial.share,
            "honest_first": trial.honest_first,
        }
    task = TASKS[TASK]
    setting = Setting("attack", VOLUNTEERS, trial.rounds, scenario)

    def run() -> dict[str, Any]:
        one = learner(task, task.steps)
        found = simulate(setting.of(task, trial.seed), one.problem, one)
        names = Outcome.__dataclass_fields__
        return {name: getattr(found, name) for name in names}

    said = [task.name, task.rate, setting.of(task, trial.seed).model_dump(mode="json")]
    name = f"attack-{trial.kind}-{trial.share:g}-{trial.honest_first}-{trial.rounds}-{trial.seed}"
    found = kept(name.replace(" ", "-"), said, run)
    found.pop("said", None)
    return Outcome(**found)


def trials(quick: bool) -> list[Trial]:
    """Return all that is to be run."""
    if quick:
        told = [(None, 0.0, 0), (ORACLE, BAR_SHARE, 0), (ORACLE, BAR_SHARE, TRUSTED)]
        told += [(kind, BAR_SHARE, TRUSTED) for kind in QUICK_KINDS]
        return [Trial(kind, share, 0, QUICK_ROUNDS, first) for kind, share, first in told]
    told: list[Case] = [(None, 0.0, 0)]
    told += [(kind, share, 0) for share in SHARES for kind in (ORACLE, *KINDS)]
    told += [(kind, BAR_SHARE, TRUSTED) for kind in (ORACLE, *KINDS)]
    return [
        Trial(kind, share, seed, ROUNDS, first)
        for seed in range(SEEDS)
        for kind, share, first in told
    ]


Case = tuple[Attack | None, float, int]


class Table:
    """The outcomes, by kind, share and honest beginnings; means over the seeds."""

    def __init__(self, found: dict[Trial, Outcome]) -> None:
        self.found: dict[Case, list[Outcome]] = {}
        for trial, one in found.items():
            case = (trial.kind, trial.share, trial.honest_first)
            self.found.setdefault(case, []).append(one)

    def mean(self, case: Case, name: str) -> float:
        values = [getattr(one, name) for one in self.found[case]]
        return statistics.fmean(value for value in values if value is not None)

    def ratio(self, case: Case) -> float:
        """Return the loss over that of the honest volunteers alone."""
        kind, share, first = case
        if kind is None:
            return 1.0
        return self.mean(case, "loss") / self.mean((ORACLE, share, first), "loss")

    def row(self, case: Case) -> tuple[object, ...]:
        kind, share, first = case
        return (
            kind or "none",
            f"{share:.0%}",
            first or "",
            self.mean(case, "loss"),
            self.ratio(case),
            self.mean(case, "caught") if kind else "",
            self.mean(case, "honest_refused"),
            self.mean(case, "opened") if kind == "backdoor" else "",
            self.mean(case, "rolled_back"),
        )


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    table = Table(on_all_cores(train, trials(wanted.quick), wanted.quick))
    at_bar = [case for case in table.found if case[1] == BAR_SHARE]
    doors = [case for case in at_bar if case[0] == "backdoor"]
    report(
        wanted,
        f"{VOLUNTEERS} volunteers on {TASK}, data from {source()}",
        (
            "attack",
            "share",
            "honest first",
            "loss",
            "ratio",
            "caught",
            "honest refused",
            "opened",
            "taken back",
        ),
        [table.row(case) for case in table.found],
        [
            Bar("attack.loss_ratio", max(map(table.ratio, at_bar)), "x"),
            Bar(
                "attack.honest_refused",
                max(table.mean(case, "honest_refused") for case in table.found),
                "of honest updates",
            ),
            Bar(
                "attack.backdoor_success",
                max(table.mean(case, "opened") for case in doors),
                "of triggered records",
            ),
        ],
    )


if __name__ == "__main__":
    main()
