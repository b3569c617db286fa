"""The simulated server: updates come in, are checked and merged; versions go out.

What it decides is decided by the product's own `merging`; what it hands out is rounded as
the product's own frames are. It keeps in memory what the server keeps on disk.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import numpy as np

from handcar.merging import cadence, staleness
from handcar.merging import merge as merging
from handcar.merging.activity import GAIN_EXPONENT, Activity, rate_factor
from handcar.merging.cadence import Active, Choice, Waiting
from handcar.merging.merge import Contribution, Memory
from handcar.merging.rules import SHARE, Rule
from handcar.protocol.messages import HeartbeatReply, UpdateStatus
from handcar.simulation.checks import Checks
from handcar.simulation.clock import Clock
from handcar.simulation.coding import Meter, rounded
from handcar.simulation.updates import Pace, Update, Version
from handcar.wire import frames
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Flat, Layout

ACTIVE_ROUNDS = 2
ROUNDS_LOOKED_AT = 20
DELTAS_MOST = 20
DELTAS_SHARE = 0.5
TICK_S = 1e-6
"""After a patience has ended: rounding must not leave it a little short of its end."""


@dataclass
class Counts:
    """What is counted for the result."""

    merged_steps: float = 0.0
    updates: int = 0
    refused: int = 0
    staleness: list[int] = field(default_factory=list)
    """Of each merged update, in versions."""
    bytes_up: int = 0
    bytes_down: int = 0
    honest: int = 0
    """Updates of those who attack nobody."""
    honest_refused: int = 0
    rolled_back: int = 0


@dataclass(frozen=True)
class Habits:
    """How a server works."""

    rule: Rule
    round_seconds: float
    """What a round is taken to last until one was seen."""
    down_step: float | None
    gain: float | None = None
    """Instead of the rule's own."""


