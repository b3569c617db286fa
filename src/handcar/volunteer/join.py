"""The loop: run the state's instructions, feed back what came of them.

main thread        state, instructions, signals
training thread    Keras (training.py)
one thread a kind  chunks, weights, updates, heartbeats, each its own small pool, so
                   that a long upload never delays a heartbeat
"""

from __future__ import annotations

import logging
import math
import queue
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from handcar import __version__, files
from handcar.data.blocks import Block, BlockStore
from handcar.data.order import Sampler
from handcar.errors import (
    Broken,
    ChunkError,
    Corrupt,
    DiskFull,
    HandcarError,
    LinkGone,
    Problem,
    Unreachable,
)
from handcar.protocol import problems
from handcar.protocol.messages import (
    Assignment,
    Frame,
    Heartbeat,
    Link,
    UpdateAnnouncement,
)
from handcar.volunteer import events, instructions, uploads
from handcar.volunteer.auditing import Auditor
from handcar.volunteer.budget import Allowance
from handcar.volunteer.downloads import MOST_AT_ONCE, Downloads
from handcar.volunteer.events import Event, Failed
from handcar.volunteer.folder import Home, Task
from handcar.volunteer.hosts import Hosts
from handcar.volunteer.instructions import Instruction
from handcar.volunteer.line import Line, UsedUp
from handcar.volunteer.opentask import (
    KEPT_FREE,
    Needs,
    OpenTask,
    how_long_it_takes,
    needs_of,
    open_task,
    what_it_takes,
)
from handcar.volunteer.pacing import Pacing
from handcar.volunteer.rotation import Rotation
from handcar.volunteer.rounds import Inbox, Rounds
from handcar.volunteer.screen import Screen, Sending, Snapshot
from handcar.volunteer.state import State
from handcar.volunteer.talk import Server
from handcar.volunteer.training import Plan, Progress, Training
from handcar.volunteer.trust import expect_signed

if TYPE_CHECKING:
    from handcar.modelfile.trainer import Network

log = logging.getLogger(__name__)

LOOK_S = 0.5
MAY_BECOME_YES = frozenset(
    problem.type
    for problem in (
        problems.NOTHING_TO_TRAIN,
        problems.TOO_MANY,
        problems.SERVER_FULL,
        problems.SERVER_FAULT,
        problems.BAD_DIGEST,
        problems.WRONG_OFFSET,
    )
)


@dataclass(frozen=True)
class Options:
    """What the person who runs `handcar join` may say."""

    url: str
    home: Home
    name: str
    model_id: str | None = None
    allowance: Allowance = field(default_factory=Allowance)
    disk_bytes: int | None = None
    """What chunks may take of the disk, decoded ones included."""
    audits_on: str | None = None
    """Keras's backend, if rounds of others may be trained again here."""


def join(options: Options, screen: Screen) -> int:
    """Train for a server until it is done, the person stops it, or nothing can be done.

    Returns the exit code. Raises HandcarError for what can't be mended by waiting.
    """
    while True:
        with Volunteer(options, screen) as volunteer:
            code = volunteer.run()
        if options.model_id or not volunteer.again:
            return code


