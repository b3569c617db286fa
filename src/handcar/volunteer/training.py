"""The training thread: rounds without end, on whatever chunks are here. Keras is used here.

`Network` is the Keras side: weights in and out, steps. `Training` is the thread: a round
begins, goes on for its steps or its time, is encoded and handed over, and the next begins
at once. Nothing here touches the network or waits for it.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.data.order import Sampler
from handcar.errors import DiskFull, HandcarError
from handcar.modelfile.schema import ModelFile
from handcar.protocol.messages import UpdateAnnouncement
from handcar.volunteer import budget as budgets
from handcar.volunteer import checkpoint
from handcar.volunteer.budget import RoundBudget
from handcar.volunteer.checkpoint import Checkpoint, Round
from handcar.volunteer.folder import Task
from handcar.volunteer.rounds import Inbox, Rounds
from handcar.wire.layout import Flat, Layout

log = logging.getLogger(__name__)

CHECKPOINT_S = 60.0
CHECKPOINT_SHARE = 20
"""A checkpoint that takes t seconds to write is not written more often than every 20 t."""
BATCHES_AT_ONCE = 32
BAD_ROUNDS = 3
LOOK_S = 0.5
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
    steps_before: int = 0
    records_before: int = 0
    round_before: int = 0


class Network:
    """The Keras model of one task: weights in and out, and steps."""

    def __init__(self, model_file: ModelFile, layout: Layout, *, seed: int) -> None:
        from handcar.modelfile import build

        self._build = build
        self._layout = layout
        self.batch_size = model_file.batch_size
        self.model = build.build(model_file, seed=seed)

    def set(self, weights: Flat) -> None:
        """Give the model these weights."""
        self._build.set_weights(self.model, self._layout, weights)

    def get(self) -> Flat:
        """Return a copy of the model's weights."""
        return self._build.get_weights(self.model, self._layout)

    def optimizer(self) -> list[NDArray[Any]]:
        """Return a copy of what the optimizer remembers."""
        import keras

        return [
            np.array(keras.ops.convert_to_numpy(variable))
            for variable in self.model.optimizer.variables
        ]

    def set_optimizer(self, arrays: list[NDArray[Any]]) -> None:
        """Give the optimizer back what it remembered, if it is of the same shape."""
        self.model.optimizer.build(self.model.trainable_variables)
        variables = self.model.optimizer.variables
        if [tuple(v.shape) for v in variables] != [array.shape for array in arrays]:
            log.warning("the optimizer in the checkpoint is of another shape and starts afresh")
            return
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)

    def train(self, sampler: Sampler, steps: int, on_step: Callable[[Any], bool]) -> float:
        """Make up to `steps` steps; return the mean loss over those made.

        `on_step(logs)` is called after each; it returns true to end here.
        """
        history = self.model.fit(
            _feed(sampler, steps, self.batch_size),
            steps_per_epoch=steps,
            epochs=1,
            shuffle=False,  # the sampler did
            verbose=0,
            callbacks=_callbacks(self.model, on_step),
        )
        return float(history.history["loss"][0])


def _callbacks(model: Any, on_step: Callable[[Any], bool]) -> Any:
    import keras

    # A list of our own, not a callback in Keras's: that one makes Python numbers of the logs
    # after each step, which on JAX waits for the step to end and costs a fifth of the speed.
    class Watch(keras.callbacks.CallbackList):  # type: ignore[misc]  # Keras has no types
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            pass

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if on_step(logs):
                model.stop_training = True

    return Watch(add_history=True, model=model)


