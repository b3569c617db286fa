"""What coding costs in quality: held-out loss and accuracy at the end of trainings in the loop.

Each task is trained from the same seeds uncompressed and under each setting of the step codec:
up with no error feedback, half, all and all within a limit; down; and frugal. A gap is the
mean over the seeds of the loss over the uncompressed loss of the same seed, less one. `noise`
is how far the uncompressed losses of the seeds lie from each other (standard deviation over
mean): a gap below it can't be told from chance. The bars are the worst task's.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace

import numpy as np

from common import Bar, arguments, report
from handcar.wire.feedback import Feedback, feedback_of
from learning import FRUGAL, TASKS, Coding, Learner, Task, rounds, usual

EXACT = "float32"
HALF, LIMITED = feedback_of(2.0), feedback_of(3.0)
UP_2, UP_3 = Coding(up=2.0, feedback=HALF), Coding(up=3.0, feedback=LIMITED)
UP_FRUGAL = replace(FRUGAL, down=None)
SETTINGS = {
    EXACT: Coding(),
    "up 2, half": UP_2,
    "up 2, half, down 1.4": replace(UP_2, down=1.4),
    "up 3, limited": UP_3,
    "up 3, limited, down 1.4": replace(UP_3, down=1.4),
    "up 4, limited": UP_FRUGAL,
    "up 3, none": Coding(up=3.0),
    "up 3, all": Coding(up=3.0, feedback=Feedback()),
}
LENGTH = (30, 100)
"""Rounds, and steps a volunteer makes in each."""
SEEDS = 3
QUICK_LENGTH = (10, 20)


@dataclass(frozen=True)
class Result:
    """How one training ended."""

    task: str
    setting: str
    seed: int
    loss: float
    accuracy: float
    up_bits: float
    down_bits: float
    """Bits a weight, mean over the rounds."""


def trainings(name: str, seed: int, length: tuple[int, int]) -> list[Result]:
    """Train one task from one seed under every setting."""
    count, steps = length
    learner = Learner(TASKS[name], width=TASKS[name].small, steps=count * steps)
    return [_training(learner, setting, seed, length) for setting in SETTINGS]


def _training(learner: Learner, setting: str, seed: int, length: tuple[int, int]) -> Result:
    count, steps = length
    done = list(rounds(learner, SETTINGS[setting], seed=seed, count=count, steps=steps))
    loss, accuracy = learner.judge(done[-1].published)
    up, down = (
        8 * float(np.mean(sizes)) / learner.layout.size
        for sizes in zip(*[(one.update_bytes, one.delta_bytes) for one in done], strict=True)
    )
    result = Result(learner.task.name, setting, seed, loss, accuracy, up, down)
    print(result, file=sys.stderr, flush=True)
    return result


def all_trainings(quick: bool) -> Iterator[Result]:
    """Train everything, a task and seed a process."""
    if quick:
        yield from trainings("mlp", 0, QUICK_LENGTH)
        return
    jobs = [(name, seed, LENGTH) for seed in range(SEEDS) for name in TASKS]
    with ProcessPoolExecutor(
        os.cpu_count(), mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        for done in as_completed([pool.submit(trainings, *job) for job in jobs]):
            yield from done.result()


def _up_alone(task: Task) -> Coding:
    return replace(usual(task), down=None)


BARS: dict[str, Callable[[Task], Coding]] = {
    "up.loss_gap": _up_alone,
    "up.loss_gap_frugal": lambda _: UP_FRUGAL,
    "down.loss_gap": usual,
}
"""The setting of each task that a bar is about."""
Table = dict[tuple[str, str], list[Result]]


def by_setting(results: Iterator[Result]) -> Table:
    """Return the results of each task and setting, by seed."""
    table: Table = defaultdict(list)
    for result in results:
        table[result.task, result.setting].append(result)
    return {key: sorted(found, key=lambda one: one.seed) for key, found in table.items()}


def gap(table: Table, task: str, setting: str) -> float:
    """Return how much larger the loss is than uncompressed, mean over the seeds."""
    pairs = zip(table[task, setting], table[task, EXACT], strict=True)
    return float(np.mean([coded.loss / exact.loss for coded, exact in pairs])) - 1


def row(table: Table, task: str, setting: str) -> tuple[object, ...]:
    """Return one line of the printed table."""
    found = table[task, setting]
    losses = [one.loss for one in found]
    return (
        task,
        setting,
        float(np.mean(losses)),
        " ".join(f"{loss:.4f}" for loss in losses),
        100 * gap(table, task, setting),
        100 * float(np.std(losses) / np.mean(losses)),
        100 * float(np.mean([one.accuracy for one in found])),
        float(np.mean([one.up_bits for one in found])),
        float(np.mean([one.down_bits for one in found])),
    )


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    table = by_setting(all_trainings(wanted.quick))
    tasks = [name for name in TASKS if (name, EXACT) in table]
    report(
        wanted,
        f"Held-out loss after training in the loop, data from {_sources()}",
        (
            "task",
            "setting",
            "loss",
            "of each seed",
            "gap %",
            "noise %",
            "right %",
            "up b",
            "down b",
        ),
        [row(table, task, setting) for task in tasks for setting in SETTINGS],
        [
            Bar(
                bar, max(gap(table, task, _named(of(TASKS[task]))) for task in tasks), "of the loss"
            )
            for bar, of in BARS.items()
        ],
    )


def _named(coding: Coding) -> str:
    return next(name for name, one in SETTINGS.items() if one == coding)


def _sources() -> str:
    return "HANDCAR_DATA" if "HANDCAR_DATA" in os.environ else "nowhere: it is made up"


if __name__ == "__main__":
    main()
