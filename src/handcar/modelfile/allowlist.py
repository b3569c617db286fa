"""The table of layers: class -> argument -> what it may be, and Keras's default.

This table is the check. A layer or an argument that is not in it is refused, however
harmless it looks; `tests/modelfile/test_allowlist.py` compares the defaults with Keras's.
Only `channels_last` is allowed, so that everybody's weights have the same shapes.
"""

from __future__ import annotations

from typing import Final

from handcar.modelfile.functions import (
    ACTIVATION,
    AXIS,
    CONSTRAINT,
    INITIALIZER,
    NEVER,
    POSITIVE,
    REGULARIZER,
    SEED,
    SHARE,
)
from handcar.modelfile.kinds import (
    FLAG,
    Argument,
    Dtype,
    Entry,
    Null,
    Number,
    Numbers,
    OneOf,
    Shared,
    Sides,
    Whole,
    Wholes,
    may,
    need,
)
from handcar.modelfile.limits import MAX_DIMENSION, MAX_INPUTS
from handcar.modelfile.schema import FunctionConfig, LayerSpec, Value
from handcar.modelfile.wrapped import Child

Arguments = dict[str, Argument]

SIZE: Final = Whole(1, MAX_DIMENSION)
RATE: Final = Number(0, 0.999)
EPSILON: Final = Number(1e-12, 1)
GLOROT: Final = FunctionConfig("GlorotUniform")
ZEROS: Final = FunctionConfig("Zeros")
ONES: Final = FunctionConfig("Ones")
LAST: Final[Arguments] = {"data_format": may(OneOf(("channels_last",)), "channels_last")}

COMMON: Final[Arguments] = {
    "trainable": may(FLAG, True),
    "dtype": may(Dtype(), "float32"),
}
"""What every layer may say besides its own arguments."""


def weight(name: str, initializer: FunctionConfig) -> Arguments:
    """Return how one weight starts and what holds it in check."""
    return {
        f"{name}_initializer": may(INITIALIZER, initializer),
        f"{name}_regularizer": may(REGULARIZER),
        f"{name}_constraint": may(CONSTRAINT),
    }


ACTIVITY: Final[Arguments] = {"activity_regularizer": may(REGULARIZER)}
BIAS: Final[Arguments] = {"use_bias": may(FLAG, True), **weight("bias", ZEROS), **ACTIVITY}
KERNEL: Final[Arguments] = {**weight("kernel", GLOROT), **BIAS}
ACTIVATED: Final[Arguments] = {"activation": may(ACTIVATION, "linear")}
SEPARABLE: Final[Arguments] = {
    **weight("depthwise", GLOROT),
    **weight("pointwise", GLOROT),
    **BIAS,
}


def window(rank: int, high: int = 1000) -> Wholes:
    """Return a size along each of `rank` axes."""
    return Wholes(rank, rank, 1, high)


def convolution(rank: int, *, paddings: tuple[str, ...] = ("valid", "same")) -> Arguments:
    """Return what all convolutions of this rank share."""
    return {
        "kernel_size": need(window(rank)),
        "strides": may(window(rank), (1,) * rank),
        "padding": may(OneOf(paddings), "valid"),
        **LAST,
        "dilation_rate": may(window(rank), (1,) * rank),
        **ACTIVATED,
    }


def pooling(rank: int, *, size: tuple[int, ...] | None = None) -> Arguments:
    """Return the arguments of a pooling layer; `size` None where it must be given."""
    pool = window(rank)
    return {
        "pool_size": may(pool, size) if size else need(pool),
        "strides": may(pool),
        "padding": may(OneOf(("valid", "same")), "valid"),
        **LAST,
    }


FILTERS: Final[Arguments] = {"filters": need(SIZE)}
GROUPS: Final[Arguments] = {"groups": may(SIZE, 1)}
MULTIPLIER: Final[Arguments] = {"depth_multiplier": may(Whole(1, 1000), 1)}
GLOBAL: Final[Arguments] = {**LAST, "keepdims": may(FLAG, False)}
CAUSAL: Final = ("valid", "same", "causal")

CONVOLUTIONS: Final = {
    "Conv1D": {**FILTERS, **convolution(1, paddings=CAUSAL), **GROUPS, **KERNEL},
    "Conv2D": {**FILTERS, **convolution(2), **GROUPS, **KERNEL},
    "SeparableConv1D": {
        **FILTERS,
        **convolution(1, paddings=CAUSAL),
        **MULTIPLIER,
        **SEPARABLE,
    },
    "SeparableConv2D": {**FILTERS, **convolution(2), **MULTIPLIER, **SEPARABLE},
    "DepthwiseConv2D": {
        **convolution(2),
        **MULTIPLIER,
        **weight("depthwise", GLOROT),
        **BIAS,
    },
    "Conv2DTranspose": {
        **FILTERS,
        **convolution(2),
        "output_padding": may(Wholes(2, 2, 0, 999)),
        **KERNEL,
    },
}

