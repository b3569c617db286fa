"""The rules of normalising, recurrent, attending and merging layers, and the table of all."""

from __future__ import annotations

import math
from typing import Final, cast

from handcar.modelfile.allowlist import argument
from handcar.modelfile.rules import (
    Mismatch,
    Outcome,
    Rule,
    Said,
    WeightRule,
    convolution,
    dense,
    depthwise,
    dropped,
    flatten,
    global_pooling,
    limited_steps,
    need_rank,
    padded,
    permute,
    place,
    places,
    pooling,
    ranked,
    repeat,
    reshape,
    same,
    separable,
    transposed,
    upsampled,
)
from handcar.modelfile.schema import FunctionConfig, LayerSpec, Shape


def scale_and_shift(said: Said, shape: Shape) -> tuple[WeightRule, ...]:
    """Return gamma and beta, as far as the layer has them."""
    gamma = (said.weight("gamma", shape),) if said.flag("scale") else ()
    beta = (said.weight("beta", shape),) if said.flag("center") else ()
    return gamma + beta


def batch_normalised(said: Said) -> Outcome:
    """Normalise over the batch, with moving statistics that are not trained."""
    shape = (said.shape[place(said.whole("axis"), said.shape)],)
    statistics = tuple(
        WeightRule(name, shape, argument_of(said, f"{name}_initializer"), trained=False)
        for name in ("moving_mean", "moving_variance")
    )
    return Outcome(said.shape, scale_and_shift(said, shape) + statistics)


def argument_of(said: Said, name: str) -> FunctionConfig:
    """Return an initializer."""
    return cast(FunctionConfig, argument(said.layer, name))


def layer_normalised(said: Said) -> Outcome:
    """Normalise each record over some axes."""
    axes = places(said.wholes("axis"), said.shape)
    shape = tuple(said.shape[axis] for axis in axes)
    return Outcome(said.shape, scale_and_shift(said, shape))


def group_normalised(said: Said) -> Outcome:
    """Normalise groups of channels."""
    channels = said.shape[place(said.whole("axis"), said.shape)]
    groups = said.whole("groups")
    groups = channels if groups == -1 else groups
    if groups < 1 or channels % groups:
        raise Mismatch(f"groups {groups} must divide the channels, {channels}")
    return Outcome(said.shape, scale_and_shift(said, (channels,)))


def rms_normalised(said: Said) -> Outcome:
    """Normalise by the root of the mean square."""
    (axis,) = places(said.wholes("axis"), said.shape)
    return Outcome(said.shape, (WeightRule("scale", (said.shape[axis],)),))


def unit_normalised(said: Said) -> Outcome:
    """Bring records to length one."""
    places(said.wholes("axis"), said.shape)
    return Outcome(said.shape)


def normalised(said: Said) -> Outcome:
    """Take off a fixed mean, and divide by a fixed variance."""
    (axis,) = places(said.wholes("axis"), said.shape)
    for name in ("mean", "variance"):
        need_count(said, name, said.shape[axis])
    if numbers(said, "mean") != numbers(said, "variance"):
        raise Mismatch("mean and variance must hold as many numbers as each other")
    return Outcome(said.shape)


def rescaled(said: Said) -> Outcome:
    """Multiply by a constant and add one."""
    for name in ("scale", "offset"):
        need_count(said, name, said.shape[-1])
    return Outcome(said.shape)


def numbers(said: Said, name: str) -> int | None:
    """Return how many numbers a list holds; None for a number alone."""
    value = argument(said.layer, name)
    return len(value) if isinstance(value, tuple) else None


def need_count(said: Said, name: str, wanted: int) -> None:
    """Refuse constants that do not fit the axis."""
    count = numbers(said, name)
    if count not in (None, 1, wanted):
        raise Mismatch(f"{name} must be one number or {wanted}, got {count}")


def embedded(said: Said) -> Outcome:
    """Look up a row for each token."""
    width = said.whole("output_dim")
    table = said.weight("embeddings", (said.whole("input_dim"), width))
    return Outcome((*said.shape, width), (table,))


