"""The same crowd under Flower's strategies: synchronous rounds, waiting included.

A round begins when all who are there have the newest weights and ends when the last of them has
sent its own. Kind to Flower: each client stops after the round's time by itself, so that nobody
waits for the slowest machine's steps; who leaves is noticed at once; exact weights take no
longer to send than coded ones; and optimizers keep what they remember.
"""

from __future__ import annotations

import io
import struct
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from handcar.simulation.learner import Learner
from handcar.simulation.run import machines_of
from handcar.simulation.scenario import Scenario
from handcar.simulation.volunteers import Feed, Machine
from handcar.wire.layout import Flat

PEERS = Path(__file__).with_name("flower_peers.py")


class Aggregator:
    """A strategy of Flower's in a process of its own."""

    def __init__(self, python: str, strategy: str, first: Flat) -> None:
        self._process = subprocess.Popen(
            [python, str(PEERS), strategy],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._send(first)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()

    def merge(self, examples: list[int], weights: list[Flat]) -> Flat:
        """Return the next version."""
        self._send(np.array(examples))
        self._send(np.stack(weights))
        out = self._process.stdout
        assert out is not None
        (size,) = struct.unpack("<Q", out.read(8))
        merged: Flat = np.load(io.BytesIO(out.read(size)))
        return merged

    def _send(self, array: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(buffer, array)
        assert self._process.stdin is not None
        self._process.stdin.write(struct.pack("<Q", buffer.tell()) + buffer.getvalue())
        self._process.stdin.flush()


class Client:
    """One machine of the crowd."""

    def __init__(self, machine: Machine, learner: Learner, rng: np.random.Generator) -> None:
        self.machine = machine
        self.back_at = 0.0
        self._learner = learner
        self._rng = rng
        self._feed = Feed(rng)
        self._slots = learner.fresh()

    def leaves(self, scenario: Scenario, now: float) -> bool:
        """Say whether it leaves in this round; it is back some time later."""
        if self._rng.random() >= scenario.volunteers.leave:
            return False
        away = scenario.volunteers.away_rounds * scenario.round_seconds
        self.back_at = now + scenario.round_seconds / 2 + float(self._rng.exponential(away))
        return True

    def round(self, scenario: Scenario, weights: Flat, now: float, done: float) -> tuple[Flat, int]:
        """Return the weights after a round's time and the steps made."""
        records = scenario.records
        rounds = now / scenario.round_seconds
        here = records.first + int(rounds / records.next_rounds)
        for number, rows in enumerate(self.machine.chunks[:here]):
            self._feed.add(str(number), rows)
        speed = self.machine.steps_per_second
        steps = max(1, int(np.ceil(scenario.round_seconds * speed - 1e-9)))
        rows = self._feed.batches(steps, self._learner.batch_size)
        crowd = scenario.volunteers.count * scenario.volunteers.steps_per_second
        rates = self._learner.rates(done, steps, pace=crowd / speed)
        trained, self._slots = self._learner.train(weights, self._slots, rows, rates)
        return trained, steps

    def seconds(self, scenario: Scenario, steps: int) -> float:
        """Return how long its round takes with fetching and sending."""
        jitter = self._rng.uniform(1 - scenario.lines.jitter, 1 + scenario.lines.jitter)
        travel = (self.machine.upload + self.machine.download) * scenario.round_seconds
        return steps / self.machine.steps_per_second + travel * float(jitter)


def train(scenario: Scenario, learner: Learner, python: str, strategy: str) -> tuple[float, float]:
    """Return the final loss and the virtual time in seconds."""
    rngs = np.random.default_rng(scenario.seed).spawn(scenario.volunteers.count + 1)
    machines = machines_of(scenario, len(learner.problem.seen.x), rngs.pop())
    clients = [Client(machine, learner, rng) for machine, rng in zip(machines, rngs, strict=True)]
    weights, now, done = learner.first(scenario.seed), 0.0, 0.0
    with Aggregator(python, strategy, weights) as aggregator:
        while done < scenario.steps:
            there = [one for one in clients if one.back_at <= now]
            staying = [one for one in there if not one.leaves(scenario, now)]
            if not staying:
                now += scenario.round_seconds / 2
                continue
            rounds = [one.round(scenario, weights, now, done) for one in staying]
            made = [steps for _, steps in rounds]
            weights = aggregator.merge(made, [trained for trained, _ in rounds])
            now += max(
                one.seconds(scenario, steps) for one, steps in zip(staying, made, strict=True)
            )
            done += sum(made)
    return learner.judge(weights).loss, now
