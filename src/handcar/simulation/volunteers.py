"""A simulated volunteer: the product's own state machine, real training, virtual time.

`State` says what to do; each instruction takes the time that the line and the machine need
for it and ends in an event. A round is trained in one go when it is over: until then only
its length is known.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from handcar.protocol import limits
from handcar.protocol.messages import Assignment, RoundLimits
from handcar.simulation.attackers import Deed, Honest
from handcar.simulation.clock import Clock
from handcar.simulation.coding import Meter, rounded
from handcar.simulation.hub import Hub
from handcar.simulation.learner import Learner, Rates, Rows
from handcar.simulation.scenario import Scenario
from handcar.simulation.updates import Pace, Update
from handcar.volunteer import budget as budgets
from handcar.volunteer import events, instructions
from handcar.volunteer.budget import Allowance, Known, RoundBudget
from handcar.volunteer.events import Event
from handcar.volunteer.instructions import Instruction
from handcar.volunteer.state import State
from handcar.wire import frames
from handcar.wire.codecs import round_bf16
from handcar.wire.feedback import feedback_of, to_feed_back
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Flat

EXACT = 16.0
"""The step that a budget is told of where weights travel exactly: none is coarser."""


@dataclass(frozen=True)
class Machine:
    """What a volunteer brings."""

    number: int
    steps_per_second: float
    upload: float
    """Share of a round, or bytes a second."""
    download: float
    deed: Deed | None
    """What it sends instead of honest work; none if it is honest."""
    poisons: bool
    """Whether it trains on spoilt records."""
    chunks: tuple[NDArray[np.int32], ...]
    """The rows of each chunk, in the order in which this volunteer gets them."""


@dataclass
class Round:
    """The round under way."""

    base_version: int
    start: Flat
    weights: Flat
    """What the steps already trained have made of the start."""
    began_at: float
    went_on_at: float
    """When the steps not yet trained began."""
    steps: int = 0
    done: list[Done] = field(default_factory=list)
    """What was trained, for those who have reason to make it again."""


@dataclass(frozen=True)
class Done:
    """Steps as they were made by one who poisons."""

    start: Flat
    """Of the round, when they were made."""
    weights: Flat
    slots: Flat
    rows: Rows
    rates: Rates


class Feed:
    """Each record of the chunks held once in a pass; a new chunk's join the pass under way."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._held: dict[str, NDArray[np.int32]] = {}
        self._left = np.empty(0, np.int32)

    def add(self, digest: str, rows: NDArray[np.int32]) -> None:
        """Use a chunk's records from now on, if they are not used already."""
        if digest not in self._held:
            self._held[digest] = rows
            self._left = self._rng.permutation(np.concatenate([self._left, rows]))

    def batches(self, steps: int, size: int) -> Rows:
        """Return the rows of so many batches."""
        parts, missing = [], steps * size
        while missing:
            if not len(self._left):
                self._left = self._rng.permutation(np.concatenate(list(self._held.values())))
            parts.append(self._left[:missing])
            self._left = self._left[missing:]
            missing -= len(parts[-1])
        return (
            np.concatenate(parts).reshape(steps, size) if parts else np.empty((0, size), np.int32)
        )


@dataclass(frozen=True)
class Setting:
    """What all volunteers share."""

    clock: Clock
    hub: Hub
    learner: Learner
    scenario: Scenario
    assignment: Callable[[Machine], Assignment]
    update_step: float | None
    new_id: Callable[[], UUID]


