"""What a volunteer does next: events in, instructions out.

    state = State(rng=random.Random(), heartbeat_s=60)
    for instruction in state.on(event): run(instruction)

No I/O, no clock, no threads: every event carries its time, chance is passed in, so any
history can be replayed in a test. `join.py` runs the instructions and feeds back events.

The rules, in short:
- training begins with the first chunk and any version on disk, and never waits for the net;
- one thing of a kind is under way at a time, chunks excepted; what fails is tried again
  after a growing, jittered pause, for ever; only the server's "no" ends a thing;
- the newest version is fetched with the fate of own updates told in the same answer.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from handcar.protocol import limits
from handcar.protocol.messages import (
    Assignment,
    ChunkLink,
    HeartbeatReply,
    Message,
    UpdateStatus,
)
from handcar.volunteer.retry import pause

PARALLEL_CHUNKS = 2
ASK_AGAIN_S = 1.0
"""After an update was sent, ask so soon whether there is a new version."""


# -- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The program runs; this is what it found on disk."""

    version: int | None = None
    chunks: frozenset[str] = frozenset()
    unsent: tuple[UUID, ...] = ()
    pending: tuple[UUID, ...] = ()
    assignment: Assignment | None = None


@dataclass(frozen=True, slots=True)
class Assigned:
    """The server said what to train."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class ChunkHere:
    """A chunk is on disk, verified and decoded."""

    digest: str


@dataclass(frozen=True, slots=True)
class WeightsHere:
    """The weights of a version are on disk, verified; `merged` own updates are part of it."""

    version: int
    merged: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class UpdateMade:
    """A round ended; its update is on disk and in the journal."""

    id: UUID


@dataclass(frozen=True, slots=True)
class UpdateAnswered:
    """The server took an update's bytes, or said that it does not want them."""

    status: UpdateStatus


@dataclass(frozen=True, slots=True)
class HeartbeatAnswered:
    """The server answered a heartbeat."""

    reply: HeartbeatReply


@dataclass(frozen=True, slots=True)
class Failed:
    """An instruction failed; `retry` false means that trying again won't help."""

    instruction: Instruction
    reason: str
    retry: bool = True
    after_s: float | None = None
    """How long the other side asked us to wait."""


@dataclass(frozen=True, slots=True)
class UsedUp:
    """An instruction was not run to its end: what the person allows today is used up."""

    instruction: Instruction
    text: str
    after_s: float
    """Seconds until the next day begins."""


@dataclass(frozen=True, slots=True)
class TrainingEnded:
    """The training thread has stopped; a reason if it was not asked to."""

    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The person pressed Ctrl-C, or the system asks the program to end."""


Event = (
    Started
    | Assigned
    | ChunkHere
    | WeightsHere
    | UpdateMade
    | UpdateAnswered
    | HeartbeatAnswered
    | Failed
    | UsedUp
    | TrainingEnded
    | Tick
    | StopAsked
)


# -- instructions ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskAssignment:
    """Ask the server what to train."""


@dataclass(frozen=True, slots=True)
class FetchChunk:
    """Fetch one chunk."""

    link: ChunkLink


@dataclass(frozen=True, slots=True)
class FetchWeights:
    """Fetch the weights of a version; `merged` own updates are part of it."""

    version: int
    merged: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class BeginTraining:
    """Start the training thread on the version held, carrying these own updates."""

    pending: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class AddChunk:
    """Let the training use one more chunk from now on."""

    digest: str


@dataclass(frozen=True, slots=True)
class TakeUp:
    """Go on from this version at the next round, without the `merged` updates to carry."""

    version: int
    merged: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget own updates that will never be merged, and why."""

    ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class SendUpdate:
    """Announce one update and send its bytes."""

    id: UUID


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    """Say where we are, and hear what is new."""

    pending: tuple[UUID, ...]
    seen: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Hold:
    """Stop training until told otherwise."""


@dataclass(frozen=True, slots=True)
class GoOn:
    """Train again after Hold."""


@dataclass(frozen=True, slots=True)
class StopTraining:
    """Save a checkpoint and end the training thread."""


@dataclass(frozen=True, slots=True)
class Show:
    """Tell the person something."""

    text: str
    level: Literal["info", "warning", "error"] = "info"
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """Say goodbye and end the program."""

    text: str
    exit_code: int = 0
    again: bool = False
    """Ask the server for something else to train."""


Instruction = (
    AskAssignment
    | FetchChunk
    | FetchWeights
    | BeginTraining
    | AddChunk
    | TakeUp
    | Drop
    | SendUpdate
    | SendHeartbeat
    | Hold
    | GoOn
    | StopTraining
    | Show
    | Leave
)