class Volunteer:
    """One run of `handcar join`."""

    def __init__(self, options: Options, screen: Screen) -> None:
        self._options = options
        self._screen = screen
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._inbox = Inbox()
        self._line = Line(options.allowance, options.home.line, stop=self._inbox.stop)
        self._server = Server(options.url, self._line)
        self._hosts = Hosts(options.home.hosts)
        self._downloads = Downloads(
            self._server.files,
            self._line,
            self._hosts,
            say=lambda text: screen.say(text, "warning"),
            stop=self._inbox.stop,
        )
        self._blocks = BlockStore(options.home.blocks, budget_bytes=options.disk_bytes)
        self._state = State(rng=random.Random())  # noqa: S311 - jitter
        self._rotation = Rotation(self._blocks, self._hosts, self._line, returns=self._chunk_here)
        self._blocks.on_gone = lambda digests: self._events.put(events.ChunksGone(tuple(digests)))
        self._training: Training | None = None
        self._pacing: Pacing | None = None
        self._network: Future[Network] | None = None
        self._sending: Sending | None = None
        self._merged_updates = 0
        self._bytes_saved = 0
        self._exit_code: int | None = None
        self.again = False
        """Whether the server has something else to train."""
        self._auditor = Auditor(
            self._server, self._blocks, self._inbox, fetch=self._fetch_aside, came=self._chunk_here
        )
        self._task: OpenTask | None = None
        self._untold: Needs | None = None
        """What the person is still to hear the time of, once the line's speed is known."""
        self._pools = {
            instructions.FetchChunk: ThreadPoolExecutor(MOST_AT_ONCE, "chunks"),
            instructions.FetchWeights: ThreadPoolExecutor(1, "weights"),
            instructions.SendUpdate: ThreadPoolExecutor(1, "updates"),
            instructions.SendHeartbeat: ThreadPoolExecutor(1, "heartbeats"),
            instructions.AskAssignment: ThreadPoolExecutor(1, "assignments"),
            instructions.TrainAgain: ThreadPoolExecutor(1, "audits"),
        }

    def __enter__(self) -> Volunteer:
        return self

    def __exit__(self, *_: object) -> None:
        self._inbox.stop.set()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self._server.close()
        self._line.close()
        self._hosts.keep()

    def run(self) -> int:
        """Run until the state says Leave; return the exit code."""
        # Loading Keras takes seconds: they pass while the first bytes come in.
        threading.Thread(target=_load_keras, name="load keras", daemon=True).start()
        if limits := self._options.allowance.in_words():
            self._screen.say(limits)
        with _signals(lambda: self._events.put(events.StopAsked())):
            self._feed(self._found())
            while self._exit_code is None:
                self._feed(self._next_event())
                self._pace()
                self._tell_how_long()
                self._screen.show(self.snapshot())
        return self._exit_code

    def snapshot(self) -> Snapshot:
        """Return how things stand."""
        assignment = self._state.assignment
        return Snapshot(
            model_id=assignment.id if assignment else None,
            version=self._state.version,
            progress=self._training.progress if self._training else Progress(),
            chunks=len(self._state.held_chunks()),
            chunks_in_all=len(assignment.dataset) if assignment else 0,
            waiting_updates=len(self._state.pending),
            merged_updates=self._merged_updates,
            bytes_up=self._line.up,
            bytes_down=self._line.down,
            bytes_saved=self._bytes_saved,
            up_bytes_per_s=self._line.bytes_per_s("up"),
            down_bytes_per_s=self._line.bytes_per_s("down"),
            sending=self._sending,
            round_seconds=self._pacing.budget.min_seconds if self._pacing else 0.0,
            held=self._state.held,
        )

    def _pace(self) -> None:
        """Let rounds be as long as the budgets now say, and tell the person when that is news."""
        if self._pacing is None:
            return
        if self._training:
            self._pacing.was_between(self._training.between_s)
        if text := self._pacing.renew():
            self._screen.say(text)
        if self._training:
            self._training.budget = self._pacing.budget

    def _tell_how_long(self) -> None:
        """Say when training begins, as soon as the line's speed is known."""
        needs, rate = self._untold, self._line.down_expected()
        if needs and rate:
            self._untold = None
            self._screen.say(how_long_it_takes(needs, rate))

    # -- events

    def _next_event(self) -> Event:
        wait_s = min(self._state.next_wake(time.monotonic()), LOOK_S)
        try:
            return self._events.get(timeout=max(wait_s, 0.01))
        except queue.Empty:
            return events.Tick()

    def _feed(self, event: Event) -> None:
        for instruction in self._state.on(event, now=time.monotonic()):
            self._run(instruction)

    def _found(self) -> Event:
        """Say what is on disk, from which to go on at once."""
        model_id = self._options.model_id or self._options.home.last_task(self._options.url)
        chunks = frozenset(self._blocks.digests())
        identity = self._options.home.identity(self._options.url)
        if model_id and identity:
            folder = self._options.home.task(self._options.url, model_id)
            if assignment := folder.assignment():
                self._server.use_token(identity.token)
                task = self._open(folder, assignment, folder.model_file.read_bytes())
                return events.Started(
                    version=task.keeper.version,
                    chunks=chunks,
                    unsent=task.recalled.unsent,
                    pending=task.recalled.pending,
                    assignment=assignment,
                )
        return events.Started(chunks=chunks)

    def _open(self, folder: Task, assignment: Assignment, raw: bytes) -> OpenTask:
        self._task = open_task(folder, assignment, raw)
        self._blocks.keep_free_bytes = KEPT_FREE * self._task.layout.size
        self._rotation.use_links(assignment.dataset)
        sizes = [update.size for update in self._task.announcements.values()]
        self._pacing = Pacing(assignment, self._line, sizes)
        return self._task

    # -- instructions: those that take time go to a pool, the others are done here

    def _run(self, instruction: Instruction) -> None:
        if pool := self._pools.get(type(instruction)):
            pool.submit(self._try, instruction)
        else:
            DO_NOW[type(instruction)](self, instruction)

    def _try(self, instruction: Instruction) -> None:
        """Run one instruction in a pool; its outcome, good or bad, becomes an event."""
        try:
            self._events.put(IN_POOL[type(instruction)](self, instruction))
        except UsedUp as limit:
            self._events.put(events.UsedUp(instruction, str(limit), limit.after_s))
        except LinkGone as gone:
            self._events.put(self._gone(instruction, gone))
        except Problem as problem:
            retry = problem.type in MAY_BECOME_YES or problem.status >= 500
            self._events.put(Failed(instruction, _sentence(problem), retry=retry))
        except Unreachable as error:
            after_s = getattr(error, "retry_after_s", None)
            broke = isinstance(error, Broken)
            self._events.put(Failed(instruction, _sentence(error), after_s=after_s, broke=broke))
        except (Corrupt, DiskFull) as error:
            self._events.put(Failed(instruction, _sentence(error)))
        except HandcarError as error:
            self._events.put(Failed(instruction, _sentence(error), retry=False))
        except Exception as error:
            log.exception("%s failed", type(instruction).__name__)
            self._events.put(Failed(instruction, f"{type(error).__name__}: {error}."))

    def _gone(self, instruction: Instruction, gone: LinkGone) -> Event:
        if isinstance(instruction, instructions.FetchChunk):
            return events.LinksExpired(instruction, _sentence(gone))
        # Frames are asked for by their version, and the series is read anew each time.
        return Failed(instruction, _sentence(gone))

    def _ask_assignment(self, _: instructions.AskAssignment) -> Event:
        home, url = self._options.home, self._options.url
        identity = home.identity(url)
        if identity is None:
            identity = self._server.join(self._options.name)
            home.keep_identity(url, identity)
        self._server.use_token(identity.token)
        wanted = self._task.assignment.id if self._task else self._options.model_id
        assignment = self._server.assignment(wanted)
        expect_signed(assignment, home.signing_key(url), url)
        if self._task is None:
            self._begin_task(assignment)
        else:
            self._task.folder.keep_assignment(assignment)
            self._rotation.use_links(assignment.dataset)
            self._required_pacing().ask(assignment.round)
            self._task.schedule.hear(assignment.series.newest, assignment.round)
        return events.Assigned(assignment)

    def _begin_task(self, assignment: Assignment) -> None:
        raw = self._bytes_of(assignment.configuration)
        folder = self._options.home.task(self._options.url, assignment.id)
        task = self._open(folder, assignment, raw)
        files.write(folder.model_file, raw)
        folder.keep_assignment(assignment)
        self._options.home.keep_task(self._options.url, assignment.id)
        here, disk_bytes = frozenset(self._blocks.digests()), self._options.disk_bytes
        needs = needs_of(assignment, task.layout, here, disk_bytes or math.inf)
        self._screen.say(what_it_takes(needs))
        self._untold = needs

    def _fetch_chunk(self, instruction: instructions.FetchChunk) -> Event:
        link = instruction.link
        try:
            self._blocks.make_room_for(link.size)
            path = self._fetch(link)
            self._blocks.add(link.sha256, path)
        except DiskFull as full:
            self._rotation.let_one_go()
            return events.NoRoom(instruction, _sentence(full))
        path.unlink(missing_ok=True)
        self._rotation.let_stay()
        return events.ChunkHere(link.sha256, self._downloads.at_once)

    def _fetch_weights(self, instruction: instructions.FetchWeights) -> Event:
        task = self._required_task()
        series = self._server.series(task.assignment.id)
        held, sizes = task.keeper.version, list[int]()

        def fetch(frame: Frame) -> bytes:
            sizes.append(frame.size)
            return self._bytes_of(frame)

        weights = task.keeper.follow(series, instruction.version, fetch)
        if held is not None:
            self._required_pacing().took_up(sum(sizes))
        # The journal first: weights on disk whose own updates are not known to be in them
        # would have these added a second time after a restart.
        task.journal.merged(instruction.version, instruction.merged)
        task.keeper.keep(instruction.version, weights)
        return events.WeightsHere(instruction.version, instruction.merged)

    def _bytes_of(self, link: Link) -> bytes:
        """Fetch a small file or a frame, from wherever it comes best."""
        path = self._fetch(link)
        data = path.read_bytes()
        path.unlink(missing_ok=True)
        return data

    def _fetch(self, link: Link) -> Path:
        path = self._options.home.parts / link.sha256.removeprefix("sha256:")
        self._downloads.fetch(link, path)
        self._hosts.keep()
        return path

    def _fetch_aside(self, link: Link, name: str) -> Path:
        """Fetch to a file of its own, as another thread may fetch the same for our training."""
        path = self._options.home.parts / f"{name}-{link.sha256.removeprefix('sha256:')}"
        self._downloads.fetch(link, path)
        return path

    def _chunk_here(self, digest: str) -> None:
        self._events.put(events.ChunkHere(digest, self._downloads.at_once))

    def _train_again(self, instruction: instructions.TrainAgain) -> Event:
        task = self._required_task()
        return events.Audited(self._auditor.audit(instruction.id, task, self._rotation.links))

    def _send_update(self, instruction: instructions.SendUpdate) -> Event:
        task = self._required_task()
        announcement = task.announcements[instruction.id]
        self._line.expect_room("up")
        path = task.folder.update(instruction.id)

        def on_sent(count: int) -> None:
            self._sending = Sending(count, announcement.size)

        try:
            status = uploads.send(self._server, announcement, path, on_sent)
        finally:
            self._sending = None
        task.journal.sent(instruction.id)
        return events.UpdateAnswered(status)

    def _send_heartbeat(self, instruction: instructions.SendHeartbeat) -> Event:
        body = self._heartbeat(instruction.pending, instruction.seen)
        reply = self._server.heartbeat(body)
        if reply.round and self._pacing:
            self._pacing.ask(reply.round)
            self._required_task().schedule.hear(reply.newest, reply.round)
        return events.HeartbeatAnswered(reply)

    def _heartbeat(self, pending: tuple[UUID, ...], seen: tuple[int, ...]) -> Heartbeat:
        now = self.snapshot()
        activity = "paused" if now.held else "training" if self._training else "downloading"
        return Heartbeat.model_validate(
            {
                "model_id": now.model_id,
                "version": -1 if now.version is None else now.version,
                "step": now.progress.steps,
                "records": now.progress.records,
                "steps_per_second": now.progress.steps_per_second,
                "loss": now.progress.loss,
                "chunks": now.chunks,
                "activity": "leaving" if self._state.leaving else activity,
                "bytes_up": now.bytes_up,
                "bytes_down": now.bytes_down,
                "pending": pending[:64],
                "seen_messages": seen[:64],
                "liars": self._downloads.untold_liars(),
                "audits_on": self._options.audits_on if self._training else None,
                "client_version": __version__,
            }
        )

    def _prepare(self, instruction: instructions.Prepare) -> None:
        task = self._required_task()

        def ready() -> Network:
            from handcar.modelfile.trainer import Network

            network = Network(task.model_file, task.layout, seed=random.getrandbits(31))
            try:
                columns = self._blocks.open(instruction.digest).columns
                network.warm_up(columns["x"], columns["y"])
            except (ChunkError, DiskFull, OSError, KeyError) as error:
                log.info("the model is compiled later: %s", error)  # the sampler looks closer
            return network

        pool = ThreadPoolExecutor(1, "model")
        self._network = pool.submit(ready)
        pool.shutdown(wait=False)

    def _begin_training(self, instruction: instructions.BeginTraining) -> None:
        task = self._required_task()
        plan = Plan(
            task=task.folder,
            model_file=task.model_file,
            layout=task.layout,
            budget=self._required_pacing().budget,
            seed=random.getrandbits(31),
            schedule=task.schedule,
            steps_before=task.recalled.steps,
            records_before=task.recalled.records,
            round_before=task.recalled.last_round,
            network=self._network.result if self._network else None,
        )
        self._network = None
        rounds = Rounds(
            task.folder,
            model_id=task.assignment.id,
            layout=task.layout,
            base=task.keeper.newest(),
            pending={id: task.announcements[id].records for id in instruction.pending},
            journal=task.journal,
            update_step=task.assignment.update_step,
            starts=task.assignment.starts,
        )
        sampler = Sampler(
            self._open_block,
            batch_size=task.model_file.batch_size,
            seed=random.getrandbits(48),
        )
        self._rotation.begin(sampler)
        self._training = Training(
            plan,
            rounds=rounds,
            sampler=sampler,
            inbox=self._inbox,
            made=self._made,
            say=lambda text: self._screen.say(text, "warning"),
            ended=lambda reason: self._events.put(events.TrainingEnded(reason)),
        )

    def _open_block(self, digest: str) -> Block:
        try:
            return self._blocks.open(digest)
        except ChunkError:
            self._blocks.drop(digest)  # and is fetched again
            raise

    def _add_chunk(self, instruction: instructions.AddChunk) -> None:
        self._rotation.add(instruction.digest)
        if self._training and not self._training.ident:
            self._training.start()

    def _remove_chunk(self, instruction: instructions.RemoveChunk) -> None:
        self._rotation.remove(instruction.digest)

    def _made(self, announcement: UpdateAnnouncement) -> None:
        task = self._required_task()
        task.announcements[announcement.id] = announcement
        self._bytes_saved += max(0, 4 * task.layout.size - announcement.size)
        self._required_pacing().made(announcement.size)
        self._events.put(events.UpdateMade(announcement.id))

    def _take_up(self, instruction: instructions.TakeUp) -> None:
        self._merged_updates += len(instruction.merged)
        self._inbox.take_up(*self._required_task().keeper.newest(), instruction.merged)

    def _drop(self, instruction: instructions.Drop) -> None:
        self._required_task().journal.dropped(instruction.ids)
        self._inbox.drop(instruction.ids)

    def _hold(self, _: instructions.Hold) -> None:
        self._inbox.hold.set()

    def _go_on(self, _: instructions.GoOn) -> None:
        self._inbox.hold.clear()

    def _stop_training(self, _: instructions.StopTraining) -> None:
        self._inbox.stop.set()

    def _show(self, instruction: instructions.Show) -> None:
        self._screen.say(instruction.text, instruction.level, instruction.link)

    def _leave(self, instruction: instructions.Leave) -> None:
        if self._task and self._state.assignment:
            try:
                self._server.heartbeat(self._heartbeat((), tuple(self._state.seen)), last=True)
            except HandcarError as error:
                log.info("could not say goodbye: %s", error)
        if instruction.exit_code == 0:  # the task is over: the next run asks for a new one
            self._options.home.keep_task(self._options.url, None)
        self._screen.say(instruction.text, "info" if instruction.exit_code in (0, 130) else "error")
        self.again = instruction.again
        self._exit_code = instruction.exit_code

    def _required_task(self) -> OpenTask:
        if self._task is None:
            raise HandcarError("nothing has been assigned yet")
        return self._task

    def _required_pacing(self) -> Pacing:
        if self._pacing is None:
            raise HandcarError("nothing has been assigned yet")
        return self._pacing