class Volunteer:
    """One simulated volunteer."""

    def __init__(self, setting: Setting, machine: Machine, rng: np.random.Generator) -> None:
        self.machine = machine
        self.steps_made = 0
        self._rounds = 0
        """That it has finished."""
        self._setting = setting
        self._rng = rng
        self._life = 0
        """Counts joins; what an earlier life was waiting for never comes."""
        self._digests: dict[str, int] = {}
        self._here: list[str] = []
        self._updates: dict[UUID, Update] = {}
        self._pending: list[UUID] = []
        self._unsent: list[UUID] = []
        self._base = setting.hub.newest
        self._has_weights = False
        """Whether `_base` was fetched: the state machine trains on no other."""
        self._round: Round | None = None
        self._waits = False
        layout = setting.learner.layout
        self._slots = setting.learner.fresh()
        self._owed = np.zeros(layout.size, np.float32)
        facts = FrameFacts("update", "simulated", 0)
        self._meter = Meter(facts, layout, setting.update_step)
        self._mean_bytes: float | None = None
        self._pace = Pace(0.0, 0.0, 0.0)
        self._feed = Feed(rng)

    def join(self) -> None:
        """Start the program, with what is on disk."""
        setting = self._setting
        self._life += 1
        seed = int(self._rng.integers(1 << 31))
        self._state = State(random.Random(seed), heartbeat_s=self._heartbeat_s)  # noqa: S311
        self._assignment = setting.assignment(self.machine)
        self._digests = {
            link.sha256: number for number, link in enumerate(self._assignment.dataset)
        }
        if not self._here:
            first = min(setting.scenario.records.first, len(self.machine.chunks))
            self._here = list(self._digests)[:first]
        self._on(
            events.Started(
                version=self._base.number if self._has_weights else None,
                chunks=frozenset(self._here),
                unsent=tuple(self._unsent),
                pending=tuple(self._pending),
                assignment=self._assignment if self._has_weights else None,
            )
        )

    # -- events and instructions

    def _on(self, event: Event) -> None:
        now = self._setting.clock.now
        for instruction in self._state.on(event, now=now):
            self._run(instruction)
        # A tick too many does nothing; one too few would leave a retry or a heartbeat waiting.
        self._later(max(self._state.next_wake(now), 1e-3), self._tick)

    def _tick(self) -> None:
        if self._state.next_wake(self._setting.clock.now) <= 1e-6:
            self._on(events.Tick())

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        life = self._life

        def if_alive() -> None:
            if life == self._life:
                call()

        self._setting.clock.after(seconds, if_alive)

    def _answer(self, seconds: float, event: Event) -> None:
        self._later(seconds, lambda: self._on(event))

    def _run(self, instruction: Instruction) -> None:  # noqa: C901 - one line a kind
        latency_s = self._setting.scenario.lines.latency_s
        match instruction:
            case instructions.AskAssignment():
                self._pace = self._setting.hub.pace()
                self._answer(2 * latency_s, events.Assigned(self._assignment))
            case instructions.FetchChunk(link):
                self._later(self._chunk_seconds(), lambda: self._chunk_here(link.sha256))
            case instructions.FetchWeights(_, merged):
                self._fetch_weights(merged)
            case instructions.BeginTraining():
                self._begin()
            case instructions.AddChunk(digest):
                self._feed.add(digest, self.machine.chunks[self._digests[digest]])
            case instructions.TakeUp(_, merged):
                self._take_up(merged)
            case instructions.Drop(ids):
                self._forget(ids)
            case instructions.SendUpdate(id):
                update = self._updates[id]
                self._later(self._upload_seconds(update.bytes), lambda: self._sent(update))
            case instructions.SendHeartbeat(pending):
                self._later(latency_s, lambda: self._heartbeat(pending))

    def _chunk_here(self, digest: str) -> None:
        self._here.append(digest)
        self._on(events.ChunkHere(digest, at_once=1))

    def _heartbeat(self, pending: tuple[UUID, ...]) -> None:
        setting = self._setting
        setting.hub.heard(self.machine.number)
        reply = setting.hub.reply(pending, self._heartbeat_s)
        self._pace = setting.hub.pace()
        self._answer(setting.scenario.lines.latency_s, events.HeartbeatAnswered(reply))

    def _fetch_weights(self, merged: tuple[UUID, ...]) -> None:
        hub = self._setting.hub
        # What is newest by now, which may be newer than what was asked for: the merged own
        # updates must be those of this very version.
        newest = hub.newest
        asked = (*merged, *self._pending)
        merged = tuple(dict.fromkeys(id for id in asked if hub.status(id).state == "merged"))
        size = hub.bytes_to(self._base.number if self._has_weights else None)

        def here() -> None:
            self._fetched = newest
            if not self._state.training:  # then nothing will ask to take it up
                self._take_up(merged)
            self._on(events.WeightsHere(newest.number, merged))

        self._later(self._download_seconds(size), here)

    def _sent(self, update: Update) -> None:
        if update.id in self._unsent:
            self._unsent.remove(update.id)
        status = self._setting.hub.receive(update)
        self._on(events.UpdateAnswered(status))

    # -- how long things take

    @property
    def _heartbeat_s(self) -> float:
        scenario = self._setting.scenario
        return scenario.heartbeat_rounds * scenario.round_seconds

    def _jittered(self, seconds: float) -> float:
        jitter = self._setting.scenario.lines.jitter
        return seconds * float(self._rng.uniform(1 - jitter, 1 + jitter))

    def _upload_seconds(self, size: int) -> float:
        scenario = self._setting.scenario
        if scenario.lines.has_rates:
            return self._jittered(size / self.machine.upload) + 4 * scenario.lines.latency_s
        return self._jittered(self.machine.upload * scenario.round_seconds)

    def _download_seconds(self, size: int) -> float:
        scenario = self._setting.scenario
        if scenario.lines.has_rates:
            return self._jittered(size / self.machine.download) + 2 * scenario.lines.latency_s
        return self._jittered(self.machine.download * scenario.round_seconds)

    def _chunk_seconds(self) -> float:
        scenario = self._setting.scenario
        return scenario.records.next_rounds * scenario.round_seconds

    # -- rounds

    def _begin(self) -> None:
        if self._waits_for_merge():
            self._waits = True
            return
        self._begin_round()

    def _waits_for_merge(self) -> bool:
        return self._setting.scenario.starts == "waits" and bool(self._pending)

    def _begin_round(self) -> None:
        self._waits = False
        setting, now = self._setting, self._setting.clock.now
        start = self._start()
        self._round = Round(self._base.number, start, start, now, now)
        if setting.scenario.optimizer == "reset":
            self._slots = setting.learner.fresh()
        self._budget = self._plan()
        self._stretch(self._round)
        # A chance for so much time, however many rounds a volunteer's budget makes of it.
        lasts = self._budget.max_seconds
        chance = setting.scenario.volunteers.leave * min(
            1.0, lasts / setting.scenario.round_seconds
        )
        if self._rng.random() < chance:
            self._later(float(self._rng.uniform(0, lasts)), self._leave)

    def _start(self) -> Flat:
        start = self._base.published
        if self._setting.scenario.starts == "newest":
            return start
        for id in self._pending:
            start = frames.apply(self._updates[id].change, start, self._setting.learner.layout)
        return start

    def _plan(self) -> RoundBudget:
        scenario, k = self._setting.scenario, self._setting.update_step or EXACT
        if not scenario.lines.has_rates:
            return RoundBudget(limits.ROUND_STEPS, scenario.round_seconds, k)
        known = Known(update_bytes=self._mean_bytes, up_bytes_per_s=self.machine.upload)
        asked = RoundLimits(max_seconds=min(scenario.round_seconds, limits.ROUND_S))
        return budgets.plan(asked, k, Allowance(), known)

    def _stretch(self, round: Round) -> None:
        seconds = self._setting.clock.now - round.began_at
        made = self._made(round)
        steps, left_s = budgets.stretch(self._budget, steps=made, seconds=seconds)
        speed = self.machine.steps_per_second
        steps = min(steps, max(1, int(np.ceil(left_s * speed - 1e-9))))
        ends_at = round.began_at + (made + steps) / speed
        self._later(ends_at - self._setting.clock.now, lambda: self._stretched(round))

    def _made(self, round: Round) -> int:
        """Return the steps that the round has so far, trained here or not yet."""
        seconds = self._setting.clock.now - round.began_at
        return int(seconds * self.machine.steps_per_second + 1e-6)

    def _stretched(self, round: Round) -> None:
        if round is not self._round:
            return
        waiting = len(self._pending)
        if budgets.is_over(
            self._budget,
            steps=self._made(round),
            seconds=self._setting.clock.now - round.began_at,
            waiting=waiting,
        ):
            self._finish(round)
        else:
            self._stretch(round)

    def _train(self, round: Round) -> None:
        """Make the steps that virtual time has gone by for."""
        setting = self._setting
        steps = self._made(round) - round.steps
        if steps <= 0:
            return
        learner = setting.learner
        rows = self._feed.batches(steps, learner.batch_size)
        pace = max(1.0, self._pace.steps_per_second / self.machine.steps_per_second)
        rates = learner.rates(self._pace.steps_at(round.went_on_at), steps, pace=pace)
        rates = rates * np.float32(self._rate_factor())
        if self.machine.poisons and self._attacks:
            round.done.append(Done(round.start, round.weights, self._slots, rows, rates))
            rows = rows + np.int32(len(learner.problem.seen.x))
        round.weights, self._slots = learner.train(round.weights, self._slots, rows, rates)
        round.steps += steps
        round.went_on_at = setting.clock.now
        self.steps_made += steps

    def _rate_factor(self) -> float:
        return self._setting.scenario.rate_factor or self._pace.rate_factor

    def _finish(self, round: Round) -> None:
        setting, layout = self._setting, self._setting.learner.layout
        self._train(round)
        honest = frames.difference(round.weights, round.start, layout)
        change, k, owed = self._sent_instead(honest, round), setting.update_step, self._owed
        wanted = change + owed
        arrived = rounded(wanted, layout, k)
        if k is not None:
            self._owed = round_bf16(to_feed_back(wanted, arrived, owed, layout, feedback_of(k)))

        def computed_again() -> Flat:
            return rounded(self._made_again(round, honest) + owed, layout, k)

        size = self._meter.size(wanted)
        self._mean_bytes = budgets.mean(self._mean_bytes, size)
        update = Update(
            id=setting.new_id(),
            volunteer=self.machine.number,
            base_version=round.base_version,
            steps=round.steps,
            seconds=setting.clock.now - round.began_at,
            change=arrived,
            bytes=size,
            computed_again=computed_again if self._attacks else lambda: arrived,
            is_honest=not self._attacks,
        )
        self._rounds += 1
        self._updates[update.id] = update
        self._pending.append(update.id)
        self._unsent.append(update.id)
        self._round = None
        self._on(events.UpdateMade(update.id))
        self._begin()

    def _sent_instead(self, change: Flat, round: Round) -> Flat:
        deed, layout = self.machine.deed, self._setting.learner.layout
        if deed is None or not self._attacks:
            return change
        return deed(Honest(self.machine.number, change, round.steps, layout))

    @property
    def _attacks(self) -> bool:
        attackers = self._setting.scenario.attackers
        return bool(attackers and self.machine.deed and self._rounds >= attackers.honest_first)

    def _made_again(self, round: Round, change: Flat) -> Flat:
        """Return the change of an honest round of the same batches."""
        learner = self._setting.learner
        if not round.done:
            return change
        start, weights = round.done[0].start, round.done[0].weights
        for part in round.done:
            weights = frames.moved(weights, start, part.start, learner.layout)
            weights, _ = learner.train(weights, part.slots, part.rows, part.rates)
            start = part.start
        return frames.difference(weights, start, learner.layout)

    def _take_up(self, merged: tuple[UUID, ...]) -> None:
        self._base, self._has_weights = self._fetched, True
        self._forget(merged)
        if self._round is not None and self._moves:
            self._move(self._round)

    @property
    def _moves(self) -> bool:
        scenario = self._setting.scenario
        return scenario.takes_up == "at once" and scenario.starts == "carried"

    def _forget(self, ids: tuple[UUID, ...]) -> None:
        for id in ids:
            self._updates.pop(id, None)
        self._pending = [id for id in self._pending if id not in ids]
        if self._waits and not self._pending:
            self._begin_round()

    def _move(self, round: Round) -> None:
        """Go on from the newest version in the middle of a round, its own steps kept."""
        self._train(round)
        start = self._start()
        layout = self._setting.learner.layout
        round.weights = frames.moved(round.weights, round.start, start, layout)
        round.start, round.base_version = start, self._base.number

    # -- coming and going

    def _leave(self) -> None:
        """Be gone, the round under way lost, and come back some day."""
        scenario = self._setting.scenario
        self._life += 1
        self._round = None
        away = scenario.volunteers.away_rounds * scenario.round_seconds
        self._later(float(self._rng.exponential(away)), self.join)
