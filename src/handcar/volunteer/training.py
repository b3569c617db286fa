"""The training thread: rounds without end, on whatever chunks are here. Keras is used here.

A round begins, goes on for its steps or its time, is encoded and handed over, and the next
begins at once; a newer version is taken up in its middle. Nothing here touches the network;
only a merging rule that says so makes it wait for the server. Each round notes what it takes
to train it again: its recipe.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import numpy as np

from handcar.data.order import Sampler
from handcar.errors import DiskFull, HandcarError
from handcar.modelfile.schema import ModelFile
from handcar.protocol import limits
from handcar.protocol.messages import Drawn, Recipe, UpdateAnnouncement
from handcar.volunteer import budget as budgets
from handcar.volunteer import checkpoint
from handcar.volunteer.budget import RoundBudget
from handcar.volunteer.checkpoint import Checkpoint, Round
from handcar.volunteer.feed import Feed
from handcar.volunteer.folder import Task
from handcar.volunteer.rounds import Inbox, Rounds
from handcar.volunteer.schedule import Own, Schedule
from handcar.wire.layout import Layout

if TYPE_CHECKING:
    from handcar.modelfile.trainer import Network

log = logging.getLogger(__name__)

CHECKPOINT_S = 60.0
CHECKPOINT_SHARE = 20
"""A checkpoint that takes t seconds to write is not written more often than every 20 t."""
BAD_ROUNDS = 3
LOOK_S = 0.5
WAIT_S = 0.1
AFRESH_STEPS = 500
"""The optimizer begins afresh at the first round after so many steps: whoever checks a round
trains again all those since then (docs/decisions/0012-reproducible-rounds.md)."""
MOVES_SHARE = 10
"""A round goes on for so many times as long as taking up a version lasts before it does so."""
ENOUGH_MOVES_S = 10.0
"""For so long a round may take versions up as they come."""
M_TRIM_THRESHOLD, M_TOP_PAD = -1, -2
"""Options of glibc's `mallopt`, as malloc.h numbers them."""


@dataclass(frozen=True)
class Progress:
    """How far the training is; replaced as a whole, so it may be read at any time."""

    steps: int = 0
    records: int = 0
    steps_per_second: float = 0.0
    loss: float | None = None
    round_number: int = 0
    round_steps: int = 0
    counted_at: float = 0.0
    """When the steps were counted, in seconds of the system's monotonic clock."""


@dataclass(frozen=True)
class Plan:
    """What the training thread needs to know, fixed while it runs."""

    task: Task
    model_file: ModelFile
    layout: Layout
    budget: RoundBudget
    """To begin with; `Training.budget` may change."""
    seed: int
    schedule: Schedule
    steps_before: int = 0
    records_before: int = 0
    round_before: int = 0
    network: Callable[[], Network] | None = None
    """Gives the model, if it was made ready while the weights were on their way."""


