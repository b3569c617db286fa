"""Keyframes, deltas and updates: what travels.

A *difference* is a flat vector in a model's layout whose trainable entries say what to add
and whose statistic entries (BatchNorm's averages and their like) are the new values
themselves: a sum of differences of running variances can turn negative, a value can't.

    keyframe   all weights, which are bfloat16 numbers by then
    delta      the difference between two consecutive versions, coded
    update     one round's difference, coded; same form, another kind

`apply` is one float32 addition per weight in a fixed order, so every holder of a version
who applies its delta holds the same bits after. The delta that leads to a keyframe's version
says that its weights are then rounded, which costs its holders nothing.
docs/reference/frames.md has all of it byte by byte.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from handcar.errors import FrameError
from handcar.wire import codecs, container, entropy
from handcar.wire.coded import Coded, Part, inputs_and_units
from handcar.wire.layout import Flat, Layout, TensorSpec

KEYFRAME_CODECS = {"planes": codecs.decode_planes, "bf16": codecs.decode_bf16}
FrameKind = Literal["keyframe", "delta", "update"]


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """What a frame says of itself beside its numbers."""

    kind: FrameKind
    model: str
    version: int
    """The version it leads to; for an update, the one it started from."""
    weights_sha256: str = ""
    """Digest of the weights that it leads to; empty for an update."""
    rounded: bool = False
    """For a delta: whether the weights that it leads to are then rounded to bfloat16."""


def difference(new: Flat, base: Flat, layout: Layout) -> Flat:
    """Return what leads from `base` to `new`."""
    result = new - base
    for place in layout.statistic_slices:
        result[place] = new[place]
    return result


def apply(change: Flat, base: Flat, layout: Layout) -> Flat:
    """Return the weights that a difference leads to from `base`: one float32 addition each."""
    result = base + change
    for place in layout.statistic_slices:
        result[place] = change[place]
    return result


def moved(weights: Flat, start: Flat, new_start: Flat, layout: Layout) -> Flat:
    """Return what weights that came from one start are from another one, with the same changes."""
    return apply(difference(weights, start, layout), new_start, layout)


@dataclass(frozen=True, slots=True)
class Description:
    """What can be said of a frame by whoever has nothing but its bytes."""

    facts: FrameFacts
    weights: int
    codec: str
    entropy: str | None
    scales: tuple[float, ...]
    sections: tuple[int, ...]
    """Bytes of each section."""
    bytes: int


def describe(data: bytes) -> Description:
    """Return what a frame says of itself, its checksums checked. Raises FrameError."""
    header, sections = container.unpack(data)
    scales, weights = header.get("scales", []), header.get("weights")
    if not isinstance(weights, int) or weights < 0 or not isinstance(scales, list):
        raise FrameError("the frame does not say how many weights it is for")
    return Description(
        facts=_facts(header, ("keyframe", "delta", "update")),
        weights=weights,
        codec=str(header.get("codec")),
        entropy=None if header.get("entropy") is None else str(header["entropy"]),
        scales=tuple(_scales(header, len(scales))) if scales else (),
        sections=tuple(map(len, sections)),
        bytes=len(data),
    )


def round_keyframe(weights: Flat) -> Flat:
    """Return the weights that a keyframe can hold: each number rounded to bfloat16.

    Every holder of a version that is a keyframe rounds as the server does, at no cost in
    bytes, and holds the same bits.
    """
    return codecs.round_bf16(weights)


def lead(data: bytes, base: Flat, layout: Layout) -> tuple[FrameFacts, Flat]:
    """Return what a delta says and the weights that it leads to from `base`. Raises FrameError."""
    facts, change = decode_difference(data, layout)
    if facts.kind != "delta":
        raise FrameError("expected a delta, got an update")
    weights = apply(change, base, layout)
    return facts, round_keyframe(weights) if facts.rounded else weights


def encode_keyframe(facts: FrameFacts, weights: Flat) -> bytes:
    """Return a frame that holds `weights` exactly: as bfloat16 where they are that already."""
    if np.array_equal(codecs.round_bf16(weights), weights):
        return container.pack(
            _header(facts, weights.size, codec="bf16"), [codecs.encode_bf16(weights)]
        )
    return container.pack(
        _header(facts, weights.size, codec="planes"), [codecs.encode_planes(weights)]
    )


def decode_keyframe(data: bytes, layout: Layout) -> tuple[FrameFacts, Flat]:
    """Return what a keyframe says and its weights. Raises FrameError."""
    header, sections = container.unpack(data)
    facts = _facts(header, ("keyframe",))
    decode = KEYFRAME_CODECS.get(str(header.get("codec")))
    if decode is None or len(sections) != 1:
        raise FrameError(f"a keyframe of an unknown codec: {header.get('codec')!r}")
    return facts, decode(sections[0], layout.size)


def encode_difference(facts: FrameFacts, change: Flat, layout: Layout, *, k: float) -> bytes:
    """Return a frame of `change` under the step codec; statistics travel exactly."""
    scales, matrices = [], []
    for tensor, place in zip(layout.tensors, layout.slices, strict=True):
        if tensor.kind == "trainable":
            scale = codecs.step_scale(change[place], k)
            scales.append(scale)
            values = change[place].reshape(inputs_and_units(tensor))
            matrices.append(codecs.to_matrix(values, scale))
    stage, sections = entropy.encode(matrices)
    statistics = [change[place] for place in layout.statistic_slices]
    sections.append(codecs.encode_planes(np.concatenate([np.empty(0, np.float32), *statistics])))
    header = _header(facts, layout.size, codec="step", entropy=stage, scales=scales)
    return container.pack(header, sections)


def decode_difference(data: bytes, layout: Layout) -> tuple[FrameFacts, Flat]:
    """Return what a delta or an update says and its difference, float32. Raises FrameError."""
    opened = _opened(data, layout)
    numbers = entropy.decode(opened.stage, opened.sections, opened.shapes)
    return opened.facts, _assemble(layout, opened.scales, numbers, opened.statistics)


def decode_coded(data: bytes, layout: Layout) -> tuple[FrameFacts, Coded]:
    """Return the same, in the memory that what is not 0 in it takes. Raises FrameError."""
    opened = _opened(data, layout)
    found = entropy.decode_sparse(opened.stage, opened.sections, opened.shapes)
    parts = tuple(map(Part, _trainable(layout), opened.scales, found))
    return opened.facts, Coded(parts, opened.statistics)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A difference whose whole numbers are still coded."""

    facts: FrameFacts
    scales: list[float]
    stage: object
    sections: entropy.Sections
    shapes: list[entropy.Shape]
    statistics: Flat