DO_NOW: dict[type, Callable[[Volunteer, Any], None]] = {
    instructions.Prepare: Volunteer._prepare,
    instructions.BeginTraining: Volunteer._begin_training,
    instructions.AddChunk: Volunteer._add_chunk,
    instructions.RemoveChunk: Volunteer._remove_chunk,
    instructions.TakeUp: Volunteer._take_up,
    instructions.Drop: Volunteer._drop,
    instructions.Hold: Volunteer._hold,
    instructions.GoOn: Volunteer._go_on,
    instructions.StopTraining: Volunteer._stop_training,
    instructions.Show: Volunteer._show,
    instructions.Leave: Volunteer._leave,
}

IN_POOL: dict[type, Callable[[Volunteer, Any], Event]] = {
    instructions.AskAssignment: Volunteer._ask_assignment,
    instructions.FetchChunk: Volunteer._fetch_chunk,
    instructions.FetchWeights: Volunteer._fetch_weights,
    instructions.SendUpdate: Volunteer._send_update,
    instructions.SendHeartbeat: Volunteer._send_heartbeat,
    instructions.TrainAgain: Volunteer._train_again,
}


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into `stop`; a second Ctrl-C ends the program at once."""
    pressed = 0

    def on_signal(number: int, frame: object) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            raise KeyboardInterrupt
        stop()

    before = {number: signal.signal(number, on_signal) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_ENDING = (signal.SIGINT, signal.SIGTERM)


def _load_keras() -> None:
    import handcar.modelfile.trainer  # noqa: F401


def _sentence(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text if text[-1] in ".!?" else text + "."