@dataclass(slots=True)
class Retry:
    """Something that failed: when to try again, and how often it failed in a row."""

    instruction: Instruction
    due_at: float
    attempt: int


@dataclass(slots=True)
class State:
    """All that decides what a volunteer does next."""

    rng: random.Random
    assignment: Assignment | None = None
    asking: bool = False
    version: int | None = None
    chunks: set[str] = field(default_factory=set)
    wanted: list[ChunkLink] = field(default_factory=list)
    fetching: set[str] = field(default_factory=set)
    fetching_weights: bool = False
    training: bool = False
    held: bool = False
    leaving: Leave | None = None
    outbox: list[UUID] = field(default_factory=list)
    sending: UUID | None = None
    pending: list[UUID] = field(default_factory=list)
    heartbeat_s: float = limits.HEARTBEAT_S
    heartbeat_at: float | None = None
    heartbeat_under_way: bool = False
    seen: list[int] = field(default_factory=list)
    retries: dict[str, Retry] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    told_used_up: dict[str, float] = field(default_factory=dict)
    """Which limits the person heard of, and until when that is enough."""

    def on(self, event: Event, *, now: float) -> list[Instruction]:
        """Take in one event at a time `now` (seconds, any origin); return what to do."""
        if self.leaving and not isinstance(event, TrainingEnded | UpdateMade):
            return []
        return list(HANDLERS[type(event)](self, event, now))

    def next_wake(self, now: float) -> float:
        """Return in how many seconds a Tick is of use."""
        times = [retry.due_at for retry in self.retries.values()]
        if self.heartbeat_at is not None and not self.heartbeat_under_way:
            times.append(self.heartbeat_at)
        return max(0.0, min([time - now for time in times], default=limits.HEARTBEAT_S))

    def _started(self, found: Started, now: float) -> Iterator[Instruction]:
        self.version = found.version
        self.chunks = set(found.chunks)
        self.outbox = list(found.unsent)
        self.pending = list(found.pending)
        yield from self._ask()
        if found.assignment:  # from the last run: go on with it before the server answers
            self.assignment = found.assignment
            yield from self._begin_if_ready()
            yield from self._send_next()
            self.heartbeat_at = now

    def _assigned(self, event: Assigned, now: float) -> Iterator[Instruction]:
        assignment = event.assignment
        self._succeeded("assignment")
        self.asking = False
        self.assignment = assignment
        self.heartbeat_s = assignment.heartbeat_s
        self.wanted = [
            link
            for link in assignment.dataset
            if link.sha256 not in self.chunks | self.fetching
            and f"chunk {link.sha256}" not in self.retries
        ]
        if self.version is None and not self.fetching_weights:
            self.fetching_weights = True
            yield FetchWeights(assignment.series.newest)
        yield from self._fetch_chunks()
        yield from self._begin_if_ready()
        yield from self._send_next()
        self.heartbeat_at = now

    def _ask(self) -> Iterator[Instruction]:
        if not self.asking:
            self.asking = True
            yield AskAssignment()

    def _fetch_chunks(self) -> Iterator[Instruction]:
        # Until training runs, one chunk shares the line with the weights; then several.
        at_once = PARALLEL_CHUNKS if self.training else 1
        while self.wanted and len(self.fetching) < at_once:
            link = self.wanted.pop(0)
            self.fetching.add(link.sha256)
            yield FetchChunk(link)

    def _chunk_here(self, event: ChunkHere, now: float) -> Iterator[Instruction]:
        digest = event.digest
        self._succeeded(f"chunk {digest}")
        self.fetching.discard(digest)
        self.chunks.add(digest)
        if self.training:
            yield AddChunk(digest)
        yield from self._begin_if_ready()
        yield from self._fetch_chunks()

    def _weights_here(self, event: WeightsHere, now: float) -> Iterator[Instruction]:
        self._succeeded("weights")
        self.fetching_weights = False
        self.version = event.version
        self.pending = [id for id in self.pending if id not in event.merged]
        if self.training:
            yield TakeUp(event.version, event.merged)
        yield from self._begin_if_ready()

    def _begin_if_ready(self) -> Iterator[Instruction]:
        ready = self.assignment and self.version is not None and self.held_chunks()
        if ready and not self.training and not self.held:
            self.training = True
            yield BeginTraining(tuple(self.pending))
            for digest in self.held_chunks():
                yield AddChunk(digest)
            yield from self._fetch_chunks()

    def held_chunks(self) -> list[str]:
        """Return the digests of the assignment's chunks that are on disk, in its order."""
        if not self.assignment:
            return []
        links = self.assignment.dataset
        return [link.sha256 for link in links if link.sha256 in self.chunks]

    def _update_made(self, event: UpdateMade, now: float) -> Iterator[Instruction]:
        self.outbox.append(event.id)
        self.pending.append(event.id)
        if not self.leaving:
            yield from self._send_next()

    def _send_next(self) -> Iterator[Instruction]:
        if self.sending is None and self.outbox and "update" not in self.retries:
            self.sending = self.outbox[0]
            yield SendUpdate(self.sending)

    def _update_answered(self, event: UpdateAnswered, now: float) -> Iterator[Instruction]:
        status = event.status
        self._succeeded("update")
        self.sending = None
        if status.id in self.outbox:
            self.outbox.remove(status.id)
        if status.state in ("refused", "expired"):
            yield from self._give_up([status])
            self._heartbeat_soon(now)  # the server may have more to say than to this update
        yield from self._send_next()
        self._heartbeat_soon(now + ASK_AGAIN_S)

    def _give_up(self, statuses: Iterable[UpdateStatus]) -> Iterator[Instruction]:
        gone = {
            status.id: status.reason or f"its state is {status.state}"
            for status in statuses
            if status.id in self.pending
        }
        if not gone:
            return
        self.pending = [id for id in self.pending if id not in gone]
        for reason, count in Counter(gone.values()).items():
            what = "An update was" if count == 1 else f"{count} updates were"
            yield Show(f"{what} not merged: {reason}.".replace("..", "."), "warning")
        yield Drop(tuple(gone))

    def _heartbeat_answered(self, event: HeartbeatAnswered, now: float) -> Iterator[Instruction]:
        reply = event.reply
        self._succeeded("heartbeat")
        self.heartbeat_under_way = False
        self.heartbeat_s = reply.heartbeat_s
        self.heartbeat_at = now + reply.heartbeat_s
        self.seen = []
        for message in reply.messages:
            yield from self._hear(message)
        yield from self._give_up(s for s in reply.updates if s.state in ("refused", "expired"))
        yield from self._obey(reply)
        if not self.leaving:
            yield from self._follow(reply)

    def _hear(self, message: Message) -> Iterator[Instruction]:
        self.seen.append(message.id)
        yield Show(message.text, message.level, message.link)

    def _obey(self, reply: HeartbeatReply) -> Iterator[Instruction]:
        reason = reply.reason or ""
        match reply.order:
            case "stop":
                yield from self._stop(reason or "The server asks to stop here.", 0)
            case "switch":
                reason = reason or "The server asks to train something else."
                yield from self._stop(reason, 0, again=True)
            case "pause" if not self.held:
                self.held = True
                yield Hold()
                yield Show(f"Paused by the server. {reason}".strip())
            case "upgrade":
                yield Show(reason or "This client is too old: please upgrade it.", "warning")
            case "carry on" if self.held:
                self.held = False
                yield Show("The server asks to go on.")
                yield GoOn()
                yield from self._begin_if_ready()

    def _follow(self, reply: HeartbeatReply) -> Iterator[Instruction]:
        waits = self.fetching_weights or "weights" in self.retries
        if self.version is None or waits or reply.newest <= self.version:
            return
        merged = tuple(
            status.id
            for status in reply.updates
            if status.state == "merged"
            and status.version is not None
            and status.version <= reply.newest
        )
        self.fetching_weights = True
        yield FetchWeights(reply.newest, merged)

    def _failed(self, event: Failed, now: float) -> Iterator[Instruction]:
        key = key_of(event.instruction)
        self._free(event.instruction)
        if isinstance(event.instruction, FetchWeights) and self.version is not None:
            yield from self._hear_again(key, event, now)
            return
        if not event.retry:
            yield from self._refused_for_good(event)
            return
        attempt = self.failures[key] = self.failures.get(key, 0) + 1
        wait_s = max(pause(attempt, self.rng), event.after_s or 0.0)
        self.retries[key] = Retry(event.instruction, now + wait_s, attempt)
        if attempt == 1 or attempt % 10 == 0:
            goes_on = "Training goes on. " if self.training and not self.held else ""
            if isinstance(event.instruction, SendUpdate):
                goes_on = f"The update is kept. {goes_on}"
            yield Show(f"{event.reason} {goes_on}Trying again in {wait_s:.0f} s.", "warning")
        if isinstance(event.instruction, FetchChunk):
            yield from self._fetch_chunks()

    def _used_up(self, event: UsedUp, now: float) -> Iterator[Instruction]:
        self._free(event.instruction)
        due_at = now + event.after_s
        self.retries[key_of(event.instruction)] = Retry(event.instruction, due_at, 1)
        # Several chunks meet the same limit: the person hears of it once a day.
        if self.told_used_up.get(event.text, -1.0) < now:
            self.told_used_up[event.text] = due_at
            yield Show(event.text, "warning")
        if isinstance(event.instruction, FetchChunk):
            yield from self._fetch_chunks()

    def _hear_again(self, key: str, event: Failed, now: float) -> Iterator[Instruction]:
        # Frames are retired in time: hear what is newest by now before fetching again.
        attempt = self.failures[key] = self.failures.get(key, 0) + 1
        self._heartbeat_soon(now + pause(attempt, self.rng, first_s=ASK_AGAIN_S))
        if attempt % 5 == 0:
            yield Show(f"{event.reason} The newest version can't be fetched yet.", "warning")

    def _refused_for_good(self, event: Failed) -> Iterator[Instruction]:
        yield Show(event.reason, "error")
        if isinstance(event.instruction, AskAssignment) and not self.training:
            yield from self._stop(event.reason, 4)

    def _free(self, instruction: Instruction) -> None:
        match instruction:
            case AskAssignment():
                self.asking = False
            case FetchChunk(link):
                self.fetching.discard(link.sha256)
            case FetchWeights():
                self.fetching_weights = False
            case SendUpdate():
                self.sending = None
            case SendHeartbeat():
                self.heartbeat_under_way = False

    def _succeeded(self, key: str) -> None:
        self.failures.pop(key, None)
        self.retries.pop(key, None)

    def _training_ended(self, event: TrainingEnded, now: float) -> Iterator[Instruction]:
        self.training = False
        if event.reason and not self.leaving:
            self.leaving = Leave(event.reason, 1)
        if self.leaving:
            yield self.leaving

    def _tick(self, event: Tick, now: float) -> Iterator[Instruction]:
        due = [key for key, retry in self.retries.items() if retry.due_at <= now]
        for key in due:
            yield from self._again(self.retries.pop(key).instruction)
        if self.heartbeat_at is not None and self.heartbeat_at <= now and self.assignment:
            yield from self._heartbeat()

    def _again(self, instruction: Instruction) -> Iterator[Instruction]:
        match instruction:
            case AskAssignment():
                yield from self._ask()
            case FetchChunk(link):
                self.fetching.add(link.sha256)
                yield instruction
            case FetchWeights():
                # What is newest may have changed meanwhile.
                yield from self._ask()
            case SendUpdate():
                yield from self._send_next()
            case SendHeartbeat():
                yield from self._heartbeat()
            case _:
                yield instruction

    def _heartbeat(self) -> Iterator[Instruction]:
        if not self.heartbeat_under_way and "heartbeat" not in self.retries:
            self.heartbeat_under_way = True
            yield SendHeartbeat(tuple(self.pending), tuple(self.seen))

    def _heartbeat_soon(self, at: float) -> None:
        if self.heartbeat_at is None or at < self.heartbeat_at:
            self.heartbeat_at = at

    def _stop_asked(self, event: StopAsked, now: float) -> Iterator[Instruction]:
        yield from self._stop("Stopped. Run the same command to go on from here.", 130)

    def _stop(self, text: str, exit_code: int, *, again: bool = False) -> Iterator[Instruction]:
        self.leaving = Leave(text, exit_code, again)
        if self.training:
            yield StopTraining()
        else:
            yield self.leaving


def key_of(instruction: Instruction) -> str:
    """Return what a failure of this instruction is counted under."""
    match instruction:
        case AskAssignment():
            return "assignment"
        case FetchChunk(link):
            return f"chunk {link.sha256}"
        case FetchWeights():
            return "weights"
        case SendUpdate():
            return "update"
        case SendHeartbeat():
            return "heartbeat"
        case _:
            return type(instruction).__name__


HANDLERS: dict[type, Callable[[State, Any, float], Iterator[Instruction]]] = {
    Started: State._started,
    Assigned: State._assigned,
    ChunkHere: State._chunk_here,
    WeightsHere: State._weights_here,
    UpdateMade: State._update_made,
    UpdateAnswered: State._update_answered,
    HeartbeatAnswered: State._heartbeat_answered,
    Failed: State._failed,
    UsedUp: State._used_up,
    TrainingEnded: State._training_ended,
    Tick: State._tick,
    StopAsked: State._stop_asked,
}
