"""For each class of layer: the shapes of its output and of its weights. No Keras.

Shapes leave out the batch. Axes count as Keras counts them: 0 is the batch, 1 comes first.
`tests/modelfile/test_shapes.py` builds each layer in Keras and compares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from handcar.modelfile.allowlist import argument
from handcar.modelfile.limits import MAX_TIME_DISTRIBUTED
from handcar.modelfile.schema import FunctionConfig, LayerSpec, Shape


class Mismatch(Exception):
    """A layer that cannot take its input, said for a person."""


@dataclass(frozen=True, slots=True)
class WeightRule:
    """One weight of a layer, and how it starts."""

    name: str
    shape: Shape
    initializer: FunctionConfig | None = None
    trained: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a layer makes: its output, its weights, and numbers that it holds in between."""

    output: Shape
    weights: tuple[WeightRule, ...] = ()
    between: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What a layer says: arguments by name, in the type that the table promises."""

    layer: LayerSpec
    shapes: tuple[Shape, ...] = field(default=())

    @property
    def shape(self) -> Shape:
        """The shape of the only input."""
        return self.shapes[0]

    def whole(self, name: str) -> int:
        """Return a whole number."""
        return cast(int, argument(self.layer, name))

    def wholes(self, name: str) -> tuple[int, ...]:
        """Return whole numbers."""
        return cast("tuple[int, ...]", argument(self.layer, name))

    def text(self, name: str) -> str:
        """Return a text."""
        return cast(str, argument(self.layer, name))

    def flag(self, name: str) -> bool:
        """Return yes or no."""
        return cast(bool, argument(self.layer, name))

    def weight(self, name: str, shape: Shape, key: str = "") -> WeightRule:
        """Return a weight that starts as `<key>_initializer` says."""
        initializer = cast(FunctionConfig, argument(self.layer, f"{key or name}_initializer"))
        return WeightRule(name, shape, initializer)

    def bias(self, shape: Shape) -> tuple[WeightRule, ...]:
        """Return the bias, unless the layer has none."""
        return (self.weight("bias", shape),) if self.flag("use_bias") else ()


Rule = Callable[[Said], Outcome]


def need_rank(said: Said, rank: int, form: str) -> None:
    """Refuse an input with another number of dimensions."""
    if len(said.shape) != rank:
        name = said.layer.class_name
        raise Mismatch(f"{name} expects {rank} dimensions {form}, got {said.shape}")


def place(axis: int, shape: Shape) -> int:
    """Return the index into `shape` of an axis that counts the batch as 0."""
    rank = len(shape) + 1
    index = axis + rank if axis < 0 else axis
    if not 1 <= index < rank:
        raise Mismatch(f"axis {axis} is not one of 1..{rank - 1}; the input is {shape}")
    return index - 1


def places(axes: Sequence[int], shape: Shape) -> tuple[int, ...]:
    """Return the indices of axes, each named once."""
    found = tuple(place(axis, shape) for axis in axes)
    if len(set(found)) < len(found):
        raise Mismatch(f"axes {list(axes)} name one axis twice; the input is {shape}")
    return found


def same(said: Said) -> Outcome:
    """Leave the shape as it is."""
    return Outcome(said.shape)


def dropped(said: Said) -> Outcome:
    """Leave the shape as it is; chance may be shared along some axes."""
    shared = said.wholes("noise_shape")
    if shared and len(shared) != len(said.shape) + 1:
        raise Mismatch(f"noise_shape must have {len(said.shape) + 1} entries, got {len(shared)}")
    return Outcome(said.shape)


def dense(said: Said) -> Outcome:
    """Map the last axis."""
    units = said.whole("units")
    kernel = said.weight("kernel", (said.shape[-1], units))
    return Outcome((*said.shape[:-1], units), (kernel, *said.bias((units,))))


def slid(size: int, kernel: int, stride: int, padding: str) -> int:
    """Return how many places a window takes along one axis."""
    if padding != "valid":
        return -(-size // stride)
    if kernel > size:
        raise Mismatch(f"a window of {kernel} does not fit into {size}; use padding 'same'")
    return (size - kernel) // stride + 1


FORMS = {1: "(steps, channels)", 2: "(height, width, channels)"}


def spatial(said: Said, rank: int) -> Shape:
    """Return the spatial shape after a convolution of this rank."""
    need_rank(said, rank + 1, FORMS[rank])
    strides, dilation = said.wholes("strides"), said.wholes("dilation_rate")
    if max(strides) > 1 and max(dilation) > 1:
        raise Mismatch("strides and dilation_rate must not both be larger than 1")
    return tuple(
        slid(size, (kernel - 1) * gap + 1, stride, said.text("padding"))
        for size, kernel, stride, gap in zip(
            said.shape, said.wholes("kernel_size"), strides, dilation, strict=False
        )
    )


def convolution(rank: int) -> Rule:
    """Return the rule of Conv1D or Conv2D."""

    def rule(said: Said) -> Outcome:
        out, channels = spatial(said, rank), said.shape[-1]
        filters, groups = said.whole("filters"), said.whole("groups")
        if channels % groups or filters % groups:
            raise Mismatch(f"groups {groups} must divide channels {channels}, filters {filters}")
        kernel = said.weight("kernel", (*said.wholes("kernel_size"), channels // groups, filters))
        return Outcome((*out, filters), (kernel, *said.bias((filters,))))

    return rule


def need_equal_strides(said: Said) -> None:
    """Refuse what TensorFlow refuses for depthwise convolutions."""
    if len(set(said.wholes("strides"))) > 1:
        raise Mismatch(f"strides must be equal for depthwise, got {said.wholes('strides')}")


def separable(rank: int) -> Rule:
    """Return the rule of SeparableConv1D or SeparableConv2D."""

    def rule(said: Said) -> Outcome:
        out, channels = spatial(said, rank), said.shape[-1]
        need_equal_strides(said)
        filters, multiplier = said.whole("filters"), said.whole("depth_multiplier")
        depth = (*said.wholes("kernel_size"), channels, multiplier)
        point = (*(1,) * rank, channels * multiplier, filters)
        weights = (
            said.weight("depthwise_kernel", depth, "depthwise"),
            said.weight("pointwise_kernel", point, "pointwise"),
            *said.bias((filters,)),
        )
        return Outcome((*out, filters), weights, math.prod(out) * channels * multiplier)

    return rule


def depthwise(said: Said) -> Outcome:
    """Convolve each channel alone."""
    out, channels = spatial(said, 2), said.shape[-1]
    need_equal_strides(said)
    multiplier = said.whole("depth_multiplier")
    shape = (*said.wholes("kernel_size"), channels, multiplier)
    made = channels * multiplier
    kernel = said.weight("kernel", shape, "depthwise")
    return Outcome((*out, made), (kernel, *said.bias((made,))))


def transposed(said: Said) -> Outcome:
    """Convolve backwards: the output is larger."""
    need_rank(said, 3, FORMS[2])
    spatial_shape = tuple(stretched(said, axis) for axis in range(2))
    filters, channels = said.whole("filters"), said.shape[-1]
    kernel = said.weight("kernel", (*said.wholes("kernel_size"), filters, channels))
    return Outcome((*spatial_shape, filters), (kernel, *said.bias((filters,))))


def stretched(said: Said, axis: int) -> int:
    """Return the size of one axis after Conv2DTranspose; as Keras computes it."""
    size, stride = said.shape[axis], said.wholes("strides")[axis]
    gap = said.wholes("dilation_rate")[axis]
    if stride > 1 and gap > 1:
        raise Mismatch("strides and dilation_rate must not both be larger than 1")
    kernel = (said.wholes("kernel_size")[axis] - 1) * gap + 1
    extra = said.wholes("output_padding")[axis] if said.wholes("output_padding") else None
    if extra is not None and extra >= stride:
        raise Mismatch(f"output_padding {extra} must be smaller than strides {stride}")
    if said.text("padding") == "valid":
        return (size - 1) * stride + kernel + (max(stride - kernel, 0) if extra is None else extra)
    return size * stride if extra is None else (size - 1) * stride + kernel % 2 + extra


def pooling(rank: int) -> Rule:
    """Return the rule of a pooling layer."""

    def rule(said: Said) -> Outcome:
        need_rank(said, rank + 1, FORMS[rank])
        pool = said.wholes("pool_size")
        steps = zip(said.shape, pool, said.wholes("strides") or pool, strict=False)
        padding = said.text("padding")
        out = tuple(slid(size, window, stride, padding) for size, window, stride in steps)
        return Outcome((*out, said.shape[-1]))

    return rule


def global_pooling(rank: int) -> Rule:
    """Return the rule of a global pooling layer."""

    def rule(said: Said) -> Outcome:
        need_rank(said, rank + 1, FORMS[rank])
        kept = (1,) * rank if said.flag("keepdims") else ()
        return Outcome((*kept, said.shape[-1]))

    return rule


def flatten(said: Said) -> Outcome:
    """Put all numbers in one row."""
    return Outcome((math.prod(said.shape),))


def reshape(said: Said) -> Outcome:
    """Read the numbers in another shape; -1 stands for what is left."""
    target, size = said.wholes("target_shape"), math.prod(said.shape)
    known = math.prod(part for part in target if part != -1)
    if 0 in target or target.count(-1) > 1:
        raise Mismatch(f"target_shape {list(target)} must have no 0 and -1 at most once")
    if size % known or (-1 not in target and known != size):
        raise Mismatch(f"target_shape {list(target)} does not hold the {size} of {said.shape}")
    return Outcome(tuple(size // known if part == -1 else part for part in target))


def permute(said: Said) -> Outcome:
    """Change the order of the axes."""
    dims = said.wholes("dims")
    if sorted(dims) != list(range(1, len(said.shape) + 1)):
        raise Mismatch(f"dims {list(dims)} must name each axis of {said.shape} once, from 1")
    return Outcome(tuple(said.shape[axis - 1] for axis in dims))


def repeat(said: Said) -> Outcome:
    """Repeat a row n times."""
    need_rank(said, 1, "(features,)")
    return Outcome((said.whole("n"), *said.shape))


def padded(name: str, rank: int, sign: int) -> Rule:
    """Return the rule of ZeroPadding (sign 1) or Cropping (sign -1)."""

    def rule(said: Said) -> Outcome:
        need_rank(said, rank + 1, FORMS[rank])
        ends = argument(said.layer, name)
        pairs = cast("tuple[tuple[int, int], ...]", ends if rank == 2 else (ends,))
        sizes = zip(said.shape, pairs, strict=False)
        out = tuple(size + sign * sum(pair) for size, pair in sizes)
        if min(out) < 1:
            raise Mismatch(f"{name} {pairs} leaves nothing of {said.shape}")
        return Outcome((*out, said.shape[-1]))

    return rule


def upsampled(rank: int) -> Rule:
    """Return the rule of UpSampling1D or UpSampling2D."""

    def rule(said: Said) -> Outcome:
        need_rank(said, rank + 1, FORMS[rank])
        size = said.wholes("size") if rank == 2 else (said.whole("size"),)
        out = tuple(old * times for old, times in zip(said.shape, size, strict=False))
        return Outcome((*out, said.shape[-1]))

    return rule


def ranked(rank: int) -> Rule:
    """Return the rule of a layer that leaves shapes alone but wants this many dimensions."""

    def rule(said: Said) -> Outcome:
        need_rank(said, rank, FORMS[rank - 1])
        return Outcome(said.shape)

    return rule


def limited_steps(said: Said) -> int:
    """Return the steps of TimeDistributed, which writes each out."""
    if len(said.shape) < 2:
        raise Mismatch(f"TimeDistributed expects at least 2 dimensions, got {said.shape}")
    if said.shape[0] > MAX_TIME_DISTRIBUTED:
        raise Mismatch(f"TimeDistributed takes at most {MAX_TIME_DISTRIBUTED} steps")
    return said.shape[0]
