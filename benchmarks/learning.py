"""Trains a model in the loop as Handcar does: volunteers, coded updates, merges, a series.

All in one process and the same numbers for the same seed. The frames and the merging are
the product's own; the steps are Keras models under compiled JAX steps, so that many seeds can
run. What it leaves out: volunteers that differ in speed, come and go, or send late. Each
round every volunteer starts from the newest published version, makes the same number of steps
on its own share of the data, and all updates are merged at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from keras import layers

from handcar.merging import activity
from handcar.merging.merge import Contribution, merge
from handcar.modelfile.coding import FINE_STEP, STEP
from handcar.wire import frames
from handcar.wire.feedback import Feedback, feedback_of, to_feed_back
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Flat, Layout, TensorSpec

VOLUNTEERS = 4
KEY_EVERY = 20
"""Versions between two at which the published weights are rounded, as the server does."""
UPDATE = FrameFacts("update", "bench", 0)
DELTA = FrameFacts("delta", "bench", 1)
KEY = FrameFacts("keyframe", "bench", 1)
CONTEXT = 64
"""Characters that the transformer sees."""


# -- data --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Records to train on and to judge by, and where they come from."""

    x: np.ndarray
    y: np.ndarray
    held_x: np.ndarray
    held_y: np.ndarray
    source: str


def _file(name: str) -> Path | None:
    path = Path(os.environ.get("HANDCAR_DATA", ".")) / name
    return path if "HANDCAR_DATA" in os.environ and path.is_file() else None


def _made_up(count: int, shape: tuple[int, ...], held: int) -> Data:
    """Return pictures of ten kinds under noise: as many and as large as the real ones."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(128, 12, (10, *shape))
    y = rng.integers(0, 10, count + held)
    x = np.empty((len(y), *shape), dtype=np.uint8)
    for start in range(0, len(y), 1000):
        part = slice(start, start + 1000)
        noise = rng.normal(0, 64, x[part].shape)
        x[part] = np.clip(kinds[y[part]] + noise, 0, 255)
    return Data(x[held:], y[held:], x[:held], y[:held], "made up")


def digits() -> Data:
    """Return MNIST, or the like."""
    path = _file("mnist/mnist_63k.npz")
    if path is None:
        return _made_up(53_000, (28, 28), 10_000)
    data = np.load(path)
    x, y = data["x"], data["y"].astype(np.int32)
    return Data(x[10_000:], y[10_000:], x[:10_000], y[:10_000], "MNIST")


def pictures() -> Data:
    """Return CIFAR-10, or the like."""
    paths = [_file(f"cifar10_jpeg/cifar10_jpeg_{part}.npz") for part in ("train30k", "test10k")]
    if None in paths:
        return _made_up(30_000, (32, 32, 3), 10_000)
    return Data(*_unpacked(paths[0]), *_unpacked(paths[1]), "CIFAR-10")


def _unpacked(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow  # only to decode JPEG; slow to import

    data = np.load(path)
    raw, offsets = data["jpeg"].tobytes(), data["offsets"]
    files = [raw[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    x = [tensorflow.io.decode_jpeg(file, channels=3).numpy() for file in files]
    return np.stack(x), data["y"].astype(np.int32)


def text() -> Data:
    """Return every window of Shakespeare with the characters that follow, or the like."""
    path = _file("tinyshakespeare/input.txt")
    if path is None:
        codes = _made_up_text(1_000_000)
    else:
        letters = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        codes = np.unique(letters, return_inverse=True)[1]
    cut = len(codes) * 9 // 10
    seen = np.lib.stride_tricks.sliding_window_view(codes[:cut].astype(np.int32), CONTEXT + 1)
    held = codes[cut:][: 1000 * (CONTEXT + 1)].astype(np.int32).reshape(-1, CONTEXT + 1)
    source = "Shakespeare" if path else "made up"
    return Data(seen[:, :-1], seen[:, 1:], held[:, :-1], held[:, 1:], source)


def _made_up_text(count: int) -> np.ndarray:
    """Return letters of which each follows from the one before, but for one in four."""
    rng = np.random.default_rng(0)
    follows, strays = rng.permutation(64), rng.integers(0, 64, count)
    stray = rng.random(count) < 0.25
    codes = strays.copy()
    for n in range(1, count):
        if not stray[n]:
            codes[n] = follows[codes[n - 1]]
    return codes


# -- models ------------------------------------------------------------------------------------


def mlp(width: int) -> keras.Model:
    """Return a network of two dense layers and an output for grey pictures."""
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(width, activation="relu"),
            layers.Dense(width // 2, activation="relu"),
            layers.Dense(10),
        ]
    )


def cnn(width: int) -> keras.Model:
    """Return a small convolutional network for colour pictures."""
    hidden = [keras.Input((32, 32, 3)), layers.Rescaling(1 / 255)]
    for filters in (width, 2 * width, 4 * width):
        hidden.append(layers.Conv2D(filters, 3, 2, padding="same", activation="relu"))
    hidden += [layers.Flatten(), layers.Dense(16 * width, activation="relu"), layers.Dense(10)]
    return keras.Sequential(hidden)


class Positions(layers.Layer):
    """Adds a vector of its own to each place in the text."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.places = self.add_weight(shape=shape[1:], initializer="random_normal", name="places")

    def call(self, x: Any) -> Any:
        return x + self.places


