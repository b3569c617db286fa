"""A round's beginning and end, in numbers: what to start from, what to send. No Keras here.

As a rule a round starts from the newest version plus the own updates that it lacks, and is
not shortened by waiting for them: one volunteer alone trains as if there were no server. A newer
version is taken up in the middle of a round, with what the round has changed so far on top. Other
merging rules start from the newest version alone, and may wait until it holds the own update.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import numpy as np

from handcar import files
from handcar.protocol import limits
from handcar.protocol.messages import Recipe, Start, Starts, UpdateAnnouncement
from handcar.volunteer.checkpoint import Round
from handcar.volunteer.folder import Task
from handcar.volunteer.journal import Journal
from handcar.volunteer.residual import Residual
from handcar.wire import frames
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Flat, Layout

if TYPE_CHECKING:
    from handcar.modelfile.trainer import Network


@dataclass(frozen=True)
class Errand:
    """Something for the training thread to train that is no round of its own."""

    train: Callable[[Network, Callable[[], None]], Flat]
    """Is given what asks, before each piece of batches, whether to go on: it raises if not."""
    done: Future[Flat] = field(default_factory=Future)


class Inbox:
    """What the main thread tells the training thread; read between its steps."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.hold = threading.Event()
        self._lock = threading.Lock()
        self._gone: set[UUID] = set()
        self._base: tuple[int, Flat] | None = None
        self._errand: Errand | None = None

    def give(self, errand: Errand) -> None:
        """Have something done between two rounds."""
        with self._lock:
            self._errand = errand

    def errand(self) -> Errand | None:
        """Return what is to be done before the next round; once."""
        with self._lock:
            errand, self._errand = self._errand, None
            return errand

    def take_up(self, version: int, weights: Flat, merged: Iterable[UUID]) -> None:
        """Hand over a version, and say which own updates are part of it.

        The two come together: weights that hold an update which is still carried on top
        would count it twice.
        """
        with self._lock:
            self._base = (version, weights)
            self._gone.update(merged)

    def drop(self, updates: Iterable[UUID]) -> None:
        """Say which own updates will never be merged."""
        with self._lock:
            self._gone.update(updates)

    @property
    def has_version(self) -> bool:
        """Whether a version was handed over that nobody collected yet."""
        return self._base is not None

    def collect(self) -> tuple[tuple[int, Flat] | None, set[UUID]]:
        """Return the newest version handed over, and the updates to carry no longer; once."""
        with self._lock:
            base, gone = self._base, self._gone
            self._base, self._gone = None, set()
            return base, gone

    def gone(self) -> set[UUID]:
        """Return the updates to carry no longer, without taking note of them."""
        with self._lock:
            return set(self._gone)

    @property
    def interrupts(self) -> bool:
        """Whether the training should end its steps now."""
        return self.stop.is_set() or self.hold.is_set()


class Rounds:
    """Begins and ends the rounds of one model; used by the training thread alone."""

    def __init__(  # noqa: PLR0913 - each a plain part, made once at the start
        self,
        task: Task,
        *,
        model_id: str,
        layout: Layout,
        base: tuple[int, Flat],
        pending: Mapping[UUID, int],
        journal: Journal,
        update_step: float,
        starts: Starts = "carried",
    ) -> None:
        """`pending` says of each own update that may still be merged how many records it took."""
        self._task = task
        self._model_id = model_id
        self._layout = layout
        self._base = base
        self._journal = journal
        self._residual = Residual(task.residual, layout)
        self.update_step = update_step
        self.starts = starts
        self._pending = dict(pending)

    def begin(self, inbox: Inbox, *, number: int) -> Round:
        """Return a new round on the newest version that the main thread handed over."""
        version, carried, start = self._start(inbox)
        seed = int(np.random.SeedSequence().generate_state(1)[0])
        return Round(number, version, carried, start, seed)

    def _start(self, inbox: Inbox) -> tuple[int, tuple[UUID, ...], Flat]:
        """Return a version, the own updates carried on top, and the weights that they make."""
        base, gone = inbox.collect()
        self._base = base or self._base
        for update in gone:
            self._task.update(update).unlink(missing_ok=True)
            self._pending.pop(update, None)
        version, start = self._base
        carried = tuple(self._pending) if self.starts == "carried" else ()
        for update in carried:
            start = frames.apply(self._change(update), start, self._layout)
        return version, carried, start

    def moves_left(self, round: Round, inbox: Inbox) -> int:
        """Return how often a round may still go on from a newer version; 0 if there is none."""
        newer = inbox.has_version or self._base[0] != round.base_version
        if not newer or self.starts != "carried":
            return 0
        return limits.RECIPE_STARTS - len(round.earlier_starts)

    def move(self, round: Round, weights: Flat, inbox: Inbox) -> Flat:
        """Let a round go on from the newest version; return what its weights are now.

        What its steps have changed so far goes over to the new start.
        """
        version, carried, start = self._start(inbox)
        if version < round.base_version:
            round.drawn.append(None)  # a server that was restored knows nothing of its start
        before = Start(
            base_version=round.base_version, carried=round.carried, steps=round.steps_from_here()
        )
        moved = frames.moved(weights, round.start, start, self._layout)
        round.earlier_starts = (*round.earlier_starts, before)
        round.base_version, round.carried, round.start = version, carried, start
        return moved

    def records(self, updates: Iterable[UUID]) -> int:
        """Return how many records these pending updates took together."""
        return sum(self._pending[update] for update in updates)

    def forget_owed(self) -> None:
        """Let the next update owe nothing of what coding dropped before."""
        self._residual.forget()

    def waiting(self, inbox: Inbox) -> list[UUID]:
        """Return the own updates that are not known to be merged or dropped."""
        gone = inbox.gone()
        return [update for update in self._pending if update not in gone]

    def finish(
        self, round: Round, weights: Flat, *, chunks: int, recipe: Recipe | None = None
    ) -> UpdateAnnouncement:
        """Encode a round, keep its frame, journal it; return what to announce. Raises DiskFull."""
        change = frames.difference(weights, round.start, self._layout)
        wanted = self._residual.added_to(change)
        facts = FrameFacts("update", self._model_id, round.base_version)
        data = frames.encode_difference(facts, wanted, self._layout, k=self.update_step)
        announcement = UpdateAnnouncement(
            id=uuid4(),
            model_id=self._model_id,
            base_version=round.base_version,
            carried=round.carried,
            seed=round.seed,
            steps=min(round.steps, limits.STEPS_AN_UPDATE),
            records=round.records,
            seconds=round.seconds,
            chunks=chunks,
            size=len(data),
            sha256=files.digest(data),
            loss=round.loss(),
            recipe=recipe,
        )
        files.write(self._task.update(announcement.id), data)
        self._journal.made(announcement, round_number=round.number)
        self._pending[announcement.id] = round.records
        sent = frames.decode_difference(data, self._layout)[1]
        self._residual.keep(wanted, sent, self.update_step)
        return announcement

    def _change(self, update: UUID) -> Flat:
        # What was sent, not what was trained: the server will merge exactly this.
        return frames.decode_difference(self._task.update(update).read_bytes(), self._layout)[1]