def recurrent(gates: int) -> Rule:
    """Return the rule of SimpleRNN (1 gate), GRU (3) or LSTM (4)."""

    def rule(said: Said) -> Outcome:
        need_rank(said, 2, "(steps, features)")
        steps, features = said.shape
        units = said.whole("units")
        wide = gates * units
        twice = gates == 3 and said.flag("reset_after")
        weights = (
            said.weight("kernel", (features, wide)),
            said.weight("recurrent_kernel", (units, wide), "recurrent"),
            *said.bias((2, wide) if twice else (wide,)),
        )
        output = (steps, units) if said.flag("return_sequences") else (units,)
        return Outcome(output, weights, steps * wide)

    return rule


def child(said: Said) -> LayerSpec:
    """Return the layer inside a wrapper."""
    return cast(LayerSpec, argument(said.layer, "of"))


def prefixed(prefix: str, weights: tuple[WeightRule, ...]) -> tuple[WeightRule, ...]:
    """Return weights with a prefix before their names."""
    return tuple(
        WeightRule(f"{prefix}/{one.name}", one.shape, one.initializer, one.trained)
        for one in weights
    )


def time_distributed(said: Said) -> Outcome:
    """Do the same at each step."""
    steps = limited_steps(said)
    inner = child(said)
    once = RULES[inner.class_name](Said(inner, (said.shape[1:],)))
    inside = prefixed("layer", once.weights)
    return Outcome((steps, *once.output), inside, once.between * steps)


def bidirectional(said: Said) -> Outcome:
    """Read a sequence forwards and backwards."""
    inner = child(said)
    once = RULES[inner.class_name](Said(inner, said.shapes))
    if said.layer.config.get("backward_layer") is not None:
        need_mirror(inner, cast(LayerSpec, argument(said.layer, "backward_layer")))
    width = once.output[-1] * (2 if said.text("merge_mode") == "concat" else 1)
    weights = prefixed("forward", once.weights) + prefixed("backward", once.weights)
    between = 2 * (once.between + math.prod(once.output))
    return Outcome((*once.output[:-1], width), weights, between)


def need_mirror(forward: LayerSpec, backward: LayerSpec) -> None:
    """Refuse a backward layer that is not the forward one, going the other way."""
    turned = dict(backward.config)
    turned["go_backwards"] = not turned.get("go_backwards", False)
    mirrored = {"go_backwards": False, **forward.config}
    if backward.class_name != forward.class_name or turned != mirrored:
        raise Mismatch("backward_layer must be `of` going backwards; leave it out")


def attended(said: Said) -> Outcome:
    """Attend from the query to the value; inputs are query, value and perhaps key."""
    query, value, *rest = said.shapes
    key = rest[0] if rest else value
    if len(query) < 2 or len(value) != len(query) or value[:-1] != key[:-1]:
        raise Mismatch(f"query, value and key must be (steps, features), got {said.shapes}")
    need_all_axes(said, query)
    heads, key_dim = said.whole("num_heads"), said.whole("key_dim")
    value_dim = said.whole("value_dim") or key_dim
    width = said.wholes("output_shape")[0] if said.wholes("output_shape") else query[-1]
    parts = (("query", query, key_dim), ("key", key, key_dim), ("value", value, value_dim))
    weights = [projection(said, name, shape[-1], (heads, dim)) for name, shape, dim in parts]
    weights.append(back_projection(said, (heads, value_dim), width))
    targets, sources = math.prod(query[:-1]), math.prod(value[:-1])
    between = heads * (2 * targets * sources + (targets + sources) * (key_dim + value_dim))
    return Outcome((*query[:-1], width), tuple(one for part in weights for one in part), between)


def need_all_axes(said: Said, query: Shape) -> None:
    """Refuse attention over some of the axes only."""
    axes = said.wholes("attention_axes")
    if axes and places(axes, query) != tuple(range(len(query) - 1)):
        raise Mismatch(f"attention_axes must be left out, or all but the last, got {list(axes)}")


def projection(
    said: Said, name: str, features: int, heads: tuple[int, int]
) -> tuple[WeightRule, ...]:
    """Return the weights that project to the heads."""
    kernel = said.weight("kernel", (features, *heads))
    return prefixed(name, (kernel, *said.bias(heads)))


def back_projection(said: Said, heads: tuple[int, int], width: int) -> tuple[WeightRule, ...]:
    """Return the weights that project back from the heads."""
    kernel = said.weight("kernel", (*heads, width))
    return prefixed("attention_output", (kernel, *said.bias((width,))))


def softmax(said: Said) -> Outcome:
    """Make shares of one axis."""
    place(said.whole("axis"), said.shape)
    return Outcome(said.shape)