def transformer(width: int) -> keras.Model:
    """Return a transformer that names the next character at every place."""
    inputs = keras.Input((CONTEXT,), dtype="int32")
    x = Positions()(layers.Embedding(80, width)(inputs))
    for _ in range(width // 32):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(2, width // 2)(y, y, use_causal_mask=True)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(y))
    return keras.Model(inputs, layers.Dense(80)(layers.LayerNormalization()(x)))


@dataclass(frozen=True)
class Task:
    """A kind of model, its data and how it is trained."""

    name: str
    data: Callable[[], Data]
    model: Callable[[int], keras.Model]
    small: int
    """Width of the model that trains to the end in a minute."""
    large: int
    """Width of the model whose sizes are measured."""
    batch: int
    rate: float
    step: float = STEP
    """k of its updates."""


TASKS = {
    task.name: task
    for task in (
        Task("mlp", digits, mlp, small=256, large=1024, batch=32, rate=1e-3),
        Task("cnn", pictures, cnn, small=16, large=36, batch=32, rate=1e-3),
        Task(
            "transformer",
            text,
            transformer,
            small=64,
            large=160,
            batch=8,
            rate=2e-3,
            step=FINE_STEP,
        ),
    )
}


# -- steps -------------------------------------------------------------------------------------


class Learner:
    """A Keras model as functions over flat weights, compiled once."""

    def __init__(self, task: Task, *, width: int, steps: int) -> None:
        """Build the model; `steps` are those of one volunteer in the whole training."""
        self.task = task
        self.data = task.data()
        self.model = task.model(width)
        self._optimizer = keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(task.rate, steps)
        )
        self._optimizer.build(self.model.trainable_variables)
        self._first_slots = [np.array(slot.value) for slot in self._optimizer.variables]
        self._fixed = [variable.value for variable in self.model.non_trainable_variables]
        specs = [TensorSpec(v.path, tuple(v.shape)) for v in self.model.trainable_variables]
        self.layout = Layout(tuple(specs))

    def first(self, seed: int) -> Flat:
        """Return fresh weights."""
        keras.utils.set_random_seed(seed)
        model = keras.models.clone_model(self.model)
        return self.layout.flatten([np.array(v.value) for v in model.trainable_variables])

    def slots(self) -> list[np.ndarray]:
        """Return what an optimizer remembers that has made no step."""
        return self._first_slots

    def train(self, weights: Flat, slots: list[Any], rows: np.ndarray) -> tuple[Flat, list[Any]]:
        """Return the weights and the optimizer's memory after a step on each row of `rows`."""
        x, y = self.data.x[rows], self.data.y[rows]
        trained = self.layout.views(weights)
        for n in range(len(rows)):
            # A step a call: XLA's convolutions on a processor crawl inside a compiled loop.
            trained, slots = self._step(trained, slots, x[n], y[n])
        return self.layout.flatten([np.asarray(tensor) for tensor in trained]), slots

    def judge(self, weights: Flat) -> tuple[float, float]:
        """Return the held-out loss and accuracy."""
        views, data = self.layout.views(weights), self.data
        starts = range(0, len(data.held_x), 500)
        parts = [
            self._score(views, data.held_x[at : at + 500], data.held_y[at : at + 500])
            for at in starts
        ]
        loss, right = np.mean(parts, axis=0)
        return float(loss), float(right)

    @partial(jax.jit, static_argnums=0)
    def _step(self, weights: list[Any], slots: list[Any], x: Any, y: Any) -> Any:
        slopes = jax.grad(lambda now: self._loss(now, x, y)[0])(weights)
        return self._optimizer.stateless_apply(slots, slopes, weights)

    @partial(jax.jit, static_argnums=0)
    def _score(self, weights: list[Any], x: Any, y: Any) -> Any:
        loss, logits = self._loss(weights, x, y)
        return loss, (logits.argmax(-1) == y).mean()

    def _loss(self, weights: list[Any], x: Any, y: Any) -> Any:
        logits, _ = self.model.stateless_call(weights, self._fixed, x, training=True)
        losses = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
        return losses.mean(), logits


