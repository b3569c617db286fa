"""The table says what Keras says: the same arguments, the same defaults."""

import inspect

import keras
import pytest

from handcar.modelfile.allowlist import LAYERS
from handcar.modelfile.functions import (
    ACTIVATION,
    CONSTRAINTS,
    INITIALIZERS,
    LOSSES,
    METRICS,
    OPTIMIZERS,
    REGULARIZERS,
    SCHEDULES,
)
from handcar.modelfile.kinds import REQUIRED
from handcar.modelfile.problems import Problems

TABLES = [
    (keras.layers, LAYERS),
    (keras.initializers, INITIALIZERS),
    (keras.regularizers, REGULARIZERS),
    (keras.constraints, CONSTRAINTS),
    (keras.losses, LOSSES),
    (keras.metrics, METRICS),
    (keras.optimizers, OPTIMIZERS),
    (keras.optimizers.schedules, SCHEDULES),
]
CLASSES = [(module, name, table[name]) for module, table in TABLES for name in table]
NOT_IN_SIGNATURES = {
    *("trainable", "dtype", "zero_output_for_mask", "rms_scaling", "use_causal_mask"),
    *("activity_regularizer", "of"),
}
OURS = {("Normalization", "mean"), ("Normalization", "variance")}


def plain(value):
    return [plain(item) for item in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize(("module", "name", "entry"), CLASSES, ids=lambda one: str(one)[:30])
def test_defaults_are_those_of_keras(module, name, entry):
    parameters = inspect.signature(getattr(module, name).__init__).parameters
    for key, argument in entry.arguments.items():
        if key in NOT_IN_SIGNATURES or (name, key) in OURS:
            continue
        if parameters[key].default is inspect.Parameter.empty:
            assert argument.default is REQUIRED, key
            continue
        problems = Problems()
        default = plain(parameters[key].default)
        if key == "data_format":
            default = "channels_last"
        value = argument.kind.read(default, key, problems)
        assert not problems.found
        assert value == argument.default, key


def test_every_activation_is_one_of_keras_functions():
    for name in (*ACTIVATION.values, *ACTIVATION.aliases):
        assert callable(getattr(keras.activations, name))