def activated_slopes(said: Said) -> Outcome:
    """Learn a slope for each number, or for each along some axes."""
    shared = places(said.wholes("shared_axes") or (), said.shape)
    sizes = enumerate(said.shape)
    shape = tuple(1 if index in shared else size for index, size in sizes)
    return Outcome(said.shape, (said.weight("alpha", shape),))


def merged(said: Said) -> Outcome:
    """Combine inputs number by number; an axis of 1 is repeated."""
    if len({len(shape) for shape in said.shapes}) > 1:
        raise Mismatch(f"inputs must have the same number of dimensions, got {said.shapes}")
    out = tuple(max(sizes) for sizes in zip(*said.shapes, strict=True))
    for sizes in zip(*said.shapes, strict=True):
        if any(size not in (1, max(sizes)) for size in sizes):
            raise Mismatch(f"inputs must have the same shape, got {said.shapes}")
    return Outcome(out)


def concatenated(said: Said) -> Outcome:
    """Put inputs one after the other along an axis."""
    axis = place(said.whole("axis"), said.shape)
    others = {(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in said.shapes}
    if len(others) > 1:
        raise Mismatch(f"inputs must agree on all axes but {axis + 1}, got {said.shapes}")
    total = sum(shape[axis] for shape in said.shapes)
    return Outcome((*said.shape[:axis], total, *said.shape[axis + 1 :]))


def dotted(said: Said) -> Outcome:
    """Multiply and sum along one axis of each input."""
    left, right = said.shapes
    axes = said.wholes("axes")
    one, other = place(axes[0], left), place(axes[1], right)
    if not 1 <= len(left) <= 2 or not 1 <= len(right) <= 2:
        raise Mismatch(f"Dot takes inputs of 1 or 2 dimensions, got {said.shapes}")
    if left[one] != right[other]:
        raise Mismatch(f"axes {list(axes)} must have the same size, got {said.shapes}")
    out = left[:one] + left[one + 1 :] + right[:other] + right[other + 1 :]
    return Outcome(out or (1,))


RULES: Final[dict[str, Rule]] = {
    "Dense": dense,
    "Conv1D": convolution(1),
    "Conv2D": convolution(2),
    "SeparableConv1D": separable(1),
    "SeparableConv2D": separable(2),
    "DepthwiseConv2D": depthwise,
    "Conv2DTranspose": transposed,
    **dict.fromkeys(("MaxPooling1D", "AveragePooling1D"), pooling(1)),
    **dict.fromkeys(("MaxPooling2D", "AveragePooling2D"), pooling(2)),
    **dict.fromkeys(("GlobalMaxPooling1D", "GlobalAveragePooling1D"), global_pooling(1)),
    **dict.fromkeys(("GlobalMaxPooling2D", "GlobalAveragePooling2D"), global_pooling(2)),
    "Flatten": flatten,
    "Reshape": reshape,
    "Permute": permute,
    "RepeatVector": repeat,
    "ZeroPadding1D": padded("padding", 1, 1),
    "ZeroPadding2D": padded("padding", 2, 1),
    "Cropping1D": padded("cropping", 1, -1),
    "Cropping2D": padded("cropping", 2, -1),
    "UpSampling1D": upsampled(1),
    "UpSampling2D": upsampled(2),
    **dict.fromkeys(("Dropout", "AlphaDropout"), dropped),
    **dict.fromkeys(("GaussianDropout", "GaussianNoise"), same),
    "SpatialDropout1D": ranked(2),
    "SpatialDropout2D": ranked(3),
    "BatchNormalization": batch_normalised,
    "LayerNormalization": layer_normalised,
    "GroupNormalization": group_normalised,
    "RMSNormalization": rms_normalised,
    "UnitNormalization": unit_normalised,
    "Normalization": normalised,
    "Rescaling": rescaled,
    "Embedding": embedded,
    "Masking": same,
    "SimpleRNN": recurrent(1),
    "GRU": recurrent(3),
    "LSTM": recurrent(4),
    "TimeDistributed": time_distributed,
    "Bidirectional": bidirectional,
    "MultiHeadAttention": attended,
    **dict.fromkeys(("Activation", "ReLU", "LeakyReLU", "ELU"), same),
    "PReLU": activated_slopes,
    "Softmax": softmax,
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), merged),
    "Concatenate": concatenated,
    "Dot": dotted,
}
