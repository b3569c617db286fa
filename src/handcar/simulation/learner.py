"""A model file's network as functions over flat weights: many steps a call, for many volunteers.

A simulated round is often two steps of a small network, and there are a hundred thousand of
them, so Keras's `fit` won't do. The steps of a call run in one compiled loop: a tenth of a
millisecond each for a small dense network. The network, its loss and its optimizer are those
that a volunteer builds from the same model file.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.errors import BadInput, MissingLibrary
from handcar.modelfile.schema import FunctionConfig, ModelFile, Value
from handcar.modelfile.shapes import infer
from handcar.wire.layout import Flat

Rows = NDArray[np.int32]
Rates = NDArray[np.float32]

STEPS_A_CALL = 128
"""More are made in several calls: a compiled loop has arguments of one size."""
JUDGED_AT_ONCE = 500
CRAWLING = ("Conv", "SeparableConv", "DepthwiseConv")
"""Layers that XLA runs twenty times slower within a loop, on a processor."""


@dataclass(frozen=True)
class Records:
    """Examples and their labels."""

    x: NDArray[Any]
    y: NDArray[Any]


@dataclass(frozen=True)
class Problem:
    """What is trained: a checked model file, records to train on, and others to judge by."""

    model_file: ModelFile
    seen: Records
    held: Records
    spoilt: Records | None = None
    """What poisoners train on instead, a record for each that is seen."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How good weights are on records that nobody trains on."""

    loss: float
    accuracy: float | None = None


