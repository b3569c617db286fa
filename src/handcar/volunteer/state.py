"""What a volunteer does next: events in, instructions out.

    state = State(rng=random.Random(), heartbeat_s=60)
    for instruction in state.on(event): run(instruction)

No I/O, no clock, no threads: every event carries its time, chance is passed in, so any
history can be replayed in a test. `join.py` runs the instructions and feeds back events.

The rules, in short:
- training begins with the first chunk and any version on disk, and never waits for the net;
- one thing of a kind is under way at a time, chunks excepted; what fails is tried again
  after a growing, jittered pause, for ever; only the server's "no" ends a thing;
- links that lead nowhere, or no longer, make it ask for its assignment anew, now and then;
- a chunk that had to go for others is fetched again after all that are not here;
- the newest version is fetched with the fate of own updates told in the same answer.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from handcar.protocol import limits
from handcar.protocol.messages import (
    Assignment,
    ChunkLink,
    HeartbeatReply,
    Message,
    RoundLimits,
    UpdateStatus,
)
from handcar.volunteer.events import (
    AT_ONCE,
    Assigned,
    Audited,
    ChunkHere,
    ChunksGone,
    Event,
    Failed,
    HeartbeatAnswered,
    LinksExpired,
    NoRoom,
    Started,
    StopAsked,
    Tick,
    TrainingEnded,
    UpdateAnswered,
    UpdateMade,
    UsedUp,
    WeightsHere,
)
from handcar.volunteer.instructions import (
    AddChunk,
    AskAssignment,
    BeginTraining,
    Drop,
    FetchChunk,
    FetchWeights,
    GoOn,
    Hold,
    Instruction,
    Leave,
    Prepare,
    RemoveChunk,
    SendHeartbeat,
    SendUpdate,
    Show,
    StopTraining,
    TakeUp,
    TrainAgain,
    key_of,
)
from handcar.volunteer.retry import pause

ASK_AGAIN_S = 1.0
"""After an update was sent, ask so soon whether there is a new version."""
IDLE_ASKS_S = 1.0
"""While training waits for a merge, ask so often whether it came."""
NEXT_CHUNK_S = 1.0
"""After a chunk failed no other is begun for so long, then twice as long, until one works."""
ROOM_S = 1.0
"""After there was no room for a chunk, look again so soon: one may have been gone through."""
NO_ROOM_FOR = 15
"""After so many looks another chunk is tried: this one may be larger than what can be freed."""
RENEW_S = 30.0
"""Fresh links are not asked for again for so long, then twice as long, until a chunk comes."""
NEVER_SOON = 20
"""The attempt that counts for the longest pause."""


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
    at_once: int = AT_ONCE
    failed_chunks: int = 0
    """In a row."""
    next_chunk_at: float = 0.0
    no_room: int = 0
    """How often in a row there was none for the chunk whose turn it is."""
    told_no_room: bool = False
    renewals: int = 0
    """How often fresh links were asked for since the last chunk came."""
    renew_at: float = 0.0
    fetching_weights: bool = False
    training: bool = False
    prepared: bool = False
    held: bool = False
    leaving: Leave | None = None
    outbox: list[UUID] = field(default_factory=list)
    sending: UUID | None = None
    pending: list[UUID] = field(default_factory=list)
    heartbeat_s: float = limits.HEARTBEAT_S
    heartbeat_at: float | None = None
    heartbeat_under_way: bool = False
    auditing: bool = False
    stands: bool = False
    """Whether rounds stand still while own updates wait (RoundLimits.longest_steps)."""
    set_back: int = 0
    """How often in a row the server told of an older version than the one held."""
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
        if self.wanted and len(self.fetching) < self._most_at_once():
            times.append(self.next_chunk_at)
        return max(0.0, min([time - now for time in times], default=limits.HEARTBEAT_S))

    def _started(self, found: Started, now: float) -> Iterator[Instruction]:
        self.version = found.version
        self.chunks = set(found.chunks)
        self.outbox = list(found.unsent)
        self.pending = list(found.pending)
        yield from self._ask()
        if found.assignment:  # from the last run: go on with it before the server answers
            self.assignment = found.assignment
            yield from self._begin_if_ready(now)
            yield from self._send_next()
            self.heartbeat_at = now

    def _assigned(self, event: Assigned, now: float) -> Iterator[Instruction]:
        assignment = event.assignment
        self._succeeded("assignment")
        self.asking = False
        self.assignment = assignment
        self.heartbeat_s = assignment.heartbeat_s
        self._note_round(assignment.round)
        self._forget_old_links()
        self.wanted = self._in_turn()
        if self.version is None and not self.fetching_weights:
            self.fetching_weights = True
            yield FetchWeights(assignment.series.newest)
            yield from self._prepare()
        yield from self._fetch_chunks(now)
        yield from self._begin_if_ready(now)
        yield from self._send_next()
        self.heartbeat_at = now

    def _note_round(self, asked: RoundLimits | None) -> None:
        if asked is not None:
            self.stands = asked.longest_steps is not None

    def _in_turn(self) -> list[ChunkLink]:
        """Return what is to be fetched: as it was going to be, else where the circle was left.

        That is after the chunks here: the longest stretch of those that are not begins there.
        """
        links = self.assignment.dataset if self.assignment else ()
        busy = self.chunks | self.fetching
        missing = [link.sha256 not in busy for link in links]
        start = _start_of_longest(missing) if self.chunks else 0
        before = {link.sha256: place for place, link in enumerate(self.wanted)}
        circle = [
            link
            for link in (*links[start:], *links[:start])
            if link.sha256 not in busy and f"chunk {link.sha256}" not in self.retries
        ]
        return sorted(circle, key=lambda link: before.get(link.sha256, len(before)))

    def _forget_old_links(self) -> None:
        """Don't wait before trying again what has fresh links now."""
        for link in self.assignment.dataset if self.assignment else ():
            retry = self.retries.get(f"chunk {link.sha256}")
            if retry and retry.instruction != FetchChunk(link):
                del self.retries[f"chunk {link.sha256}"]

    def _ask(self) -> Iterator[Instruction]:
        if not self.asking:
            self.asking = True
            yield AskAssignment()

    def _most_at_once(self) -> int:
        # Training begins with one chunk and the weights: until then nothing else shares the line.
        if self.training:
            return self.at_once
        return 0 if self.fetching_weights and self.held_chunks() else 1

    def _fetch_chunks(self, now: float) -> Iterator[Instruction]:
        while self.wanted and len(self.fetching) < self._most_at_once():
            if now < self.next_chunk_at:
                return
            link = self.wanted.pop(0)
            self.fetching.add(link.sha256)
            yield FetchChunk(link)

    def _chunk_here(self, event: ChunkHere, now: float) -> Iterator[Instruction]:
        digest = event.digest
        self._succeeded(f"chunk {digest}")
        self.failed_chunks = self.renewals = self.no_room = 0
        self.next_chunk_at = now
        self.at_once = event.at_once
        self.fetching.discard(digest)
        self.wanted = [link for link in self.wanted if link.sha256 != digest]
        self.chunks.add(digest)
        if self.training:
            yield AddChunk(digest)
        yield from self._prepare()
        yield from self._begin_if_ready(now)
        yield from self._fetch_chunks(now)

    def _chunks_gone(self, event: ChunksGone, now: float) -> Iterator[Instruction]:
        waiting = self.fetching | {link.sha256 for link in self.wanted}
        for digest in event.digests:
            self.chunks.discard(digest)
            link = self._link_of(digest)
            if link is None:
                continue
            if self.training:
                yield RemoveChunk(digest)
            if digest not in waiting and f"chunk {digest}" not in self.retries:
                self.wanted.append(link)
        yield from self._fetch_chunks(now)

    def _no_room(self, event: NoRoom, now: float) -> Iterator[Instruction]:
        """Look again soon: training goes on, and when a chunk was gone through it may go."""
        self._free(event.instruction)
        if not self.training:
            yield from self._chunk_failed(Failed(event.instruction, event.reason), now)
            return
        self.no_room += 1
        self.next_chunk_at = now + ROOM_S
        turn = 0 if self.no_room % NO_ROOM_FOR else len(self.wanted)
        link = event.instruction.link
        self.wanted.insert(turn, self._link_of(link.sha256) or link)
        if not self.told_no_room:
            self.told_no_room = True
            yield Show(
                f"{event.reason} They go round: one that was gone through makes room for the next."
            )

    def _weights_here(self, event: WeightsHere, now: float) -> Iterator[Instruction]:
        self._succeeded("weights")
        self.fetching_weights = False
        self.version = event.version
        self.set_back = 0
        self.pending = [id for id in self.pending if id not in event.merged]
        if self.training:
            yield TakeUp(event.version, event.merged)
        yield from self._begin_if_ready(now)
        yield from self._fetch_chunks(now)

    def _begin_if_ready(self, now: float) -> Iterator[Instruction]:
        ready = self.assignment and self.version is not None and self.held_chunks()
        if ready and not self.training and not self.held:
            self.training = True
            yield BeginTraining(tuple(self.pending))
            for digest in self.held_chunks():
                yield AddChunk(digest)
            yield from self._fetch_chunks(now)

    def _prepare(self) -> Iterator[Instruction]:
        held = self.held_chunks()
        if held and self.version is None and not self.prepared:
            self.prepared = True
            yield Prepare(held[0])

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
        self._note_round(reply.round)
        self.heartbeat_under_way = False
        self.heartbeat_s = reply.heartbeat_s
        self.heartbeat_at = now + self._until_heartbeat()
        self.seen = []
        for message in reply.messages:
            yield from self._hear(message)
        yield from self._give_up(s for s in reply.updates if s.state in ("refused", "expired"))
        yield from self._obey(reply, now)
        if not self.leaving:
            yield from self._follow(reply)
            yield from self._train_again(reply)

    def _train_again(self, reply: HeartbeatReply) -> Iterator[Instruction]:
        if reply.audit is not None and self.training and not (self.auditing or self.held):
            self.auditing = True
            yield TrainAgain(reply.audit)

    def _audited(self, event: Audited, now: float) -> Iterator[Instruction]:
        self.auditing = False
        yield Show(event.text)

    def _until_heartbeat(self) -> float:
        waits = self.assignment is not None and self.assignment.starts == "waits"
        # Training stands still, or soon does, until what was sent is merged or refused.
        idle = (waits or self.stands) and self.pending and not self.outbox
        return min(self.heartbeat_s, IDLE_ASKS_S) if idle else self.heartbeat_s

    def _hear(self, message: Message) -> Iterator[Instruction]:
        self.seen.append(message.id)
        yield Show(message.text, message.level, message.link)

    def _obey(self, reply: HeartbeatReply, now: float) -> Iterator[Instruction]:
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
                yield from self._begin_if_ready(now)

    def _follow(self, reply: HeartbeatReply) -> Iterator[Instruction]:
        waits = self.fetching_weights or "weights" in self.retries
        if self.version is None or waits or not self._is_other(reply.newest):
            return
        merged = tuple(
            status.id
            for status in reply.updates
            if status.state == "merged"
            and status.version is not None
            and status.version <= reply.newest
        )
        if reply.newest < self.version:
            # What a restored server does not know would be carried along for ever.
            merged = tuple(self.pending)
        self.fetching_weights = True
        yield FetchWeights(reply.newest, merged)

    def _is_other(self, newest: int) -> bool:
        """Say whether to take up the server's newest version.

        An older one too, once it was told twice in a row: the server was restored from a backup,
        and takes no update that starts from a version which it does not have.
        """
        assert self.version is not None  # noqa: S101 - its caller looked
        self.set_back = self.set_back + 1 if newest < self.version else 0
        return newest > self.version or self.set_back >= 2

    def _failed(self, event: Failed, now: float) -> Iterator[Instruction]:
        key = key_of(event.instruction)
        self._free(event.instruction)
        if isinstance(event.instruction, TrainAgain):
            return  # nobody waits for it, and the server draws another one
        if isinstance(event.instruction, FetchWeights) and self.version is not None:
            yield from self._hear_again(key, event, now)
            return
        if isinstance(event.instruction, FetchChunk):
            yield from self._chunk_failed(event, now)
            return
        if not event.retry:
            yield from self._refused_for_good(event)
            return
        attempt = self.failures[key] = self.failures.get(key, 0) + 1
        wait_s = max(pause(attempt, self.rng, first_s=event.first_s), event.after_s or 0.0)
        self.retries[key] = Retry(event.instruction, now + wait_s, attempt)
        if attempt == 1 or attempt % 10 == 0:
            goes_on = "Training goes on. " if self.training and not self.held else ""
            if isinstance(event.instruction, SendUpdate):
                goes_on = f"The update is kept. {goes_on}"
            yield Show(f"{event.reason} {goes_on}Trying again in {wait_s:.0f} s.", "warning")

    def _chunk_failed(self, event: Failed, now: float) -> Iterator[Instruction]:
        """Try it again later, and the others more slowly: what is wrong may be wrong for all."""
        key = key_of(event.instruction)
        attempt = self.failures[key] = self.failures.get(key, 0) + 1
        # Even a "no" is asked again, after the longest pause: an owner may mend a store.
        attempts = attempt if event.retry else NEVER_SOON
        wait_s = pause(attempts, self.rng, first_s=event.first_s)
        wait_s = max(wait_s, event.after_s or 0.0)
        self.retries[key] = Retry(event.instruction, now + wait_s, attempt)
        self.failed_chunks += 1
        self.next_chunk_at = now + pause(self.failed_chunks, self.rng, first_s=NEXT_CHUNK_S)
        # Once for all chunks that meet the same fault.
        if self.failed_chunks == 1 or self.failed_chunks % 10 == 0:
            goes_on = "Training goes on. " if self.training and not self.held else ""
            again = f"Trying again in {wait_s:.0f} s." if event.retry else ""
            yield Show(f"{event.reason} {goes_on}{again}".strip(), "warning")

    def _links_expired(self, event: LinksExpired, now: float) -> Iterator[Instruction]:
        self._free(event.instruction)
        fresh = self._link_of(event.instruction.link.sha256)
        if fresh and fresh != event.instruction.link:  # renewed while it was under way
            self.wanted.insert(0, fresh)
            yield from self._fetch_chunks(now)
            return
        yield from self._chunk_failed(Failed(event.instruction, event.reason), now)
        yield from self._renew(now)

    def _link_of(self, digest: str) -> ChunkLink | None:
        links = self.assignment.dataset if self.assignment else ()
        return next((link for link in links if link.sha256 == digest), None)

    def _renew(self, now: float) -> Iterator[Instruction]:
        """Ask for fresh links: at once, and for as long as they don't help ever more seldom."""
        if self.asking or "assignment" in self.retries:
            return
        if now < self.renew_at:
            self.retries["assignment"] = Retry(AskAssignment(), self.renew_at, 1)
            return
        yield from self._ask_anew(now)

    def _ask_anew(self, now: float) -> Iterator[Instruction]:
        self.renewals += 1
        self.renew_at = now + pause(self.renewals, self.rng, first_s=2 * RENEW_S)
        yield from self._ask()

    def _used_up(self, event: UsedUp, now: float) -> Iterator[Instruction]:
        self._free(event.instruction)
        if isinstance(event.instruction, TrainAgain):
            return
        due_at = now + event.after_s
        self.retries[key_of(event.instruction)] = Retry(event.instruction, due_at, 1)
        # Several chunks meet the same limit: the person hears of it once a day.
        if self.told_used_up.get(event.text, -1.0) < now:
            self.told_used_up[event.text] = due_at
            yield Show(event.text, "warning")
        if isinstance(event.instruction, FetchChunk):
            yield from self._fetch_chunks(now)

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
            case TrainAgain():
                self.auditing = False

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
            yield from self._again(self.retries.pop(key).instruction, now)
        yield from self._fetch_chunks(now)
        if self.heartbeat_at is not None and self.heartbeat_at <= now and self.assignment:
            yield from self._heartbeat()

    def _again(self, instruction: Instruction, now: float) -> Iterator[Instruction]:
        match instruction:
            case AskAssignment():
                yield from self._ask_anew(now)
            case FetchChunk(link):
                self.wanted.insert(0, self._link_of(link.sha256) or link)
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


def _start_of_longest(missing: list[bool]) -> int:
    """Return where the longest run of true begins, if the list is a circle."""
    longest = start = best = 0
    for place, one in enumerate([*missing, *missing]):
        if not one:
            start = place + 1
        elif place + 1 - start > longest:
            longest, best = place + 1 - start, start
    return best % max(1, len(missing))


HANDLERS: dict[type, Callable[[State, Any, float], Iterator[Instruction]]] = {
    Started: State._started,
    Assigned: State._assigned,
    ChunkHere: State._chunk_here,
    ChunksGone: State._chunks_gone,
    NoRoom: State._no_room,
    WeightsHere: State._weights_here,
    UpdateMade: State._update_made,
    UpdateAnswered: State._update_answered,
    HeartbeatAnswered: State._heartbeat_answered,
    Audited: State._audited,
    Failed: State._failed,
    LinksExpired: State._links_expired,
    UsedUp: State._used_up,
    TrainingEnded: State._training_ended,
    Tick: State._tick,
    StopAsked: State._stop_asked,
}
