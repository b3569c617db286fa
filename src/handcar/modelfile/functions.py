"""What a model file may name besides layers: activations, losses, optimizers and so on.

The table is the check: a name that is not here is refused, whatever Keras would make of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from handcar.modelfile.kinds import (
    FLAG,
    Argument,
    Entry,
    Function,
    Null,
    Number,
    Numbers,
    OneOf,
    Whole,
    Wholes,
    may,
    need,
)

SEED: Final = may(Whole(0, 2**31 - 1))
POSITIVE: Final = Number(0, 1e6)
SHARE: Final = Number(0, 1)
AXIS: Final = Whole(-6, 6)
NEVER: Final = OneOf((False,))

ACTIVATION: Final = OneOf(
    values=(
        *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu"),
        *("mish", "sigmoid", "hard_sigmoid", "hard_silu", "hard_tanh", "hard_shrink"),
        *("soft_shrink", "tanh", "tanh_shrink", "softmax", "log_softmax", "log_sigmoid"),
        *("softplus", "softsign", "exponential", "squareplus", "sparse_plus"),
        *("sparse_sigmoid", "sparsemax"),
    ),
    aliases={"swish": "silu", "hard_swish": "hard_silu"},
    null="linear",
)


def entries(module: str, table: Mapping[str, Mapping[str, Argument]]) -> dict[str, Entry]:
    """Return the entries of classes that all live in one module of Keras."""
    return {name: Entry(arguments, module) for name, arguments in table.items()}


_FAN: Final = {"seed": SEED, "input_axes": may(Null()), "output_axes": may(Null())}
INITIALIZERS: Final = entries(
    "keras.initializers",
    {
        "Zeros": {},
        "Ones": {},
        "Constant": {"value": may(Number(-1e6, 1e6), 0.0)},
        "GlorotUniform": _FAN,
        "GlorotNormal": _FAN,
        "HeUniform": _FAN,
        "HeNormal": _FAN,
        "LecunUniform": _FAN,
        "LecunNormal": _FAN,
        "RandomNormal": {
            "mean": may(Number(-1e6, 1e6), 0.0),
            "stddev": may(POSITIVE, 0.05),
            "seed": SEED,
        },
        "RandomUniform": {
            "minval": may(Number(-1e6, 1e6), -0.05),
            "maxval": may(Number(-1e6, 1e6), 0.05),
            "seed": SEED,
        },
        "TruncatedNormal": {
            "mean": may(Number(-1e6, 1e6), 0.0),
            "stddev": may(POSITIVE, 0.05),
            "seed": SEED,
        },
        "VarianceScaling": {
            "scale": may(Number(1e-6, 1e6), 1.0),
            "mode": may(OneOf(("fan_in", "fan_out", "fan_avg")), "fan_in"),
            "distribution": may(
                OneOf(("truncated_normal", "untruncated_normal", "uniform")), "truncated_normal"
            ),
            **_FAN,
        },
        "Orthogonal": {"gain": may(POSITIVE, 1.0), "seed": SEED},
        "Identity": {"gain": may(POSITIVE, 1.0)},
    },
)
INITIALIZER: Final = Function(
    "an initializer",
    INITIALIZERS,
    aliases={
        "uniform": "RandomUniform",
        "normal": "RandomNormal",
        "OrthogonalInitializer": "Orthogonal",
        "IdentityInitializer": "Identity",
    },
)

REGULARIZERS: Final = entries(
    "keras.regularizers",
    {
        "L1": {"l1": may(POSITIVE, 0.01)},
        "L2": {"l2": may(POSITIVE, 0.01)},
        "L1L2": {"l1": may(POSITIVE, 0.0), "l2": may(POSITIVE, 0.0)},
    },
)
REGULARIZER: Final = Function("a regularizer", REGULARIZERS, aliases={"l1_l2": "L1L2"})

CONSTRAINTS: Final = entries(
    "keras.constraints",
    {
        "MaxNorm": {"max_value": may(POSITIVE, 2.0), "axis": may(AXIS, 0)},
        "MinMaxNorm": {
            "min_value": may(POSITIVE, 0.0),
            "max_value": may(POSITIVE, 1.0),
            "rate": may(SHARE, 1.0),
            "axis": may(AXIS, 0),
        },
        "NonNeg": {},
        "UnitNorm": {"axis": may(AXIS, 0)},
    },
)
CONSTRAINT: Final = Function("a constraint", CONSTRAINTS)

_LOGITS: Final = {
    "from_logits": may(FLAG, False),
    "label_smoothing": may(SHARE, 0.0),
    "axis": may(AXIS, -1),
}
_FOCAL: Final = {"alpha": may(SHARE, 0.25), "gamma": may(Number(0, 100), 2.0)}
LOSSES: Final = entries(
    "keras.losses",
    {
        "BinaryCrossentropy": _LOGITS,
        "BinaryFocalCrossentropy": {
            "apply_class_balancing": may(FLAG, False),
            **_FOCAL,
            **_LOGITS,
        },
        "CategoricalCrossentropy": _LOGITS,
        "CategoricalFocalCrossentropy": {**_FOCAL, **_LOGITS},
        "SparseCategoricalCrossentropy": {
            "from_logits": may(FLAG, False),
            "ignore_class": may(Whole(-1, 1_000_000)),
            "axis": may(AXIS, -1),
        },
        "CategoricalHinge": {},
        "CosineSimilarity": {"axis": may(AXIS, -1)},
        "Hinge": {},
        "Huber": {"delta": may(POSITIVE, 1.0)},
        "KLDivergence": {},
        "LogCosh": {},
        "MeanAbsoluteError": {},
        "MeanAbsolutePercentageError": {},
        "MeanSquaredError": {},
        "MeanSquaredLogarithmicError": {},
        "Poisson": {},
        "SquaredHinge": {},
    },
)
_ERRORS: Final = {
    "mse": "MeanSquaredError",
    "mae": "MeanAbsoluteError",
    "mape": "MeanAbsolutePercentageError",
    "msle": "MeanSquaredLogarithmicError",
}
LOSS: Final = Function("a loss", LOSSES, aliases=_ERRORS | {"bce": "BinaryCrossentropy"})

METRICS: Final = entries(
    "keras.metrics",
    {
        "Accuracy": {},
        "BinaryAccuracy": {"threshold": may(Number(), 0.5)},
        "CategoricalAccuracy": {},
        "SparseCategoricalAccuracy": {},
        "TopKCategoricalAccuracy": {"k": may(Whole(1, 1000), 5)},
        "SparseTopKCategoricalAccuracy": {"k": may(Whole(1, 1000), 5)},
        "BinaryCrossentropy": {
            "from_logits": may(FLAG, False),
            "label_smoothing": may(SHARE, 0.0),
        },
        "CategoricalCrossentropy": _LOGITS,
        "SparseCategoricalCrossentropy": {
            "from_logits": may(FLAG, False),
            "ignore_class": may(Whole(-1, 1_000_000)),
            "axis": may(AXIS, -1),
        },
        "AUC": {
            "num_thresholds": may(Whole(2, 1000), 200),
            "curve": may(OneOf(("ROC", "PR")), "ROC"),
            "from_logits": may(FLAG, False),
        },
        "Precision": {"thresholds": may(SHARE), "top_k": may(Whole(1, 1000))},
        "Recall": {"thresholds": may(SHARE), "top_k": may(Whole(1, 1000))},
        "CosineSimilarity": {"axis": may(AXIS, -1)},
        "KLDivergence": {},
        "LogCoshError": {},
        "MeanAbsoluteError": {},
        "MeanAbsolutePercentageError": {},
        "MeanSquaredError": {},
        "MeanSquaredLogarithmicError": {},
        "RootMeanSquaredError": {},
        "Poisson": {},
        "Hinge": {},
        "SquaredHinge": {},
        "CategoricalHinge": {},
    },
)
METRIC: Final = Function(
    "a metric",
    METRICS,
    aliases=_ERRORS | {"acc": "Accuracy", "rmse": "RootMeanSquaredError"},
)

_RATE: Final = Number(0, 1e3)
_STEPS: Final = Whole(1, 10**12)
SCHEDULES: Final = entries(
    "keras.optimizers.schedules",
    {
        "CosineDecay": {
            "initial_learning_rate": need(_RATE),
            "decay_steps": need(_STEPS),
            "alpha": may(SHARE, 0.0),
            "warmup_target": may(_RATE),
            "warmup_steps": may(Whole(0, 10**12), 0),
        },
        "CosineDecayRestarts": {
            "initial_learning_rate": need(_RATE),
            "first_decay_steps": need(_STEPS),
            "t_mul": may(Number(1, 100), 2.0),
            "m_mul": may(SHARE, 1.0),
            "alpha": may(SHARE, 0.0),
        },
        "ExponentialDecay": {
            "initial_learning_rate": need(_RATE),
            "decay_steps": need(_STEPS),
            "decay_rate": need(SHARE),
            "staircase": may(FLAG, False),
        },
        "InverseTimeDecay": {
            "initial_learning_rate": need(_RATE),
            "decay_steps": need(_STEPS),
            "decay_rate": need(POSITIVE),
            "staircase": may(FLAG, False),
        },
        "PiecewiseConstantDecay": {
            "boundaries": need(Wholes(1, 100, 1, 10**12)),
            "values": need(Numbers(101, alone=False)),
        },
        "PolynomialDecay": {
            "initial_learning_rate": need(_RATE),
            "decay_steps": need(_STEPS),
            "end_learning_rate": may(_RATE, 0.0001),
            "power": may(Number(0, 100), 1.0),
            "cycle": may(FLAG, False),
        },
    },
)
LEARNING_RATE: Final = Function("a schedule", SCHEDULES, number=True)


def optimizer(
    rate: float, more: Mapping[str, Argument], *, decay: float | None = None
) -> dict[str, Argument]:
    """Return an optimizer's arguments: its own, and those that all have."""
    return {
        "learning_rate": may(LEARNING_RATE, rate),
        **more,
        "weight_decay": may(SHARE, decay),
        "clipnorm": may(POSITIVE),
        "clipvalue": may(POSITIVE),
        "global_clipnorm": may(POSITIVE),
        "use_ema": may(NEVER, False),
        "ema_momentum": may(SHARE, 0.99),
        "ema_overwrite_frequency": may(Null()),
        "loss_scale_factor": may(Null()),
        "gradient_accumulation_steps": may(Null()),
    }