class Learner:
    """Trains and judges flat weights; deterministic for the same calls."""

    def __init__(self, problem: Problem, *, steps: int) -> None:
        """Build the network; the learning rate's schedule is looked up for `steps` steps."""
        self._tensorflow = _tensorflow()
        from handcar.modelfile import build

        self._build = build
        self.problem = problem
        self.model_file = problem.model_file
        self.batch_size = self.model_file.batch_size
        self.layout = infer(self.model_file).layout
        self._schedule = self._rates(steps)
        plain = FunctionConfig(
            self.model_file.optimizer.name,
            {**self.model_file.optimizer.config, "learning_rate": 0.001},
        )
        self._plain_file = replace(self.model_file, optimizer=plain)
        self.model = build.build(self._plain_file, seed=0)
        self.model.optimizer.build(self.model.trainable_variables)
        self._slots = [
            variable
            for variable in self.model.optimizer.variables
            if variable is not self.model.optimizer._learning_rate
        ]
        self._fresh = np.concatenate([np.empty(0, np.float32), *map(_flat, self._slots)])
        self._run = self._compiled()
        self._score = self._scorer()

    def first(self, seed: int) -> Flat:
        """Return fresh weights."""
        model = self._build.build(self._plain_file, seed=seed)
        return self._build.initial_weights(model, self.layout)

    def fresh(self) -> Flat:
        """Return what an optimizer remembers that has made no step."""
        return self._fresh.copy()

    def rates(self, first_step: float, count: int, *, pace: float = 1.0) -> Rates:
        """Return the schedule's rates from a step of everyone's on; its last one holds on.

        Everyone makes `pace` steps while one is made here.
        """
        steps = (max(first_step, 0.0) + pace * np.arange(count)).clip(max=self._last).astype(int)
        rates: Rates = self._schedule[steps]
        return rates

    def train(self, weights: Flat, slots: Flat, rows: Rows, rates: Rates) -> tuple[Flat, Flat]:
        """Return weights and optimizer after a step on each row of `rows`, at these rates."""
        for start in range(0, len(rows), STEPS_A_CALL):
            part = rows[start : start + STEPS_A_CALL]
            all_rows = np.zeros((STEPS_A_CALL, self.batch_size), np.int32)
            all_rates = np.zeros(STEPS_A_CALL, np.float32)
            all_rows[: len(part)] = part
            all_rates[: len(part)] = rates[start : start + STEPS_A_CALL]
            weights, slots = self._run(weights, slots, all_rows, all_rates, np.int32(len(part)))
        return np.asarray(weights), np.asarray(slots)

    def judge(self, weights: Flat, held: Records | None = None, most: int = 10_000) -> Judgement:
        """Return the mean loss, and the share of right answers where there are such."""
        held = held or self.problem.held
        self._build.set_weights(self.model, self.layout, weights)
        sums, count = np.zeros(2), min(len(held.x), most)
        for start in range(0, count, JUDGED_AT_ONCE):
            part = slice(start, min(start + JUDGED_AT_ONCE, count))
            scores = self._score(held.x[part], held.y[part])
            sums += (part.stop - part.start) * np.array([float(score) for score in scores])
        loss, right = sums / count
        return Judgement(float(loss), None if np.isnan(right) else float(right))

    # -- compiled

    def _compiled(self) -> Any:
        tf, model, slots = self._tensorflow, self.model, self._slots
        seen = self.problem.seen
        spoilt = self.problem.spoilt or Records(seen.x[:0], seen.y[:0])
        # One after the other: row + count of the seen is the spoilt one.
        x = tf.constant(np.concatenate([seen.x, spoilt.x]))
        y = tf.constant(np.concatenate([seen.y, spoilt.y]))
        batch = self.batch_size

        def steps(weights: Any, remembered: Any, rows: Any, rates: Any, count: Any) -> Any:
            _give(tf, model.weights, weights)
            _give(tf, slots, remembered)
            number = tf.constant(0)
            # Not `for`: that makes the count a constant, and each new one is compiled anew.
            while number < count:
                model.optimizer._learning_rate.assign(rates[number])
                batch_x, batch_y = tf.gather(x, rows[number]), tf.gather(y, rows[number])
                with tf.GradientTape() as tape:
                    guessed = model(batch_x, training=True)
                    loss = model.compute_loss(x=batch_x, y=batch_y, y_pred=guessed)
                slopes = tape.gradient(loss, model.trainable_variables)
                model.optimizer.apply(slopes, model.trainable_variables)
                number += 1
            return _taken(tf, model.weights), _taken(tf, slots)

        return tf.function(
            steps,
            input_signature=[
                tf.TensorSpec((self.layout.size,), tf.float32),
                tf.TensorSpec((self._fresh.size,), tf.float32),
                tf.TensorSpec((STEPS_A_CALL, batch), tf.int32),
                tf.TensorSpec((STEPS_A_CALL,), tf.float32),
                tf.TensorSpec((), tf.int32),
            ],
            jit_compile=not self._has_convolutions(),
        )

    def _has_convolutions(self) -> bool:
        return any(
            layer.class_name.startswith(CRAWLING) for layer in self.model_file.network.layers
        )

    def _scorer(self) -> Any:
        tf, model = self._tensorflow, self.model
        classes = "Crossentropy" in self.model_file.loss.name

        def score(x: Any, y: Any) -> Any:
            guessed = model(x, training=False)
            loss = model.compute_loss(x=x, y=y, y_pred=guessed, training=False)
            if not classes or guessed.shape.rank != y.shape.rank + 1:
                return loss, float("nan")
            right = tf.argmax(guessed, -1, output_type=tf.int32) == tf.cast(y, tf.int32)
            return loss, tf.reduce_mean(tf.cast(right, tf.float32))

        return tf.function(score, reduce_retracing=True)

    def _rates(self, steps: int) -> Rates:
        rate: Value = self.model_file.optimizer.config.get("learning_rate", 0.001)
        self._last = steps - 1
        if not isinstance(rate, FunctionConfig):
            return np.full(steps, rate, np.float32)
        import keras

        tf = self._tensorflow
        schedule = self._build.build_function(keras.optimizers.schedules, rate)
        look_up = tf.function(
            lambda numbers: tf.map_fn(schedule, numbers, fn_output_signature=tf.float32)
        )
        rates: Rates = look_up(np.arange(steps, dtype=np.float32)).numpy()
        return rates


def _tensorflow() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingLibrary(
            "simulating needs TensorFlow, which is not installed. Install it with: "
            "pip install 'handcar[tensorflow]'"
        ) from error
    import keras

    if keras.backend.backend() != "tensorflow":
        raise BadInput(
            f"simulating needs TensorFlow, and KERAS_BACKEND is {keras.backend.backend()!r}. "
            "Run it again with KERAS_BACKEND=tensorflow"
        )
    with suppress(RuntimeError):  # TensorFlow runs already, as it was set up elsewhere
        # Steps this small are done before a second thread has woken up.
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def _flat(variable: Any) -> Flat:
    return np.asarray(variable.numpy(), dtype=np.float32).reshape(-1)


def _give(tf: Any, variables: list[Any], flat: Any) -> None:
    sizes = [int(np.prod(variable.shape)) for variable in variables]
    for variable, part in zip(variables, tf.split(flat, sizes), strict=True):
        variable.assign(tf.cast(tf.reshape(part, variable.shape), variable.dtype))


def _taken(tf: Any, variables: list[Any]) -> Any:
    parts = [tf.cast(tf.reshape(variable, [-1]), tf.float32) for variable in variables]
    return tf.concat(parts, 0)
