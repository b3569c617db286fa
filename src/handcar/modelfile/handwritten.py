"""The form of a network that people write: `input`, `layers`, and perhaps `output`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from handcar.modelfile.kinds import OneOf, Wholes
from handcar.modelfile.limits import MAX_DIMENSION, MAX_LAYERS, MAX_RANK
from handcar.modelfile.network import NAME, NAME_RULE, RawLayer, RawNetwork
from handcar.modelfile.problems import Problems, short, short_key
from handcar.modelfile.schema import InputDtype, InputSpec, Shape, Tensor

REFERENCE = re.compile(r"([A-Za-z0-9_]{1,64})(?::([0-9]{1,3}))?")
INPUT_LAYERS = ("Input", "InputLayer")
SHAPE = Wholes(1, MAX_RANK, 1, MAX_DIMENSION)
DTYPE = OneOf(("float32", "int32", "uint8"), null="float32")
LAYER_KEYS = frozenset({"layer", "name", "inputs"})


def read_handwritten(document: Mapping[str, object], problems: Problems) -> RawNetwork:
    """Return the network of `input`, `layers` and `output` as far as they are well formed."""
    layers = document.get("layers")
    if not isinstance(layers, list) or not 1 <= len(layers) <= MAX_LAYERS:
        problems.add("layers", f"must be a list of 1 to {MAX_LAYERS} layers, got {short(layers)}")
        layers = []
    first = layers[0] if layers else None
    if isinstance(first, dict) and first.get("layer") in INPUT_LAYERS:
        if "input" in document:
            problems.add("layers[0]", "the input is given twice: here and as `input`")
        rest = {key: first[key] for key in first if key != "layer"}
        network = RawNetwork(read_input(rest, "layers[0]", problems))
    else:
        network = RawNetwork(read_input(document.get("input"), "input", problems))
        first = None
    for index, layer in enumerate(layers):
        if layer is not first or first is None:
            network.layers.append(read_layer(layer, f"layers[{index}]", problems))
    if "output" in document:
        network.output = read_tensor(document["output"], "output", problems)
    return network


def read_input(raw: object, path: str, problems: Problems) -> InputSpec:
    """Return the shape, number type and name of one record."""
    if not isinstance(raw, dict):
        problems.add(path, f'must be an object such as {{"shape": [8, 8]}}, got {short(raw)}')
        return InputSpec((1,))
    for key in sorted(raw.keys() - {"shape", "dtype", "name"}):
        problems.add(f"{path}.{short_key(key)}", "is not known; expected shape, dtype or name")
    name = raw.get("name", "input")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        problems.add(f"{path}.name", f"{NAME_RULE}, got {short(name)}")
        name = "input"
    shape = cast(Shape, SHAPE.read(raw.get("shape"), f"{path}.shape", problems))
    dtype = cast(InputDtype, DTYPE.read(raw.get("dtype"), f"{path}.dtype", problems))
    return InputSpec(shape, dtype, name)


def read_layer(raw: object, path: str, problems: Problems) -> RawLayer:
    """Return one layer as written."""
    if not isinstance(raw, dict):
        problems.add(path, f'must be an object such as {{"layer": "Flatten"}}, got {short(raw)}')
        raw = {"layer": "Flatten"}
    arguments = {key: raw[key] for key in raw if key not in LAYER_KEYS}
    calls = read_calls(raw["inputs"], f"{path}.inputs", problems) if "inputs" in raw else None
    return RawLayer(raw.get("layer"), raw.get("name"), arguments, calls, path, path)


def read_calls(raw: object, path: str, problems: Problems) -> list[list[Tensor]]:
    """Return what each call reads: `["a", "b"]` is one call, `[["a"], ["b"]]` are two."""
    if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_LAYERS:
        problems.add(path, f'must be a list of layers\' names such as ["dense"], got {short(raw)}')
        return []
    several = all(isinstance(item, list) for item in raw)
    if not several:
        return [read_call(raw, path, problems)]
    return [read_call(call, f"{path}[{index}]", problems) for index, call in enumerate(raw)]


def read_call(raw: list[object], path: str, problems: Problems) -> list[Tensor]:
    """Return what one call reads."""
    return [read_tensor(name, f"{path}[{i}]", problems) for i, name in enumerate(raw)]


def read_tensor(raw: object, path: str, problems: Problems) -> Tensor:
    """Return the tensor that `"dense"`, or `"dense:1"` for its second call, means."""
    match = REFERENCE.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        problems.add(path, f"must be a layer's name, got {short(raw)}")
        return Tensor("")
    return Tensor(match[1], int(match[2] or 0))