def _keep_freed_memory() -> None:
    """Let what one step frees be there for the next, where the C library is glibc.

    It gives buffers of 128 kB and more back to the system at once and takes them anew, every
    page of them cleared: a third of a small network's time on a virtual machine.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 256 << 20)
        mallopt(M_TOP_PAD, 16 << 20)


class Training(threading.Thread):
    """The thread that trains until `inbox.stop` is set; `ended` is called with why, or none."""

    def __init__(  # noqa: PLR0913 - each a plain part, made once at the start
        self,
        plan: Plan,
        *,
        rounds: Rounds,
        sampler: Sampler,
        inbox: Inbox,
        made: Callable[[UpdateAnnouncement], None],
        say: Callable[[str], None],
        ended: Callable[[str | None], None],
    ) -> None:
        super().__init__(name="training", daemon=True)
        self.progress = Progress(steps=plan.steps_before, records=plan.records_before)
        self.budget = plan.budget
        """How long rounds are; replaced as a whole by the main thread."""
        self._plan = plan
        self._rounds = rounds
        self._sampler = sampler
        self._inbox = inbox
        self._made = made
        self._say = say
        self._ended = ended
        self._number = plan.round_before
        self._bad_rounds = 0
        self._checkpoint_s = CHECKPOINT_S
        self._after: tuple[UUID, ...] | None = None
        """The rounds that the optimizer remembers; none: it is to begin afresh."""
        self._after_steps = 0
        self._records_per_second: float | None = None
        self.between_s: float | None = None
        """From a round's last step to the first of the next, on the whole; none: not known."""
        self._move_s: float | None = None
        """From the last step before a version is taken up to the first one after it."""
        self._pause: Literal["between", "move"] | None = None
        """What the next step comes after."""
        self._last_step_at: float | None = None
        self._started_at = 0.0
        """When the first step was made from where the round started, or went on from."""

    def run(self) -> None:
        """Train; tell `ended` at the end, whatever happens."""
        reason = None
        try:
            self._run()
        except HandcarError as error:
            reason = f"Training stopped: {error}"
        except Exception as error:
            log.exception("training failed")
            reason = f"Training failed: {type(error).__name__}: {error}"
        self._ended(reason)

    def _run(self) -> None:
        plan = self._plan
        _keep_freed_memory()
        self._network = plan.network() if plan.network else self._new_network()
        resumed = self._resume()
        self._feed = Feed(self._sampler)
        try:
            self._go_on(resumed)
        finally:
            self._feed.close()

    def _new_network(self) -> Network:
        from handcar.modelfile.trainer import Network

        self._after = None
        return Network(self._plan.model_file, self._plan.layout, seed=self._plan.seed)

    def _go_on(self, round: Round | None) -> None:
        """Make rounds until told to stop; save the one under way."""
        round = round or self._begin()
        while round and not self._inbox.stop.is_set():
            self._train(round)
            self._wait_while_held()
            if self._inbox.stop.is_set():
                break
            if self.is_over(round):
                round = self._next(round)
            elif round.steps_from_here() and self.may_move(round, time.monotonic()):
                self._move(round)
        if round:
            self._save(round)

    # -- a round

    def _begin(self) -> Round | None:
        """Begin a round; return none when told to stop while waiting for the last one's merge."""
        if self._rounds.starts == "waits" and not self._is_merged():
            return None
        self._number += 1
        round = self._rounds.begin(self._inbox, number=self._number)
        round.rate = self._plan.schedule.plan(self._own(round))
        afresh = self._is_afresh()
        if afresh:
            self._rounds.forget_owed()  # so that who trains these rounds again owes the same
        else:
            round.after, round.after_steps = self._after or (), self._after_steps
        self._network.begin(round.start, rate=round.rate, afresh=afresh)
        self._network.draw_from(round.seed, 0)
        self._feed.begin_round()
        self._pause = "between"
        return round

    def _own(self, round: Round) -> Own:
        return Own(
            base_version=round.base_version,
            carried_records=self._rounds.records(round.carried),
            steps=self.progress.steps,
            records_per_second=self._records_per_second,
        )

    def _is_afresh(self) -> bool:
        after = self._after
        return (
            after is None or self._after_steps >= AFRESH_STEPS or len(after) >= limits.RECIPE_ROUNDS
        )

    def is_over(self, round: Round) -> bool:
        """Say whether a round ends here."""
        waiting = len(self._rounds.waiting(self._inbox))
        return budgets.is_over(
            self.budget, steps=round.steps, seconds=round.seconds, waiting=waiting
        )

    def _train(self, round: Round) -> None:
        """Make steps until the round is over or something interrupts it."""
        steps, seconds = self._steps_left(round)
        if steps == 0:
            self._stand_still(round)
            return
        watch = _Watch(self, round, seconds)
        loss = self._network.train(self._feed.batches(steps), steps, watch.on_step)
        self._feed.end_stretch()
        watch.close(loss)

    def may_move(self, round: Round, now: float) -> bool:
        """Say whether to go on from a newer version now: one is here, and enough time has passed.

        The first steps after it wait for it, so it must not happen all the time; and what a round
        may do a few times is spread over it, so that a long one ends near the newest version.
        """
        moves = self._rounds.moves_left(round, self._inbox)
        if moves == 0:
            return False
        since = now - self._started_at
        rests = since >= MOVES_SHARE * (self._move_s or 0.0)
        return rests and since * moves >= self._seconds_left(round) - ENOUGH_MOVES_S

    def _seconds_left(self, round: Round) -> float:
        """Return how long a round goes on, as far as is known."""
        rate, budget = self.progress.steps_per_second, self.budget
        by_steps = (budget.max_steps - round.steps) / rate if rate else 0.0
        return min(budget.max_seconds - round.seconds, by_steps)

    def _move(self, round: Round) -> None:
        """Go on from the newest version, with what the round has changed so far."""
        self._network.set(self._rounds.move(round, self._network.get(), self._inbox))
        self._pause = "move"

    def _steps_left(self, round: Round) -> tuple[int, float]:
        return budgets.stretch(self.budget, steps=round.steps, seconds=round.seconds)

    def _stand_still(self, round: Round) -> None:
        """Wait until own updates were merged, or the round may go on after all."""
        self._last_step_at = None  # this is the server's time, not the machine's
        while not self._inbox.stop.wait(WAIT_S) and not self._inbox.interrupts:
            if self.is_over(round) or self._steps_left(round)[0]:
                return

    def _next(self, round: Round) -> Round | None:
        weights = self._network.get()
        if not np.isfinite(weights).all():
            return self._start_afresh()
        self._rounds.update_step = self.budget.update_step
        try:
            announcement = self._rounds.finish(
                round, weights, chunks=self._sampler.chunks, recipe=self._recipe(round)
            )
        except DiskFull as error:
            self._say(f"{error}. The round goes on and is kept in memory.")
            return round
        self._bad_rounds = 0
        self._after = (*round.after, announcement.id)
        self._after_steps = round.after_steps + round.steps
        self._records_per_second = round.records / round.seconds if round.seconds else None
        self._made(announcement)
        self._do_errand()
        return self._begin()

    def _do_errand(self) -> None:
        """Train what is no round of our own, if that was asked for; ours goes on as it was."""
        errand = self._inbox.errand()
        if errand is None or not errand.done.set_running_or_notify_cancel():
            return
        self._last_step_at = None  # this is no time between two rounds
        try:
            with self._network.aside():
                found = errand.train(self._network, self._expect_time)
        except Exception as error:  # noqa: BLE001 - for whoever asked
            errand.done.set_exception(error)
        else:
            errand.done.set_result(found)

    def _expect_time(self) -> None:
        if self._inbox.interrupts:
            raise HandcarError("training is to end, or to pause")

    def _recipe(self, round: Round) -> Recipe | None:
        """Return how the round was trained; none where that is more than a recipe may say."""
        import keras

        drawn = self._parts(round)
        told = tuple(one for one in drawn if one is not None)
        if len(told) < len(drawn) or len(told) > limits.RECIPE_PARTS:
            return None
        backend = keras.backend.backend()
        return Recipe(
            backend=backend,
            drawn=told,
            rate=round.rate,
            after=round.after,
            update_step=self._rounds.update_step,
            earlier_starts=round.earlier_starts,
        )

    def _parts(self, round: Round) -> list[Drawn | None]:
        """Return what each run of this program drew of a round."""
        steps_before = sum(part.steps for part in round.drawn if part)
        if round.steps == steps_before:
            return round.drawn
        return [*round.drawn, self._feed.drawn()]

    def _start_afresh(self) -> Round | None:
        self._bad_rounds += 1
        if self._bad_rounds >= BAD_ROUNDS:
            raise HandcarError(
                f"the weights became infinite or NaN in {BAD_ROUNDS} rounds in a row. Tell the "
                "model's owner: a smaller learning rate usually helps"
            )
        self._say("The weights became infinite or NaN. This round is thrown away.")
        self._network = self._new_network()
        return self._begin()

    def _wait_while_held(self) -> None:
        while self._inbox.hold.is_set() and not self._inbox.stop.wait(LOOK_S):
            pass

    def _is_merged(self) -> bool:
        """Wait until no own update is on its way; return whether that is so, or stop was asked."""
        self._last_step_at = None  # this is the rule's time, not the machine's
        while self._rounds.waiting(self._inbox):
            if self._inbox.stop.wait(WAIT_S):
                return False
        return True

    # -- what survives

    def _resume(self) -> Round | None:
        found = checkpoint.load(self._plan.task.checkpoint, self._plan.layout.size)
        if found is None:
            return None
        self._sampler.restore(found.passes)
        if found.round.number <= self._number:
            return None  # that round was finished after the checkpoint was written
        self._number = found.round.number
        remembers = self._network.set_optimizer(found.optimizer)
        self._network.set(found.weights)
        self._network.draw_from(found.round.seed, found.round.steps)
        if not remembers:
            found.round.drawn.append(None)  # nobody can train that again
        self.progress = replace(
            self.progress,
            steps=self.progress.steps + found.round.steps,
            records=self.progress.records + found.round.records,
        )
        self._show(found.round, found.round.loss(), 0.0)
        return found.round

    def save(self, round: Round) -> None:
        """Write a checkpoint of the round under way; a full disk is said and survived."""
        began = time.monotonic()
        self._save(round)
        self._checkpoint_s = max(CHECKPOINT_S, CHECKPOINT_SHARE * (time.monotonic() - began))

    def _save(self, round: Round) -> None:
        network = self._network
        kept = replace(round, drawn=self._parts(round))
        point = Checkpoint(kept, network.get(), network.optimizer(), self._sampler.passes())
        try:
            checkpoint.save(self._plan.task.checkpoint, point)
        except DiskFull as error:
            self._say(f"{error}. Training goes on; a restart would lose more than usual.")

    def use(self, now: float) -> None:
        """Take note that a batch was trained on."""
        self._feed.use()
        if self._pause is not None:
            self._end_pause(now)
        self._last_step_at = now

    def _end_pause(self, now: float) -> None:
        """Note how long a pause was, if nothing but the machine's own work was in it."""
        if self._last_step_at is not None:
            took_s = now - self._last_step_at
            if self._pause == "between":
                self.between_s = budgets.mean(self.between_s, took_s)
            else:
                self._move_s = budgets.mean(self._move_s, took_s)
        self._pause, self._started_at = None, now

    @property
    def checkpoint_s(self) -> float:
        """Seconds between two checkpoints."""
        return self._checkpoint_s

    @property
    def interrupted(self) -> bool:
        """Whether to end the steps now."""
        return self._inbox.interrupts

    def sync(self) -> None:
        """Let the model hold the weights of this moment; on JAX they live elsewhere in a fit."""
        synchronise = getattr(self._network.model, "jax_state_sync", None)
        if synchronise is not None:
            synchronise()

    def _show(self, round: Round, loss: float | None, rate: float) -> None:
        self.progress = replace(
            self.progress,
            loss=self.progress.loss if loss is None else loss,
            steps_per_second=rate,
            round_number=round.number,
            round_steps=round.steps,
            counted_at=time.monotonic(),
        )

    def count(self, round: Round, steps: int, *, loss: float | None, rate: float) -> None:
        """Add steps made to the round and to the whole."""
        batch = self._plan.model_file.batch_size
        round.steps += steps
        round.records += steps * batch
        self.progress = replace(
            self.progress,
            steps=self.progress.steps + steps,
            records=self.progress.records + steps * batch,
        )
        self._show(round, loss, rate)


