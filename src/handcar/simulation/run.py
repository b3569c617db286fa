"""A whole training in virtual time: the scenario in, the curve, the bytes and the hours out."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from handcar.merging import gate
from handcar.modelfile import coding
from handcar.modelfile.schema import ModelFile
from handcar.protocol.messages import Assignment, ChunkLink, Frame, Link, RoundLimits, Series
from handcar.simulation.attackers import POISONERS, Deed, Ring, spoilt, to_open
from handcar.simulation.checks import Checks
from handcar.simulation.clock import Clock
from handcar.simulation.hub import Habits, Hub
from handcar.simulation.learner import Learner, Problem, Records
from handcar.simulation.scenario import Scenario
from handcar.simulation.updates import Version
from handcar.simulation.volunteers import Machine, Setting, Volunteer

MBIT = 125_000
LONGEST_ROUNDS = 200_000
"""A simulation that has not come to its end by then never will."""


@dataclass(frozen=True)
class Point:
    """How good a version was."""

    seconds: float
    steps: float
    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class Result:
    """How a simulated training went."""

    loss: float
    accuracy: float | None
    seconds: float
    """Virtual time until the last version."""
    steps: float
    """Steps merged."""
    kept: float
    """Share of the work that all machines could have done, had they never been away."""
    versions: int
    updates: int
    refused: int
    honest_refused: float
    """Share of the honest updates."""
    caught: float | None
    """Share of the attackers' updates that was refused; none without attackers."""
    opened: float | None
    """How often a backdoor's trigger does what attackers want; none without a backdoor."""
    rolled_back: int
    staleness: float
    """Mean, in versions."""
    volunteers: float
    """Effective number, at the end."""
    bytes_up: int
    """Of all volunteers together."""
    bytes_down: int
    up_bits: float
    """Bits a weight, mean over the updates."""
    curve: tuple[Point, ...] = field(default=(), repr=False)


def simulate(scenario: Scenario, problem: Problem, learner: Learner | None = None) -> Result:
    """Run a scenario on a problem. The same scenario gives the same result on one machine.

    `learner` saves building one where several scenarios of as many steps share a problem.
    """
    if scenario.attackers and problem.spoilt is None:
        rng = np.random.default_rng(scenario.seed)
        spoiled = spoilt(problem, scenario.attackers.kind, rng)
        if spoiled is not None:
            problem, learner = replace(problem, spoilt=spoiled), None
    learner = learner or Learner(problem, steps=scenario.steps)
    return Simulation(scenario, learner).run()


class Simulation:
    """One run."""

    def __init__(self, scenario: Scenario, learner: Learner) -> None:
        self._scenario = scenario
        self._learner = learner
        self._clock = Clock()
        self._curve: list[Point] = []
        rngs = np.random.default_rng(scenario.seed).spawn(scenario.volunteers.count + 2)
        self.checks = self._checks(rngs.pop())
        habits = Habits(
            scenario.merging.of_product(),
            scenario.round_seconds,
            scenario.coding.down,
            scenario.merging.gain,
        )
        first = learner.first(scenario.seed)
        self._hub = Hub(self._clock, learner.layout, first, habits, self.checks)
        self._hub.published = self._published
        ids = itertools.count(1)
        setting = Setting(
            clock=self._clock,
            hub=self._hub,
            learner=learner,
            scenario=scenario,
            assignment=self._assignment,
            update_step=update_step(scenario, learner.model_file),
            new_id=lambda: UUID(int=next(ids)),
        )
        records = len(learner.problem.seen.x)
        machines = machines_of(scenario, records, rngs.pop())
        self.volunteers = [
            Volunteer(setting, machine, rng) for machine, rng in zip(machines, rngs, strict=True)
        ]

    def run(self) -> Result:
        """Run to the end."""
        for volunteer in self.volunteers:
            volunteer.join()
        longest = LONGEST_ROUNDS * self._scenario.round_seconds
        while self._hub.counts.merged_steps < self._scenario.steps and self._clock.now < longest:
            if not self._clock.step():
                break
        return self._result()

    def _checks(self, rng: np.random.Generator) -> Checks | None:
        learner, held = self._learner, self._learner.problem.held
        # Records that neither volunteers nor the curve know of.
        gated = Records(held.x[-gate.RECORDS :], held.y[-gate.RECORDS :])
        judge = {
            "none": None,
            "cheap": None,
            "all": lambda weights: learner.judge(weights, gated).loss,
        }[self._scenario.checks]
        if self._scenario.checks == "none":
            return None
        return Checks(learner.layout, rng, judge)

    def _published(self, version: Version) -> None:
        """Measure the curve at even shares of the work."""
        scenario = self._scenario
        every = scenario.steps / scenario.points
        steps = self._hub.counts.merged_steps
        if steps >= scenario.steps or steps >= every * (len(self._curve) + 1):
            judged = self._learner.judge(version.published)
            self._curve.append(Point(self._clock.now, steps, judged.loss, judged.accuracy))

    def _result(self) -> Result:
        counts, last = self._hub.counts, self._curve[-1]
        could = self._scenario.volunteers.count * self._scenario.volunteers.steps_per_second
        return Result(
            loss=last.loss,
            accuracy=last.accuracy,
            seconds=self._clock.now,
            steps=counts.merged_steps,
            kept=counts.merged_steps / (could * self._clock.now),
            versions=self._hub.newest.number,
            updates=counts.updates,
            refused=counts.refused,
            honest_refused=counts.honest_refused / max(counts.honest, 1),
            caught=self._caught(),
            opened=self._opened(),
            rolled_back=counts.rolled_back,
            staleness=float(np.mean(counts.staleness)),
            volunteers=self._hub.effective_volunteers(),
            bytes_up=counts.bytes_up,
            bytes_down=counts.bytes_down,
            up_bits=8 * counts.bytes_up / counts.updates / self._learner.layout.size,
            curve=tuple(self._curve),
        )

    def _caught(self) -> float | None:
        counts = self._hub.counts
        bad = counts.updates - counts.honest
        return (counts.refused - counts.honest_refused) / bad if bad else None

    def _opened(self) -> float | None:
        attackers = self._scenario.attackers
        if attackers is None or attackers.kind != "backdoor":
            return None
        door = to_open(self._learner.problem.held)
        return self._learner.judge(self._hub.newest.published, door).accuracy

    def _assignment(self, machine: Machine) -> Assignment:
        newest = self._hub.newest
        digest = _digest("weights")
        keyframe = Frame(
            url="",
            sha256=digest,
            size=1,
            version=newest.number,
            kind="keyframe",
            weights_sha256=digest,
        )
        chunks = tuple(
            ChunkLink(
                url="",
                sha256=_digest(f"{machine.number} {number}"),
                size=1,
                file_name=f"{number}",
                dataset_name="simulated",
                records=len(rows),
                codec="none",
            )
            for number, rows in enumerate(machine.chunks)
        )
        return Assignment(
            id="simulated",
            state="pending",
            configuration=Link(url="", sha256=digest, size=1),
            dataset=chunks,
            series=Series(model_id="simulated", newest=newest.number, keyframe=keyframe),
            round=RoundLimits(),
            starts=self._scenario.starts,
            heartbeat_s=self._scenario.heartbeat_rounds * self._scenario.round_seconds,
        )