ENDS: Final = Wholes(2, 2, 0, 1000)
SIDES: Final = Sides(1000)

POOLINGS: Final = {
    "MaxPooling1D": pooling(1, size=(2,)),
    "MaxPooling2D": pooling(2, size=(2, 2)),
    "AveragePooling1D": pooling(1),
    "AveragePooling2D": pooling(2),
    "GlobalAveragePooling1D": GLOBAL,
    "GlobalAveragePooling2D": GLOBAL,
    "GlobalMaxPooling1D": GLOBAL,
    "GlobalMaxPooling2D": GLOBAL,
}

SHAPING: Final[dict[str, Arguments]] = {
    "Flatten": LAST,
    "Reshape": {"target_shape": need(Wholes(1, 6, -1, MAX_DIMENSION))},
    "Permute": {"dims": need(Wholes(1, 6, 1, 6))},
    "RepeatVector": {"n": need(SIZE)},
    "ZeroPadding1D": {"padding": may(ENDS, (1, 1)), **LAST},
    "ZeroPadding2D": {"padding": may(SIDES, ((1, 1), (1, 1))), **LAST},
    "Cropping1D": {"cropping": may(ENDS, (1, 1))},
    "Cropping2D": {"cropping": may(SIDES, ((0, 0), (0, 0))), **LAST},
    "UpSampling1D": {"size": may(Whole(1, 1000), 2)},
    "UpSampling2D": {
        "size": may(window(2), (2, 2)),
        "interpolation": may(OneOf(("nearest", "bilinear")), "nearest"),
        **LAST,
    },
}

REGULARISING: Final[dict[str, Arguments]] = {
    "Dropout": {"rate": need(RATE), "seed": SEED, "noise_shape": may(Shared())},
    "AlphaDropout": {"rate": need(RATE), "seed": SEED, "noise_shape": may(Shared())},
    "GaussianDropout": {"rate": need(RATE), "seed": SEED},
    "GaussianNoise": {"stddev": need(POSITIVE), "seed": SEED},
    "SpatialDropout1D": {"rate": need(RATE), "seed": SEED},
    "SpatialDropout2D": {"rate": need(RATE), "seed": SEED, **LAST},
}

SCALE_AND_SHIFT: Final[Arguments] = {
    "epsilon": may(EPSILON, 0.001),
    "center": may(FLAG, True),
    "scale": may(FLAG, True),
    **weight("beta", ZEROS),
    **weight("gamma", ONES),
}
NORMALISING: Final[dict[str, Arguments]] = {
    "BatchNormalization": {
        "axis": may(AXIS, -1),
        "momentum": may(SHARE, 0.99),
        **SCALE_AND_SHIFT,
        "moving_mean_initializer": may(INITIALIZER, ZEROS),
        "moving_variance_initializer": may(INITIALIZER, ONES),
        "renorm": may(NEVER, False),
        "renorm_clipping": may(Null()),
        "renorm_momentum": may(SHARE, 0.99),
        "synchronized": may(NEVER, False),
    },
    "LayerNormalization": {
        "axis": may(Wholes(1, 4, -6, 6), (-1,)),
        **SCALE_AND_SHIFT,
        "rms_scaling": may(NEVER, False),
    },
    "GroupNormalization": {
        "groups": may(Whole(-1, MAX_DIMENSION), 32),
        "axis": may(AXIS, -1),
        **SCALE_AND_SHIFT,
    },
    "RMSNormalization": {"axis": may(Wholes(1, 1, -6, 6), (-1,)), "epsilon": may(EPSILON, 1e-6)},
    "UnitNormalization": {"axis": may(Wholes(1, 4, -6, 6), (-1,))},
    "Normalization": {
        "axis": may(Wholes(1, 1, -6, 6), (-1,)),
        "mean": need(Numbers()),
        "variance": need(Numbers()),
        "invert": may(FLAG, False),
    },
    "Rescaling": {"scale": need(Numbers()), "offset": may(Numbers(), 0.0)},
}