_EPSILON: Final = {"epsilon": may(Number(0, 1), 1e-7)}
_BETAS: Final = {"beta_1": may(SHARE, 0.9), "beta_2": may(SHARE, 0.999), **_EPSILON}
_ADAM: Final = {**_BETAS, "amsgrad": may(FLAG, False)}
_LION: Final = {"beta_1": may(SHARE, 0.9), "beta_2": may(SHARE, 0.99)}
_START: Final = {"initial_accumulator_value": may(SHARE, 0.1), **_EPSILON}
_RHO: Final = {"rho": may(SHARE, 0.9), "momentum": may(SHARE, 0.0), **_EPSILON}
OPTIMIZERS: Final = entries(
    "keras.optimizers",
    {
        "SGD": optimizer(0.01, {"momentum": may(SHARE, 0.0), "nesterov": may(FLAG, False)}),
        "Adam": optimizer(0.001, _ADAM),
        "AdamW": optimizer(0.001, _ADAM, decay=0.004),
        "RMSprop": optimizer(0.001, {**_RHO, "centered": may(FLAG, False)}),
        "Adagrad": optimizer(0.001, _START),
        "Adadelta": optimizer(0.001, {"rho": may(SHARE, 0.95), **_EPSILON}),
        "Adamax": optimizer(0.001, _BETAS),
        "Nadam": optimizer(0.001, _BETAS),
        "Lion": optimizer(0.001, _LION),
    },
)
OPTIMIZER: Final = Function("an optimizer", OPTIMIZERS)