def update_step(scenario: Scenario, model_file: ModelFile) -> float | None:
    """Return the step of updates: the scenario's, or the product's own for this model."""
    if scenario.coding.up is not None or not scenario.coding.usual:
        return scenario.coding.up
    return coding.update_step(model_file)


def machines_of(scenario: Scenario, records: int, rng: np.random.Generator) -> list[Machine]:
    """Return who takes part: speeds evenly on a log scale, lines evenly over their range."""
    crowd, lines = scenario.volunteers, scenario.lines
    exponents = np.linspace(-0.5, 0.5, crowd.count) if crowd.count > 1 else np.zeros(1)
    speeds = crowd.spread**exponents
    speeds *= crowd.steps_per_second / speeds.mean()
    if lines.up_mbit_per_s is not None and lines.down_mbit_per_s is not None:
        up = MBIT * _spread(lines.up_mbit_per_s, crowd.count, rng)
        down = MBIT * _spread(lines.down_mbit_per_s, crowd.count, rng)
    else:
        up = _spread(lines.upload_share or (0.0, 0.0), crowd.count, rng)
        down = _spread(lines.download_share or (0.0, 0.0), crowd.count, rng)
    cut = np.array_split(rng.permutation(records).astype(np.int32), scenario.records.chunks)
    deeds = _deeds(scenario, rng)
    return [
        Machine(
            number,
            float(speeds[number]),
            float(up[number]),
            float(down[number]),
            deeds.get(number),
            bool(scenario.attackers and number in deeds and scenario.attackers.kind in POISONERS),
            _in_order(cut, rng),
        )
        for number in range(crowd.count)
    ]


def _deeds(scenario: Scenario, rng: np.random.Generator) -> dict[int, Deed]:
    """Return what each attacker does; they are spread over all speeds."""
    attackers, count = scenario.attackers, scenario.volunteers.count
    if attackers is None:
        return {}
    ring = Ring(rng.spawn(1)[0])
    chosen = np.linspace(0, count, round(attackers.share * count), endpoint=False)
    middle = count / max(2 * len(chosen), 1)
    return {int(number + middle): ring.deed(attackers.kind) for number in chosen}


def _spread(ends: Sequence[float], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.permutation(np.linspace(ends[0], ends[1], count + 2)[1:-1])


def _in_order(
    chunks: list[NDArray[np.int32]], rng: np.random.Generator
) -> tuple[NDArray[np.int32], ...]:
    return tuple(chunks[number] for number in rng.permutation(len(chunks)))


def _digest(name: str) -> str:
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()