RECURRENT: Final[Arguments] = {
    "units": need(Whole(1, 65_536)),
    "activation": may(ACTIVATION, "tanh"),
    **weight("kernel", GLOROT),
    **weight("recurrent", FunctionConfig("Orthogonal")),
    **BIAS,
    "dropout": may(RATE, 0.0),
    "recurrent_dropout": may(RATE, 0.0),
    "seed": SEED,
    "return_sequences": may(FLAG, False),
    "return_state": may(NEVER, False),
    "go_backwards": may(FLAG, False),
    "stateful": may(NEVER, False),
    "unroll": may(NEVER, False),
    "zero_output_for_mask": may(FLAG, False),
}
GATED: Final[Arguments] = {**RECURRENT, "recurrent_activation": may(ACTIVATION, "sigmoid")}
SEQUENCES: Final[dict[str, Arguments]] = {
    "Embedding": {
        "input_dim": need(SIZE),
        "output_dim": need(SIZE),
        **weight("embeddings", FunctionConfig("RandomUniform")),
        **ACTIVITY,
        "mask_zero": may(FLAG, False),
        "quantization_config": may(Null()),
        "lora_rank": may(Null()),
    },
    "Masking": {"mask_value": may(Number(), 0.0)},
    "SimpleRNN": RECURRENT,
    "LSTM": {**GATED, "unit_forget_bias": may(FLAG, True)},
    "GRU": {**GATED, "reset_after": may(FLAG, True)},
    "MultiHeadAttention": {
        "num_heads": need(Whole(1, 1024)),
        "key_dim": need(Whole(1, 65_536)),
        "value_dim": may(Whole(1, 65_536)),
        "dropout": may(RATE, 0.0),
        "output_shape": may(Wholes(1, 1, 1, MAX_DIMENSION)),
        "attention_axes": may(Wholes(1, 4, -6, 6)),
        "sliding_window": may(Null()),
        "flash_attention": may(Null()),
        "use_gate": may(NEVER, False),
        "seed": SEED,
        **KERNEL,
        "use_causal_mask": may(FLAG, False),
    },
}
CHILD_OF_TIME_DISTRIBUTED: Final = (
    *("Dense", "Activation", "Flatten", "Reshape", "Permute", "Rescaling", "Dropout"),
    *("Conv1D", "Conv2D", "DepthwiseConv2D", "SeparableConv2D", "LayerNormalization"),
    *POOLINGS,
    *("LSTM", "GRU", "SimpleRNN"),
)

ACTIVATIONS: Final[dict[str, Arguments]] = {
    "Activation": {"activation": need(ACTIVATION)},
    "ReLU": {
        "max_value": may(Number(0, 1e6)),
        "negative_slope": may(POSITIVE, 0.0),
        "threshold": may(POSITIVE, 0.0),
    },
    "LeakyReLU": {"negative_slope": may(POSITIVE, 0.3)},
    "PReLU": {**weight("alpha", ZEROS), "shared_axes": may(Wholes(1, 6, 1, 6))},
    "ELU": {"alpha": may(POSITIVE, 1.0)},
    "Softmax": {"axis": may(AXIS, -1)},
}

MERGING: Final[dict[str, Arguments]] = {
    "Add": {},
    "Subtract": {},
    "Multiply": {},
    "Average": {},
    "Maximum": {},
    "Minimum": {},
    "Concatenate": {"axis": may(AXIS, -1)},
    "Dot": {"axes": need(Wholes(2, 2, -6, 6)), "normalize": may(FLAG, False)},
}
INPUTS: Final = {name: (2, MAX_INPUTS) for name in MERGING} | {
    "Subtract": (2, 2),
    "Dot": (2, 2),
    "MultiHeadAttention": (1, 3),
}
CALL_ARGUMENTS: Final = frozenset({"use_causal_mask"})
"""Arguments that Keras takes when a layer is called, not when it is made."""

_PLAIN: Final[dict[str, Arguments]] = {
    "Dense": {
        "units": need(SIZE),
        **ACTIVATED,
        **KERNEL,
        "quantization_config": may(Null()),
        "lora_rank": may(Null()),
    },
    **CONVOLUTIONS,
    **POOLINGS,
    **SHAPING,
    **REGULARISING,
    **NORMALISING,
    **SEQUENCES,
    **ACTIVATIONS,
    **MERGING,
}


def layer_entry(name: str, arguments: Arguments) -> Entry:
    """Return a layer's entry, with what all layers share."""
    return Entry({**arguments, **COMMON}, "keras.layers", INPUTS.get(name, (1, 1)))


PLAIN_LAYERS: Final = {name: layer_entry(name, _PLAIN[name]) for name in _PLAIN}
# `of` is what Keras calls `layer`; in a model file that word names the class.
WRAPPERS: Final[dict[str, Arguments]] = {
    "TimeDistributed": {"of": need(Child(PLAIN_LAYERS, CHILD_OF_TIME_DISTRIBUTED))},
    "Bidirectional": {
        "of": need(Child(PLAIN_LAYERS, ("LSTM", "GRU", "SimpleRNN"))),
        "merge_mode": may(OneOf(("concat", "sum", "mul", "ave")), "concat"),
        "backward_layer": may(Child(PLAIN_LAYERS, ("LSTM", "GRU", "SimpleRNN"))),
    },
}
LAYERS: Final = PLAIN_LAYERS | {name: layer_entry(name, WRAPPERS[name]) for name in WRAPPERS}


def argument(layer: LayerSpec, name: str) -> Value:
    """Return what a checked layer says about `name`, or Keras's default."""
    default = LAYERS[layer.class_name].arguments[name].default
    value = layer.config.get(name, default)
    if isinstance(value, int | float | str | tuple | FunctionConfig | LayerSpec | None):
        return value
    raise KeyError(name)
