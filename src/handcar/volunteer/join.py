"""The loop: run the state's instructions, feed back what came of them.

main thread        state, instructions, signals
training thread    Keras (training.py)
one thread a kind  chunks, weights, updates, heartbeats, each its own small pool, so
                   that a long upload never delays a heartbeat
"""

from __future__ import annotations

import logging
import queue
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from handcar import __version__, files
from handcar.data.blocks import BlockStore
from handcar.data.order import Sampler
from handcar.errors import Corrupt, DiskFull, HandcarError, Problem, Unreachable
from handcar.protocol import problems
from handcar.protocol.messages import Assignment, Frame, Heartbeat, Link, UpdateAnnouncement
from handcar.stores import http
from handcar.volunteer import state as states
from handcar.volunteer import uploads
from handcar.volunteer.budget import Allowance
from handcar.volunteer.folder import Home, Task
from handcar.volunteer.line import Line, UsedUp
from handcar.volunteer.opentask import OpenTask, keep_room_for, open_task, what_it_takes
from handcar.volunteer.pacing import Pacing
from handcar.volunteer.rounds import Inbox, Rounds
from handcar.volunteer.screen import Screen, Sending, Snapshot
from handcar.volunteer.state import PARALLEL_CHUNKS, Event, Failed, Instruction, State
from handcar.volunteer.talk import Server
from handcar.volunteer.training import Plan, Progress, Training

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
        self._blocks = BlockStore(options.home.blocks)
        self._state = State(rng=random.Random())  # noqa: S311 - jitter
        self._training: Training | None = None
        self._pacing: Pacing | None = None
        self._sending: Sending | None = None
        self._merged_updates = 0
        self._bytes_saved = 0
        self._exit_code: int | None = None
        self.again = False
        """Whether the server has something else to train."""
        self._task: OpenTask | None = None
        self._pools = {
            states.FetchChunk: ThreadPoolExecutor(PARALLEL_CHUNKS, "chunks"),
            states.FetchWeights: ThreadPoolExecutor(1, "weights"),
            states.SendUpdate: ThreadPoolExecutor(1, "updates"),
            states.SendHeartbeat: ThreadPoolExecutor(1, "heartbeats"),
            states.AskAssignment: ThreadPoolExecutor(1, "assignments"),
        }

    def __enter__(self) -> Volunteer:
        return self

    def __exit__(self, *_: object) -> None:
        self._inbox.stop.set()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self._server.close()
        self._line.close()

    def run(self) -> int:
        """Run until the state says Leave; return the exit code."""
        # Loading Keras takes seconds: they pass while the first bytes come in.
        threading.Thread(target=_load_keras, name="load keras", daemon=True).start()
        if limits := self._options.allowance.in_words():
            self._screen.say(limits)
        with _signals(lambda: self._events.put(states.StopAsked())):
            self._feed(self._found())
            while self._exit_code is None:
                self._feed(self._next_event())
                self._pace()
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
        if text := self._pacing.renew():
            self._screen.say(text)
        if self._training:
            self._training.budget = self._pacing.budget

    # -- events

    def _next_event(self) -> Event:
        wait_s = min(self._state.next_wake(time.monotonic()), LOOK_S)
        try:
            return self._events.get(timeout=max(wait_s, 0.01))
        except queue.Empty:
            return states.Tick()

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
                return states.Started(
                    version=task.keeper.version,
                    chunks=chunks,
                    unsent=task.recalled.unsent,
                    pending=task.recalled.pending,
                    assignment=assignment,
                )
        return states.Started(chunks=chunks)

    def _open(self, folder: Task, assignment: Assignment, raw: bytes) -> OpenTask:
        self._task = open_task(folder, assignment, raw)
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
            self._events.put(states.UsedUp(instruction, str(limit), limit.after_s))
        except Problem as problem:
            retry = problem.type in MAY_BECOME_YES or problem.status >= 500
            self._events.put(Failed(instruction, _sentence(problem), retry=retry))
        except Unreachable as error:
            after_s = getattr(error, "retry_after_s", None)
            self._events.put(Failed(instruction, _sentence(error), after_s=after_s))
        except (Corrupt, DiskFull) as error:
            self._events.put(Failed(instruction, _sentence(error)))
        except HandcarError as error:
            self._events.put(Failed(instruction, _sentence(error), retry=False))
        except Exception as error:
            log.exception("%s failed", type(instruction).__name__)
            self._events.put(Failed(instruction, f"{type(error).__name__}: {error}."))

    def _ask_assignment(self, _: states.AskAssignment) -> Event:
        home, url = self._options.home, self._options.url
        identity = home.identity(url)
        if identity is None:
            identity = self._server.join(self._options.name)
            home.keep_identity(url, identity)
        self._server.use_token(identity.token)
        wanted = self._task.assignment.id if self._task else self._options.model_id
        assignment = self._server.assignment(wanted)
        if self._task is None:
            self._begin_task(assignment)
        else:
            self._task.folder.keep_assignment(assignment)
            self._required_pacing().ask(assignment.round)
        return states.Assigned(assignment)

    def _begin_task(self, assignment: Assignment) -> None:
        raw = self._server.bytes_of(assignment.configuration)
        _check_digest(raw, assignment.configuration)
        folder = self._options.home.task(self._options.url, assignment.id)
        task = self._open(folder, assignment, raw)
        files.write(folder.model_file, raw)
        folder.keep_assignment(assignment)
        self._options.home.keep_task(self._options.url, assignment.id)
        self._screen.say(what_it_takes(assignment, task.layout, frozenset(self._blocks.digests())))

    def _fetch_chunk(self, instruction: states.FetchChunk) -> Event:
        link = instruction.link
        keep_room_for(self._options.home.path, link, self._required_task().layout)
        path = self._fetch(link, link.mirrors)
        self._blocks.add(link.sha256, path)
        path.unlink(missing_ok=True)
        return states.ChunkHere(link.sha256)

    def _fetch_weights(self, instruction: states.FetchWeights) -> Event:
        task = self._required_task()
        series = self._server.series(task.assignment.id)
        weights = task.keeper.follow(series, instruction.version, self._frame)
        # The journal first: weights on disk whose own updates are not known to be in them
        # would have these added a second time after a restart.
        task.journal.merged(instruction.version, instruction.merged)
        task.keeper.keep(instruction.version, weights)
        return states.WeightsHere(instruction.version, instruction.merged)

    def _frame(self, frame: Frame) -> bytes:
        path = self._fetch(frame)
        data = path.read_bytes()
        path.unlink(missing_ok=True)
        return data

    def _fetch(self, link: Link, mirrors: tuple[str, ...] = ()) -> Path:
        path = self._options.home.parts / link.sha256.removeprefix("sha256:")
        with self._line.transfer("down"):
            http.fetch(
                self._server.files,
                link.url,
                path=path,
                size=link.size,
                sha256=link.sha256,
                on_bytes=self._line.received,
                stop=self._inbox.stop,
                mirrors=mirrors,
            )
        return path

    def _send_update(self, instruction: states.SendUpdate) -> Event:
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
        return states.UpdateAnswered(status)

    def _send_heartbeat(self, instruction: states.SendHeartbeat) -> Event:
        body = self._heartbeat(instruction.pending, instruction.seen)
        reply = self._server.heartbeat(body)
        if reply.round and self._pacing:
            self._pacing.ask(reply.round)
        return states.HeartbeatAnswered(reply)

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
                "client_version": __version__,
            }
        )

    def _begin_training(self, instruction: states.BeginTraining) -> None:
        task = self._required_task()
        plan = Plan(
            task=task.folder,
            model_file=task.model_file,
            layout=task.layout,
            budget=self._required_pacing().budget,
            seed=random.getrandbits(31),
            steps_before=task.recalled.steps,
            records_before=task.recalled.records,
            round_before=task.recalled.last_round,
        )
        rounds = Rounds(
            task.folder,
            model_id=task.assignment.id,
            layout=task.layout,
            base=task.keeper.newest(),
            pending=instruction.pending,
            journal=task.journal,
            update_step=task.assignment.update_step,
        )
        self._sampler = Sampler(
            self._blocks.open, batch_size=task.model_file.batch_size, rng=_generator()
        )
        self._training = Training(
            plan,
            rounds=rounds,
            sampler=self._sampler,
            inbox=self._inbox,
            made=self._made,
            say=lambda text: self._screen.say(text, "warning"),
            ended=lambda reason: self._events.put(states.TrainingEnded(reason)),
        )

    def _add_chunk(self, instruction: states.AddChunk) -> None:
        self._sampler.add(instruction.digest)
        if self._training and not self._training.ident:
            self._training.start()

    def _made(self, announcement: UpdateAnnouncement) -> None:
        task = self._required_task()
        task.announcements[announcement.id] = announcement
        self._bytes_saved += max(0, 4 * task.layout.size - announcement.size)
        self._required_pacing().made(announcement.size)
        self._events.put(states.UpdateMade(announcement.id))

    def _take_up(self, instruction: states.TakeUp) -> None:
        self._merged_updates += len(instruction.merged)
        self._inbox.take_up(*self._required_task().keeper.newest(), instruction.merged)

    def _drop(self, instruction: states.Drop) -> None:
        self._required_task().journal.dropped(instruction.ids)
        self._inbox.drop(instruction.ids)

    def _hold(self, _: states.Hold) -> None:
        self._inbox.hold.set()

    def _go_on(self, _: states.GoOn) -> None:
        self._inbox.hold.clear()

    def _stop_training(self, _: states.StopTraining) -> None:
        self._inbox.stop.set()

    def _show(self, instruction: states.Show) -> None:
        self._screen.say(instruction.text, instruction.level, instruction.link)

    def _leave(self, instruction: states.Leave) -> None:
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
    states.BeginTraining: Volunteer._begin_training,
    states.AddChunk: Volunteer._add_chunk,
    states.TakeUp: Volunteer._take_up,
    states.Drop: Volunteer._drop,
    states.Hold: Volunteer._hold,
    states.GoOn: Volunteer._go_on,
    states.StopTraining: Volunteer._stop_training,
    states.Show: Volunteer._show,
    states.Leave: Volunteer._leave,
}

IN_POOL: dict[type, Callable[[Volunteer, Any], Event]] = {
    states.AskAssignment: Volunteer._ask_assignment,
    states.FetchChunk: Volunteer._fetch_chunk,
    states.FetchWeights: Volunteer._fetch_weights,
    states.SendUpdate: Volunteer._send_update,
    states.SendHeartbeat: Volunteer._send_heartbeat,
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
    import handcar.modelfile.build  # noqa: F401


def _generator() -> Any:
    import numpy as np

    return np.random.default_rng()


def _check_digest(data: bytes, link: Link) -> None:
    if files.digest(data) != link.sha256:
        raise Corrupt(f"{link.url}: expected {link.sha256}, got {files.digest(data)}")


def _sentence(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text if text[-1] in ".!?" else text + "."