class _Watch:
    """Counts the steps of one stretch of a round, and ends it when its time is up."""

    def __init__(self, training: Training, round: Round, seconds: float) -> None:
        now = time.monotonic()
        self._training = training
        self._round = round
        self._max_seconds = training.budget.max_seconds
        self._ends_at = now + seconds
        self._saved_at = self._looked_at = now
        self._began_at = now
        self._seconds_before = round.seconds
        self._loss_before = round.loss_sum
        self._uncounted = 0
        self._steps = 0
        self._over = False

    def on_step(self, logs: Any) -> bool:
        """Count one step; return whether to end here."""
        self._uncounted += 1
        now = time.monotonic()
        self._training.use(now)
        if now - self._looked_at >= LOOK_S:
            self._look(now, float(logs["loss"]))
        if now - self._saved_at >= self._training.checkpoint_s:
            self._look(now, float(logs["loss"]))
            self._training.sync()
            self._training.save(self._round)
            self._saved_at = now
        if now >= self._ends_at or self._over or self._training.interrupted:
            return True
        return self._training.may_move(self._round, now)

    def close(self, loss: float) -> None:
        """Count what is left; `loss` is the mean over the stretch."""
        self._look(time.monotonic(), loss)

    def _look(self, now: float, loss: float) -> None:
        steps, self._uncounted = self._uncounted, 0
        self._steps += steps
        rate = steps / max(now - self._looked_at, 1e-9)
        self._looked_at = now
        self._round.seconds = self._seconds_before + now - self._began_at
        self._round.loss_sum = self._loss_before + loss * self._steps
        self._training.count(self._round, steps, loss=loss, rate=rate)
        # The line or the server may turn out to be another than when the stretch began.
        max_seconds = self._training.budget.max_seconds
        self._ends_at += max_seconds - self._max_seconds
        self._max_seconds = max_seconds
        self._over = self._training.is_over(self._round)  # own updates may have been merged
