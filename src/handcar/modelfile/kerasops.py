"""Operations such as `x + y` or `x * 0.5` in Keras's JSON, written as the layers they equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from handcar.modelfile.network import RawLayer
from handcar.modelfile.problems import Problems, short
from handcar.modelfile.schema import Tensor

OPERATIONS = "keras.src.ops."
MODULE = "keras.src.ops.numpy"
MERGING = {"Add": "Add", "Subtract": "Subtract", "Multiply": "Multiply"}

Scaling = tuple[float, float]
WITH_NUMBER: dict[tuple[str, bool], Callable[[float], Scaling]] = {
    ("Add", False): lambda number: (1.0, number),
    ("Add", True): lambda number: (1.0, number),
    ("Subtract", False): lambda number: (1.0, -number),
    ("Subtract", True): lambda number: (-1.0, number),
    ("Multiply", False): lambda number: (number, 0.0),
    ("Multiply", True): lambda number: (number, 0.0),
    ("TrueDivide", False): lambda number: (1.0 / (number or 1.0), 0.0),
    ("Divide", False): lambda number: (1.0 / (number or 1.0), 0.0),
}
"""Operation, whether the number comes first -> scale and offset of a `Rescaling`."""


def read_operation(
    raw: Mapping[str, object], calls: list[list[object]] | None, path: str, problems: Problems
) -> RawLayer:
    """Return the layer that an operation equals."""
    layer = RawLayer(raw.get("class_name"), raw.get("name"), {}, None, path, f"{path}.config")
    call = calls[0] if calls else []
    layer.calls = [[item for item in call if isinstance(item, Tensor)]]
    name = str(raw.get("class_name"))
    known = raw.get("module") == MODULE and calls is not None and len(calls) == 1
    if known:
        rewrite(layer, name, call)
    if not known or (layer.class_name != "Rescaling" and not is_merging(name, call)):
        found = short(f"{raw.get('module')}.{name}")
        problems.add(path, f"is an operation that Handcar does not know: {found}; use a layer")
    return layer


def is_merging(name: str, call: list[object]) -> bool:
    """Return whether an operation on tensors alone has a layer of the same name."""
    return name in MERGING and len(call) == 2 and all(isinstance(item, Tensor) for item in call)


def rewrite(layer: RawLayer, name: str, call: list[object]) -> None:
    """Make a `Rescaling` of an operation with one tensor and one number."""
    match call:
        case [Tensor(), (int() | float()) as number]:
            scaling = WITH_NUMBER.get((name, False))
        case [(int() | float()) as number, Tensor()]:
            scaling = WITH_NUMBER.get((name, True))
        case _:
            return
    if scaling is not None:
        scale, offset = scaling(float(number))
        layer.class_name = "Rescaling"
        layer.arguments = {"scale": scale, "offset": offset}