def _pieces(sampler: Sampler, steps: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    # Never more batches than the round's steps: what is drawn and not used would be skipped.
    while steps > 0:
        count = min(steps, BATCHES_AT_ONCE)
        yield sampler.next_batches(count)
        steps -= count


def _feed(sampler: Sampler, steps: int, batch_size: int) -> Any:
    """Return batches in the form that this backend takes fastest."""
    import keras

    if keras.backend.backend() == "tensorflow":
        return _tensorflow_feed(sampler, steps, batch_size)

    def batches() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        for x, y in _pieces(sampler, steps):
            for start in range(0, len(x), batch_size):
                yield x[start : start + batch_size], y[start : start + batch_size]

    return batches()


def _tensorflow_feed(sampler: Sampler, steps: int, batch_size: int) -> Any:
    # Many batches a call, cut up in tf.data: calling Python for each one halves the speed of
    # a small network.
    import tensorflow as tf

    pieces = _pieces(sampler, steps)
    first = next(pieces)

    def all_pieces() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        yield first
        yield from pieces

    def cut(*columns: Any) -> Any:
        return tf.data.Dataset.from_tensor_slices(columns).batch(batch_size, drop_remainder=True)

    signature = tuple(
        tf.TensorSpec((None, *column.shape[1:]), tf.as_dtype(column.dtype)) for column in first
    )
    pieces_set = tf.data.Dataset.from_generator(all_pieces, output_signature=signature)
    options = tf.data.Options()
    # Its thread wakes at 10 ms, 20 ms, 40 ms ... and the end of a round would wait for it:
    # seconds, for rounds of a few seconds.
    options.autotune.enabled = False
    return pieces_set.flat_map(cut).prefetch(2).with_options(options)


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
        self._network = Network(plan.model_file, plan.layout, seed=plan.seed)
        round = self._resume() or self._begin()
        while not self._inbox.stop.is_set():
            self._train(round)
            self._wait_while_held()
            if not self._inbox.stop.is_set() and self._is_over(round):
                round = self._next(round)
        self._save(round)

    # -- a round

    def _begin(self) -> Round:
        self._number += 1
        round = self._rounds.begin(self._inbox, number=self._number)
        self._network.set(round.start)
        return round

    def _is_over(self, round: Round) -> bool:
        waiting = len(self._rounds.waiting(self._inbox))
        return budgets.is_over(
            self.budget, steps=round.steps, seconds=round.seconds, waiting=waiting
        )

    def _train(self, round: Round) -> None:
        """Make steps until the round is over or something interrupts it."""
        steps, seconds = budgets.stretch(self.budget, steps=round.steps, seconds=round.seconds)
        watch = _Watch(self, round, seconds)
        loss = self._network.train(self._sampler, steps, watch.on_step)
        watch.close(loss)

    def _next(self, round: Round) -> Round:
        weights = self._network.get()
        if not np.isfinite(weights).all():
            return self._start_afresh()
        self._rounds.update_step = self.budget.update_step
        try:
            announcement = self._rounds.finish(round, weights, chunks=self._sampler.chunks)
        except DiskFull as error:
            self._say(f"{error}. The round goes on and is kept in memory.")
            return round
        self._bad_rounds = 0
        self._made(announcement)
        return self._begin()

    def _start_afresh(self) -> Round:
        self._bad_rounds += 1
        if self._bad_rounds >= BAD_ROUNDS:
            raise HandcarError(
                f"the weights became infinite or NaN in {BAD_ROUNDS} rounds in a row. Tell the "
                "model's owner: a smaller learning rate usually helps"
            )
        self._say("The weights became infinite or NaN. This round is thrown away.")
        self._network = Network(self._plan.model_file, self._plan.layout, seed=self._plan.seed)
        return self._begin()

    def _wait_while_held(self) -> None:
        while self._inbox.hold.is_set() and not self._inbox.stop.wait(LOOK_S):
            pass

    # -- what survives

    def _resume(self) -> Round | None:
        found = checkpoint.load(self._plan.task.checkpoint, self._plan.layout.size)
        if found is None:
            return None
        self._sampler.restore(found.passes)
        self._network.set_optimizer(found.optimizer)
        if found.round.number <= self._number:
            return None  # that round was finished after the checkpoint was written
        self._number = found.round.number
        self._network.set(found.weights)
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
        point = Checkpoint(round, network.get(), network.optimizer(), self._sampler.passes())
        try:
            checkpoint.save(self._plan.task.checkpoint, point)
        except DiskFull as error:
            self._say(f"{error}. Training goes on; a restart would lose more than usual.")

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
        self._ends_at = now + seconds
        self._saved_at = self._looked_at = now
        self._began_at = now
        self._seconds_before = round.seconds
        self._loss_before = round.loss_sum
        self._uncounted = 0
        self._steps = 0

    def on_step(self, logs: Any) -> bool:
        """Count one step; return whether to end here."""
        self._uncounted += 1
        now = time.monotonic()
        if now - self._looked_at >= LOOK_S:
            self._look(now, float(logs["loss"]))
        if now - self._saved_at >= self._training.checkpoint_s:
            self._look(now, float(logs["loss"]))
            self._training.sync()
            self._training.save(self._round)
            self._saved_at = now
        return now >= self._ends_at or self._training.interrupted

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
