"""What it costs that the optimizer forgets: at each round, now and then, or never.

Four volunteers train in the loop (`learning.py`), coded updates up and down, Adam inside, the
rate annealed over all steps whatever the optimizer forgets. Rounds of 10, 40 and 160 steps;
the optimizer begins afresh at each round, at the first round after so many steps, or never.
The held-out loss at the end, over that of an optimizer that never forgets, is what it costs.

    python benchmarks/optimizer_memory.py [--quick] [--json]
"""

from __future__ import annotations

import statistics

import numpy as np

import learning  # first: it chooses Keras's backend
from common import arguments, report
from handcar.merging import activity
from handcar.merging.merge import Contribution, merge
from handcar.wire import frames
from learning import TASKS, VOLUNTEERS, Learner, Task, key, usual
from learning import Volunteer as Learning
from learning import coded as code

STEPS = 1600
"""Of one volunteer, in all."""
LENGTHS = (10, 40, 160)
NEVER, NOW_AND_THEN = float("inf"), 160.0


class Forgetful(Learning):
    """A volunteer whose optimizer begins afresh at the first round after so many steps."""

    def __init__(self, *args, after: float) -> None:
        super().__init__(*args)
        self._after = after
        self._since = 0

    def round(self, base, steps):
        if self._since >= self._after:
            self._slots, self._since = [*self._learner.slots()], 0
        self._since += steps
        return super().round(base, steps)


class Annealed(Learner):
    """A learner whose rate follows a count of its own, not the optimizer's."""

    def __init__(self, task: Task, *, width: int, steps: int) -> None:
        super().__init__(task, width=width, steps=steps)
        # Slots are functions of the optimizer's variables: one more carries the place.
        schedule = learning.keras.optimizers.schedules.CosineDecay(task.rate, steps)
        optimizer = learning.keras.optimizers.Adam(task.rate)
        optimizer.build(self.model.trainable_variables)
        self._optimizer = optimizer
        self._schedule = schedule
        self._first_slots = [np.array(slot.value) for slot in optimizer.variables]
        self._rate_at = next(
            n for n, v in enumerate(optimizer.variables) if "learning_rate" in v.path
        )
        self.place = 0

    def train(self, weights, slots, rows):
        x, y = self.data.x[rows], self.data.y[rows]
        trained = self.layout.views(weights)
        for n in range(len(rows)):
            slots = list(slots)
            slots[self._rate_at] = np.asarray(self._schedule(self.place + n))
            trained, slots = self._step(trained, slots, x[n], y[n])
        return self.layout.flatten([np.asarray(tensor) for tensor in trained]), slots


def final_loss(learner: Annealed, *, seed: int, steps: int, after: float) -> float:
    """Return the held-out loss after all steps, in rounds of so many."""
    order = np.random.default_rng(seed).permutation(len(learner.data.x))
    shares = np.array_split(order, VOLUNTEERS)
    coding = usual(learner.task)
    crowd = [
        Forgetful(learner, coding, share, seed * VOLUNTEERS + n, after=after)
        for n, share in enumerate(shares)
    ]
    at_work = activity.measure([steps] * VOLUNTEERS)
    exact = published = learner.first(seed)
    for number in range(1, STEPS // steps + 1):
        learner.place = (number - 1) * steps
        sent = [volunteer.round(published, steps) for volunteer in crowd]
        given = [Contribution(arrived, steps) for _, arrived, _ in sent]
        exact = merge(exact, learner.layout, given, at_work).weights
        owed = frames.difference(exact, published, learner.layout)
        change, _ = code(learning.DELTA, owed, learner.layout, coding.down)
        published = published + change
        if number % learning.KEY_EVERY == 0:
            published = key(published)
    return learner.judge(published)[0]


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    seeds = (0,) if wanted.quick else (0, 1)
    rows: list[tuple[object, ...]] = []
    for name in TASKS:
        learner = Annealed(TASKS[name], width=TASKS[name].small, steps=STEPS)
        for steps in LENGTHS:
            for after in dict.fromkeys((NEVER, float(steps), NOW_AND_THEN)):
                losses = [
                    final_loss(learner, seed=seed, steps=steps, after=after) for seed in seeds
                ]
                rows.append((name, steps, after, statistics.mean(losses)))
    report(wanted, "Held-out loss", ("task", "steps a round", "afresh after", "loss"), rows, [])


if __name__ == "__main__":
    main()