# -- rounds ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coding:
    """How a training travels: the step up and down (none: float32), and the error feedback."""

    up: float | None = None
    down: float | None = None
    feedback: Feedback = Feedback(share=0.0)
    """What of that which coding dropped goes into the volunteer's next update."""


def usual(task: Task) -> Coding:
    """Return what the product does, as a rule."""
    return Coding(up=task.step, down=1.4, feedback=feedback_of(task.step))


FRUGAL = Coding(up=4.0, down=1.4, feedback=feedback_of(4.0))
"""What it does on a line too thin for that."""


@dataclass(frozen=True)
class Round:
    """What one round sent, and what came of it."""

    wanted: Flat
    """The first volunteer's difference before it was coded, feedback included."""
    owed: Flat
    """The server's difference before it was coded: what the published weights lack."""
    published: Flat
    update_bytes: float
    delta_bytes: int


def coded(facts: FrameFacts, change: Flat, layout: Layout, k: float | None) -> tuple[Flat, int]:
    """Return a difference as it arrives, and its bytes on the way."""
    if k is None:
        return change, change.nbytes
    data = frames.encode_difference(facts, change, layout, k=k)
    return frames.decode_difference(data, layout)[1], len(data)


class Volunteer:
    """One volunteer: its share of the records, its optimizer, what coding dropped."""

    def __init__(self, learner: Learner, coding: Coding, rows: np.ndarray, seed: int) -> None:
        self._learner = learner
        self._coding = coding
        self._rows = rows
        self._rng = np.random.default_rng(seed)
        self._slots = learner.slots()
        self._owed: Flat = np.zeros(learner.layout.size, np.float32)

    def round(self, base: Flat, steps: int) -> tuple[Flat, Flat, int]:
        """Return a round's difference as wanted and as it arrives, and its bytes."""
        layout = self._learner.layout
        rows = self._rng.choice(self._rows, (steps, self._learner.task.batch))
        trained, self._slots = self._learner.train(base, self._slots, rows)
        coding, owed = self._coding, self._owed
        wanted = frames.difference(trained, base, layout) + owed
        arrived, size = coded(UPDATE, wanted, layout, coding.up)
        self._owed = to_feed_back(wanted, arrived, owed, layout, coding.feedback)
        return wanted, arrived, size


def rounds(
    learner: Learner, coding: Coding, *, seed: int, count: int, steps: int
) -> Iterator[Round]:
    """Train for `count` rounds of `steps` steps a volunteer, all from the seed."""
    order = np.random.default_rng(seed).permutation(len(learner.data.x))
    shares = np.array_split(order, VOLUNTEERS)
    crowd = [
        Volunteer(learner, coding, share, seed * VOLUNTEERS + n) for n, share in enumerate(shares)
    ]
    at_work = activity.measure([steps] * VOLUNTEERS)
    exact = published = learner.first(seed)
    for number in range(1, count + 1):
        sent = [volunteer.round(published, steps) for volunteer in crowd]
        given = [Contribution(lambda c=arrived: c, steps, steps) for _, arrived, _ in sent]
        exact = merge(exact, learner.layout, given, at_work).weights
        owed = frames.difference(exact, published, learner.layout)
        change, delta_bytes = coded(DELTA, owed, learner.layout, coding.down)
        published = exact if coding.down is None else published + change
        if coding.down is not None and number % KEY_EVERY == 0:
            published = key(published)
        sizes = [size for _, _, size in sent]
        yield Round(sent[0][0], owed, published, float(np.mean(sizes)), delta_bytes)


def key(weights: Flat) -> Flat:
    """Return the weights that a keyframe holds."""
    rounding = getattr(frames, "round_keyframe", None)
    return weights if rounding is None else rounding(weights)
