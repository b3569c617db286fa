"""Whether a data set fits a model: shapes, types, and labels within what comes out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from handcar.data.reading import Kind
from handcar.data.sources import Source
from handcar.data.survey import Survey
from handcar.errors import DataError

SPARSE = "SparseCategoricalCrossentropy"
CATEGORICAL = frozenset({"CategoricalCrossentropy", "CategoricalFocalCrossentropy", "KLDivergence"})
SHARES = frozenset({"BinaryCrossentropy", "BinaryFocalCrossentropy"})
NAMED = 20
"""So many classes are named in a hint."""
WHOLE = {"uint8": (0, 255), "int32": (-(2**31), 2**31 - 1)}


@dataclass(frozen=True, slots=True)
class Expected:
    """What a model takes and gives, a record at a time, and the loss between that and y."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    loss: str
    input_dtype: str = "float32"
    loss_config: Mapping[str, Any] = field(default_factory=dict)
    tokens: int | None = None
    """How many token numbers the model knows, where its input is tokens."""


def check_fits(source: Source, expected: Expected) -> None:
    """Raise DataError, one line a problem, unless the records fit the model."""
    problems: list[str] = []
    for part in source.parts:
        problems += _input_problems(part["x"].survey, expected, source.kind)
        problems += _output_problems(part["y"].survey, expected, source)
    if problems:
        raise DataError("\n".join(dict.fromkeys(problems)))


def _input_problems(x: Survey, expected: Expected, kind: Kind) -> Iterator[str]:
    if x.shape != expected.input_shape:
        mended = _mended(kind, x.shape, expected.input_shape)
        yield (
            f"x: expected records of the shape {expected.input_shape}, which is the model's "
            f"input, got {x.shape}{mended}"
        )
    if expected.input_dtype in WHOLE:
        lowest, highest = WHOLE[expected.input_dtype]
        if x.dtype.kind not in "biu" or not lowest <= x.lowest <= x.highest <= highest:
            yield (
                f"x: expected whole numbers from {lowest} to {highest}, since the model's input "
                f"is {expected.input_dtype}, got {x.dtype} from {x.lowest} to {x.highest}"
            )

    if expected.tokens is not None and x.highest >= expected.tokens:
        yield (
            f"x: expected token numbers from 0 to {expected.tokens - 1}, which the model's "
            f"Embedding knows, got {x.lowest} to {x.highest}: set its input_dim to "
            f"{int(x.highest) + 1}"
        )


def _mended(kind: Kind, got: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Say how to save or read the data otherwise, or which input the model should have."""
    if kind == "arrays":
        return _shape_hint("x", got, wanted)
    mend = f"set the model's input shape to {list(got)}"
    if kind == "pictures" and len(wanted) == 3 and wanted[2] == got[2]:
        return f": --size {wanted[1]}x{wanted[0]} resizes the pictures, or {mend}"
    if kind == "text" and len(wanted) == 1:
        return f": say --window {wanted[0]}, or {mend}"
    return f": {mend}"


def _shape_hint(name: str, got: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if wanted == (*got, 1):
        return f". The channel axis is missing: save {name}[..., None]"
    if got == (*wanted, 1):
        return f". There is a last axis too many: save {name}[..., 0]"
    if len(got) > 1 and wanted == (*got[1:], got[0]):
        return f". The channels come first: save numpy.moveaxis({name}, 1, -1)"
    if math.prod(got) == math.prod(wanted):
        return f". As many numbers: {name}.reshape(len({name}), {', '.join(map(str, wanted))}) fits"
    return f": change the model's input, or {name}" if name == "x" else ""


def _output_problems(y: Survey, expected: Expected, source: Source) -> Iterator[str]:
    if expected.loss == SPARSE:
        yield from _label_problems(y, expected, source)
        return
    if expected.output_shape not in (y.shape, (*y.shape, 1)):
        yield (
            f"y: expected the shape {expected.output_shape} of the model's output, got {y.shape}"
            f"{_output_hint(y, expected)}"
        )
    if expected.loss in SHARES and not 0 <= y.lowest <= y.highest <= 1:
        yield f"y: expected 0 to 1 for {expected.loss}, got {y.lowest} to {y.highest}"


def _output_hint(y: Survey, expected: Expected) -> str:
    if expected.loss in CATEGORICAL and y.classes is not None:
        return '. For class numbers use the loss "sparse_categorical_crossentropy"'
    return _shape_hint("y", y.shape, expected.output_shape)


def _label_problems(y: Survey, expected: Expected, source: Source) -> Iterator[str]:
    *places, classes = expected.output_shape or (1,)
    if y.shape not in (tuple(places), (*places, 1)):
        hint = ""
        if y.shape == expected.output_shape:
            hint = '. One-hot labels go with the loss "categorical_crossentropy"'
        yield f"y: expected class numbers of the shape {tuple(places)}, got {y.shape}{hint}"
        return
    if y.dtype.kind not in "biu":
        yield f'y: expected whole class numbers, got {y.dtype}: save y.astype("int64")'
    elif expected.loss_config.get("ignore_class") is None:
        yield from _range_problems(y, classes, source)


def _range_problems(y: Survey, classes: int, source: Source) -> Iterator[str]:
    if y.lowest < 0 or y.highest >= classes:
        hint = _units_hint(y, source)
        if (y.lowest, y.highest) == (1, classes):
            hint = ". They begin at 1: save y - 1, or give the last layer one unit more"
        yield (
            f"y: expected class numbers from 0 to {classes - 1}, since the model has {classes} "
            f"outputs, got {y.lowest} to {y.highest}{hint}"
        )


def _units_hint(y: Survey, source: Source) -> str:
    """Say how many units the last layer needs, where the data say what the numbers mean."""
    if source.class_names:
        names = ", ".join(source.class_names[:NAMED]) + (" ..." if y.highest >= NAMED else "")
        return f". The classes are {names}: give the last layer {len(source.class_names)} units"
    if source.kind == "text":
        return f": give the last layer {int(y.highest) + 1} units or more"
    return ""
