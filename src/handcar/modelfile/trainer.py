"""A model in training, a round at a time, so that the same round can be trained again.

What a round does follows from its start, its seed, its place in the schedule of the rate, its
batches, and from what the optimizer remembers of the rounds before it. `Network` trains, for
a volunteer and for who checks on it; `replay` trains past rounds again. Keras is used here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from handcar.errors import HandcarError
from handcar.modelfile import batches as forms
from handcar.modelfile import build
from handcar.modelfile.schema import FunctionConfig, ModelFile
from handcar.protocol.messages import RatePlan
from handcar.wire import frames
from handcar.wire.feedback import owed_after
from handcar.wire.layout import Flat, Layout

log = logging.getLogger(__name__)

Array = NDArray[Any]
OnStep = Callable[[Any], bool]
NOBODY = frames.FrameFacts("update", "", 0)
"""Of a frame that goes nowhere."""
SEED_STATE = "seed_generator_state"
"""As Keras names what a layer that draws by chance remembers."""


class Network:
    """The Keras model of one task: weights in and out, and steps."""

    def __init__(self, model_file: ModelFile, layout: Layout, *, seed: int) -> None:
        self._layout = layout
        self.batch_size = model_file.batch_size
        self.model = build.build(model_file, seed=seed)
        self._place = _Place(self.model.optimizer, _rate(self.model.optimizer, model_file))
        self.model.optimizer.learning_rate = self._place
        self.model.optimizer.build(self.model.trainable_variables)
        self._fresh = [_brief(array) for array in self.optimizer()]
        self._chance = [v for v in self.model.variables if v.path.endswith(SEED_STATE)]

    @property
    def draws_by_chance(self) -> bool:
        """Whether layers such as Dropout are in it, which draw otherwise on another backend."""
        return bool(self._chance)

    def set(self, weights: Flat) -> None:
        """Give the model these weights."""
        build.set_weights(self.model, self._layout, weights)

    def get(self) -> Flat:
        """Return a copy of the model's weights."""
        return build.get_weights(self.model, self._layout)

    def begin(self, start: Flat, *, rate: RatePlan, afresh: bool) -> None:
        """Begin a round; `afresh` if the optimizer is to forget what was before."""
        self.set(start)
        if afresh:
            self.set_optimizer(self._fresh)
        self._place.move(rate, began=int(self.model.optimizer.iterations))

    def draw_from(self, seed: int, step: int) -> None:
        """Let layers such as Dropout draw what follows from a round's seed and this step."""
        for number, state in enumerate(self._chance):
            chance = np.random.SeedSequence((seed, step, number)).generate_state(1)[0]
            state.assign(np.array([int(chance) >> 1, 0]).astype(state.dtype))

    def rate(self) -> float:
        """Return the learning rate of the next step."""
        return float(self.model.optimizer.learning_rate)

    def optimizer(self) -> list[Array]:
        """Return a copy of what the optimizer remembers."""
        return [
            np.array(keras.ops.convert_to_numpy(variable))
            for variable in self.model.optimizer.variables
        ]

    def set_optimizer(self, arrays: Sequence[Array]) -> bool:
        """Give the optimizer back what it remembered; say whether that was of the same shape."""
        variables = self.model.optimizer.variables
        if [tuple(v.shape) for v in variables] != [array.shape for array in arrays]:
            log.warning("the optimizer in the checkpoint is of another shape and starts afresh")
            return False
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(np.array(array))
        return True

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Train something else meanwhile: weights and optimizer come back, bit for bit."""
        weights, remembered = self.get(), self.optimizer()
        try:
            yield
        finally:
            self.set(weights)
            self.set_optimizer(remembered)

    def warm_up(self, x: Array, y: Array) -> None:
        """Compile for batches of such records; weights and optimizer stay as they are."""
        rows = np.arange(self.batch_size) % len(x)
        batch = (np.asarray(x[rows])[None], np.asarray(y[rows])[None])
        with self.aside():
            self.train(forms.for_keras(iter([batch])), 1, _never)

    def train(self, batches: Any, steps: int, on_step: OnStep) -> float:
        """Make up to `steps` steps; return the mean loss over those made.

        `on_step(logs)` is called after each; it returns true to end here.
        """
        history = self.model.fit(
            batches,
            steps_per_epoch=steps,
            epochs=1,
            shuffle=False,  # the feed did
            verbose=0,
            callbacks=_callbacks(self.model, on_step),
        )
        return float(history.history["loss"][0])


def _callbacks(model: Any, on_step: OnStep) -> Any:
    # A list of our own, not a callback in Keras's: that one makes Python numbers of the logs
    # after each step, which on JAX waits for the step to end and costs a fifth of the speed.
    class Watch(keras.callbacks.CallbackList):  # type: ignore[misc]  # Keras has no types
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            pass

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if on_step(logs):
                model.stop_training = True

    return Watch(add_history=True, model=model)


def _never(logs: Any) -> bool:
    return False


def _brief(array: Array) -> Array:
    """Return the same array in less memory, if its numbers are all the same."""
    if array.size and (array == array.flat[0]).all():
        return np.broadcast_to(array.flat[0], array.shape)
    return array


# -- the learning rate -------------------------------------------------------------------------


class _Place(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """The model file's rate at the place where everyone's training is.

    Its numbers are variables of the optimizer, so that steps compiled before they change, on
    any backend, read them.
    """

    def __init__(self, optimizer: Any, rate: Any) -> None:
        self._rate = rate
        self._first, self._pace, self._factor, self._began = (
            optimizer.add_variable(shape=(), initializer=initial, dtype="float32", name=name)
            for name, initial in (
                ("first_step", "zeros"),
                ("pace", "ones"),
                ("rate_factor", "ones"),
                ("began", "zeros"),
            )
        )

    def move(self, plan: RatePlan, *, began: int) -> None:
        """Be where a round is that begins when the optimizer has made `began` steps."""
        self._first.assign(plan.first)
        self._pace.assign(plan.pace)
        self._factor.assign(plan.factor)
        self._began.assign(began)

    def __call__(self, step: Any) -> Any:
        """Return the rate when the optimizer has made so many steps."""
        own = keras.ops.cast(step, "float32") - self._began
        rate = self._rate(self._first + own * self._pace) if callable(self._rate) else self._rate
        return self._factor * rate

    def get_config(self) -> dict[str, Any]:
        """Refuse: a model in training is not saved, its weights are."""
        raise NotImplementedError("build the model from its model file and set its weights")


def _rate(optimizer: Any, model_file: ModelFile) -> Any:
    """Return the schedule that a model file names, else its constant rate."""
    named = model_file.optimizer.config.get("learning_rate")
    if isinstance(named, FunctionConfig):
        return build.build_function(build.MODULES["rate"], named)
    return float(optimizer.learning_rate)


# -- once more ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PastStart:
    """What a round started from, or went on from in its middle."""

    weights: Callable[[], Flat]
    """Asked for when it is needed: of large models there is no room for all at once."""
    steps: int
    """Made from there; of the last one nothing is asked."""


@dataclass(frozen=True, slots=True)
class PastRound:
    """A round as it was trained and sent."""

    starts: Sequence[PastStart]
    seed: int
    rate: RatePlan
    parts: Sequence[tuple[int, Iterable[forms.Batches]]]
    """Steps, and the batches of these steps, piece by piece; several where the volunteer
    was restarted in the round."""
    sent: Flat
    """The update's difference, decoded; of the last round nothing is asked."""
    update_step: float


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a round that was trained again."""

    change: Flat
    """How it changed the weights."""
    expected: Flat
    """What an honest update of it says, decoded: to be compared with the one that came."""


def replay(
    network: Network,
    rounds: Sequence[PastRound],
    layout: Layout,
    *,
    expect: Callable[[], None] = lambda: None,
) -> Replayed:
    """Train again what a volunteer trained; return what came of the last round.

    The first of the rounds is the one at which the optimizer began afresh, and at which the
    volunteer owed nothing of what coding had dropped. `expect` is called before each piece of
    batches; a HandcarError that it or the batches raise ends the training, and is raised.
    """
    faults: list[HandcarError] = []
    watch = _Watch(expect, faults)
    change = wanted = owed = np.zeros(layout.size, np.float32)
    for number, one in enumerate(rounds):
        if number:
            before = rounds[number - 1]
            owed = owed_after(wanted, before.sent, owed, layout, before.update_step)
        try:
            change = _train_again(network, one, layout, watch, afresh=number == 0)
        except Exception:
            if faults:  # Keras says in its own words what came out of the batches
                raise faults[0] from None
            raise
        wanted = change + owed
    data = frames.encode_difference(NOBODY, wanted, layout, k=rounds[-1].update_step)
    return Replayed(change, frames.decode_difference(data, layout)[1])


@dataclass(frozen=True, slots=True)
class _Watch:
    expect: Callable[[], None]
    faults: list[HandcarError]

    def pieces(self, pieces: Iterable[forms.Batches]) -> Iterator[forms.Batches]:
        """Yield them; note why they end early."""
        try:
            for piece in pieces:
                self.expect()
                yield piece
        except HandcarError as error:
            self.faults.append(error)
            raise


def _train_again(
    network: Network, one: PastRound, layout: Layout, watch: _Watch, *, afresh: bool
) -> Flat:
    start = one.starts[0].weights()
    network.begin(start, rate=one.rate, afresh=afresh)
    moves = dict(zip(accumulate(its.steps for its in one.starts), one.starts[1:], strict=False))
    made = 0
    for steps, pieces in one.parts:
        network.draw_from(one.seed, made)
        batches = _Batches(watch.pieces(pieces))
        end = made + steps
        for stop in (*sorted(at for at in moves if made < at < end), end):
            network.train(forms.for_keras(batches.take(stop - made)), stop - made, _never)
            made = stop
            if made in moves:
                before, start = start, moves[made].weights()
                network.set(frames.moved(network.get(), before, start, layout))
    return frames.difference(network.get(), start, layout)


class _Batches:
    """Pieces of batches, of which some are taken and later the others."""

    def __init__(self, pieces: Iterable[forms.Batches]) -> None:
        self._pieces = iter(pieces)
        self._left: forms.Batches | None = None

    def take(self, count: int) -> Iterator[forms.Batches]:
        """Yield the next so many batches, piece by piece."""
        while count > 0 and (piece := self._left or next(self._pieces, None)) is not None:
            x, y = piece
            self._left = (x[count:], y[count:]) if len(x) > count else None
            taken, count = count, count - len(x)
            yield x[:taken], y[:taken]