def _opened(data: bytes, layout: Layout) -> _Opened:
    header, sections = container.unpack(data)
    facts = _facts(header, ("delta", "update"))
    if header.get("codec") != "step" or not sections:
        raise FrameError(f"a difference of an unknown codec: {header.get('codec')!r}")
    trainable = _trainable(layout)
    scales = _scales(header, len(trainable))
    shapes = [inputs_and_units(tensor)[::-1] for tensor in trainable]
    statistic_size = sum(place.stop - place.start for place in layout.statistic_slices)
    statistics = codecs.decode_planes(sections[-1], statistic_size)
    return _Opened(facts, scales, header.get("entropy"), sections[:-1], shapes, statistics)


def _trainable(layout: Layout) -> list[TensorSpec]:
    return [tensor for tensor in layout.tensors if tensor.kind == "trainable"]


def _assemble(
    layout: Layout, scales: list[float], numbers: NDArray[np.int8], statistics: Flat
) -> Flat:
    change = np.empty(layout.size, dtype=np.float32)
    next_scale = iter(scales)
    number, statistic = 0, 0
    for tensor, place in zip(layout.tensors, layout.slices, strict=True):
        if tensor.kind == "trainable":
            inputs, units = inputs_and_units(tensor)
            matrix = numbers[number : number + tensor.size].reshape(units, inputs)
            codecs.from_matrix(matrix, next(next_scale), change[place].reshape(inputs, units))
            number += tensor.size
        else:
            change[place] = statistics[statistic : statistic + tensor.size]
            statistic += tensor.size
    return change


def _header(facts: FrameFacts, weights: int, **more: object) -> dict[str, Any]:
    return {
        "kind": facts.kind,
        "model": facts.model,
        "version": facts.version,
        "weights_sha256": facts.weights_sha256,
        "rounded": facts.rounded,
        "weights": weights,
        **more,
    }


def _facts(header: dict[str, Any], kinds: tuple[FrameKind, ...]) -> FrameFacts:
    kind, model, version = header.get("kind"), header.get("model"), header.get("version")
    digest = header.get("weights_sha256", "")
    if kind not in kinds:
        raise FrameError(f"expected a frame of kind {' or '.join(kinds)}, got {kind!r}")
    if not isinstance(model, str) or not isinstance(digest, str):
        raise FrameError("the frame does not name its model and digest")
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise FrameError(f"expected a version number, got {version!r}")
    return FrameFacts(kind, model, version, digest, header.get("rounded") is True)


def _scales(header: dict[str, Any], count: int) -> list[float]:
    scales = header.get("scales")
    if not isinstance(scales, list) or len(scales) != count:
        raise FrameError(f"expected {count} scales, one a trainable tensor")
    for scale in scales:
        if not isinstance(scale, int | float) or isinstance(scale, bool):
            raise FrameError(f"expected a number as a scale, got {scale!r}")
        if not (math.isfinite(scale) and 0 <= scale < 1e30):
            raise FrameError(f"expected a scale from 0 to 1e30, got {scale!r}")
    return [float(scale) for scale in scales]