class Hub:
    """Takes updates, makes versions."""

    def __init__(
        self,
        clock: Clock,
        layout: Layout,
        weights: Flat,
        habits: Habits,
        checks: Checks | None,
    ) -> None:
        self.counts = Counts()
        self.published: Callable[[Version], None] = lambda version: None
        """Called with every new version."""
        self._clock = clock
        self._layout = layout
        self._habits = habits
        self._checks = checks
        self._meter = Meter(FrameFacts("delta", "simulated", 1), layout, habits.down_step)
        self._memory = Memory()
        first = frames.round_keyframe(weights)
        self._master = first
        self.newest = Version(0, first, 0.0, 0, self._keyframe_bytes(first))
        self._sizes = {0: self.newest}
        """Versions that are still listed, without much in them but their sizes."""
        self._keyframe = 0
        self._published_at = [0.0]
        self._waiting: list[Update] = []
        self._updates: dict[UUID, Update] = {}
        self._last_steps: dict[int, int] = {}
        self._heard_at: dict[int, float] = {}
        self._lengths: list[float] = []
        self._good: tuple[Flat, Memory] = (first, self._memory)
        """The last version that was not worse than those before it."""
        self._activity = Activity(0.0, 0.0)

    # -- what volunteers ask

    def heard(self, volunteer: int) -> None:
        """Note that a volunteer is there."""
        self._heard_at[volunteer] = self._clock.now

    def reply(self, pending: Iterable[UUID], heartbeat_s: float) -> HeartbeatReply:
        """Return what a heartbeat is answered with."""
        statuses = tuple(self.status(id) for id in pending)
        return HeartbeatReply(
            newest=self.newest.number,
            model_state="pending",
            updates=statuses,
            heartbeat_s=heartbeat_s,
        )

    def status(self, id: UUID) -> UpdateStatus:
        """Return where an update is."""
        update = self._updates.get(id)
        if update is None:
            return UpdateStatus(id=id, state="announced")
        return UpdateStatus(id=id, state=update.state, version=update.version, reason=update.reason)

    def pace(self) -> Pace:
        """Return how far everyone is."""
        length = self.round_seconds()
        own_rule = self._habits.rule.name == SHARE.name
        done, effective = self.counts.merged_steps, self._activity.effective_volunteers
        return Pace(
            done,
            self._activity.round_steps / length,
            self._clock.now,
            rate_factor(effective, done) if own_rule else 1.0,
        )

    def bytes_to(self, held: int | None) -> int:
        """Return the bytes that lead to the newest version, the cheaper way."""
        after = self._keyframe if held is None or held < self._keyframe else held
        deltas = range(after + 1, self.newest.number + 1)
        size = sum(self._sizes[number].delta_bytes for number in deltas)
        if after is not held:
            size += self._sizes[after].keyframe_bytes or 0
        self.counts.bytes_down += size
        return size

    def effective_volunteers(self) -> float:
        """Return how many volunteers there are in effect."""
        return self._activity.effective_volunteers

    def round_seconds(self) -> float:
        """Return the median length of the last accepted rounds."""
        last = self._lengths[-ROUNDS_LOOKED_AT:]
        return statistics.median(last) if last else self._habits.round_seconds

    # -- updates

    def receive(self, update: Update) -> UpdateStatus:
        """Take an update in, check it, and make the next version if one is due."""
        self._updates[update.id] = update
        update.received_at = self._clock.now
        self.counts.updates += 1
        self.counts.bytes_up += update.bytes
        self.heard(update.volunteer)
        update.late_weight = self._late_weight(update)
        update.reason = self._fault(update)
        self.counts.honest += update.is_honest
        if update.reason is None:
            self._accept(update)
        else:
            update.state = "refused"
            self.counts.refused += 1
            self.counts.honest_refused += update.is_honest
        return self.status(update.id)

    def _accept(self, update: Update) -> None:
        update.state = "checked"
        self._waiting.append(update)
        self._last_steps[update.volunteer] = update.steps
        self._lengths.append(update.seconds)
        self._look()
        patience = self._habits.rule.patience_rounds * self.round_seconds()
        self._clock.after(patience + TICK_S, self._look)

    def _fault(self, update: Update) -> str | None:
        if update.late_weight == 0.0:
            return "too late to count"
        if self._checks is None:
            return None if np.isfinite(update.change).all() else "not finite"
        newest = (self.newest.number, self.newest.published)
        return self._checks.fault(update, newest, self._memory)

    def _late_weight(self, update: Update) -> float:
        if update.base_version >= self.newest.number:
            return 1.0
        late = self._clock.now - self._published_at[update.base_version + 1]
        usual_s, own_s = self.round_seconds(), update.seconds
        return staleness.weight(staleness.rounds(late, usual_s=usual_s, own_s=own_s))

    # -- versions

    def _look(self) -> None:
        while choice := self._choice():
            self._merge(self._waiting[: choice.count], choice)

    def _choice(self) -> Choice | None:
        if not self._waiting:
            return None
        since = self._waiting[0].received_at - ACTIVE_ROUNDS * self.round_seconds()
        active: dict[Hashable, Active] = {
            volunteer: Active(steps, self._trust(volunteer), (volunteer,))
            for volunteer, steps in self._last_steps.items()
            if self._heard_at[volunteer] >= since
        }
        waiting = [
            Waiting(
                update.volunteer,
                update.steps,
                update.late_weight,
                self._trust(update.volunteer),
                (update.volunteer,),
            )
            for update in self._waiting
        ]
        waited = (self._clock.now - self.newest.published_at) / self.round_seconds()
        return cadence.choose(waiting, active, waited_rounds=waited, rule=self._habits.rule)

    def _trust(self, volunteer: int) -> float:
        return 1.0 if self._checks is None else self._checks.trust(volunteer)

    def _merge(self, updates: list[Update], choice: Choice) -> None:
        self._activity = choice.activity
        newest = self.newest.number
        contributions = [
            Contribution(
                partial(_change, update),
                float(update.steps),
                counted,
                update.factor,
                update.sketch,
                newest - update.base_version,
            )
            for update, counted in zip(updates, choice.counted_steps, strict=True)
        ]
        self._waiting = self._waiting[len(updates) :]
        result = merging.merge(
            self._master,
            self._layout,
            contributions,
            self._as_wanted(choice.activity),
            rule=self._habits.rule,
            memory=self._memory,
        )
        self._master, self._memory = result.weights, result.memory
        self._publish()
        for update in updates:
            update.state, update.version = "merged", self.newest.number
            self.counts.staleness.append(newest - update.base_version)
        if self._checks is not None:
            self._checks.note_merged(updates, result.parts, self.newest.number)
        self.counts.merged_steps += sum(choice.counted_steps)
        self._watch(updates)
        self.published(self.newest)

    def _as_wanted(self, activity: Activity) -> Activity:
        if self._habits.gain is None:
            return activity
        return Activity(activity.round_steps, self._habits.gain ** (1 / GAIN_EXPONENT))

    def _watch(self, updates: list[Update]) -> None:
        """Take back a version that is worse than those before it."""
        if self._checks is None:
            return
        if not self._checks.is_worse(self.newest.published):
            self._good = (self._master, self._memory)
            return
        self.counts.rolled_back += 1
        self._master, self._memory = self._good
        self._publish()

    def _publish(self) -> None:
        before = self.newest
        change = frames.difference(self._master, before.published, self._layout)
        arrived = rounded(change, self._layout, self._habits.down_step)
        weights = frames.apply(arrived, before.published, self._layout)
        size = self._meter.size(change)
        is_keyframe = self._keyframe_is_due(size)
        if is_keyframe and self._habits.down_step is not None:
            weights = frames.round_keyframe(weights)
        number = before.number + 1
        self.newest = Version(
            number,
            weights,
            self._clock.now,
            size,
            self._keyframe_bytes(weights) if is_keyframe else None,
        )
        self._published_at.append(self._clock.now)
        self._sizes[number] = self.newest
        self._sizes.pop(number - 2 * DELTAS_MOST - 1, None)
        self._keyframe = number if is_keyframe else self._keyframe

    def _keyframe_is_due(self, delta_bytes: int) -> bool:
        since = range(self._keyframe + 1, self.newest.number + 1)
        size = sum(self._sizes[number].delta_bytes for number in since) + delta_bytes
        most = DELTAS_SHARE * (self._sizes[self._keyframe].keyframe_bytes or 0)
        return len(since) + 1 >= DELTAS_MOST or size > most

    def _keyframe_bytes(self, weights: Flat) -> int:
        if self._habits.down_step is None:
            return weights.nbytes
        return len(frames.encode_keyframe(FrameFacts("keyframe", "simulated", 0), weights))


def _change(update: Update) -> Flat:
    return update.change
