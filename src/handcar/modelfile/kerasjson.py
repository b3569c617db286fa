"""The form of a network that Keras writes: `model.to_json()`, Sequential or Functional.

Only what we know is taken over; Keras never sees this JSON again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from handcar.errors import ModelFileError
from handcar.modelfile.handwritten import read_input
from handcar.modelfile.kerasops import MODULE, OPERATIONS, read_operation
from handcar.modelfile.kinds import check_module
from handcar.modelfile.limits import MAX_LAYERS, MAX_NESTING
from handcar.modelfile.network import RawLayer, RawNetwork
from handcar.modelfile.parse import nesting, parse_text
from handcar.modelfile.problems import (
    Problems,
    one_of,
    short,
    short_key,
)
from handcar.modelfile.schema import InputSpec, Tensor

MODULES = {
    "Sequential": ("keras", "keras.models"),
    "Functional": ("keras.src.models.functional", "keras", "keras.models"),
    "Model": ("keras", "keras.models"),
}
MODEL_KEYS = frozenset(
    {"name", "trainable", "dtype", "layers", "build_input_shape", "input_layers", "output_layers"}
)
MASKS = ("NotEqual", "Any")
"""The operations that Keras itself puts into a network to pass masks on."""
CALL_NAMES = ("query", "value", "key")
PASSED = {"mask", "training", "use_causal_mask", "return_attention_scores", "initial_state"}
PASSED |= {"query_mask", "value_mask", "key_mask", "attention_mask"}

Object = Mapping[str, object]


@dataclass(slots=True)
class KerasNetwork(RawNetwork):
    """A network as Keras wrote it, and what was seen while reading it."""

    has_input: bool = False
    passes_masks: bool = False


def read_keras(raw: object, path: str, problems: Problems) -> RawNetwork:
    """Return the network of a `to_json()` object, or of a string that holds one."""
    network = KerasNetwork(InputSpec((1,)), output_path=f"{path}.config.output_layers")
    model = opened(raw, path, problems)
    if model is None:
        return network
    config = read_model(model, path, problems)
    layers = config.get("layers")
    if not isinstance(layers, list) or not 1 <= len(layers) <= MAX_LAYERS:
        found = f"got {short(layers)}"
        problems.add(f"{path}.config.layers", f"must be 1 to {MAX_LAYERS} layers, {found}")
        return network
    functional = model.get("class_name") != "Sequential"
    for index, layer in enumerate(layers):
        read_one(network, layer, f"{path}.config.layers[{index}]", problems, functional=functional)
    if not isinstance(layers[0], dict) or layers[0].get("class_name") != "InputLayer":
        problems.add(f"{path}.config.layers[0]", "must be an InputLayer: give the model an Input")
    if functional:
        read_ends(network, config, f"{path}.config", problems)
        check_masks(network, path, problems)
    return network


def opened(raw: object, path: str, problems: Problems) -> Object | None:
    """Return the object, parsed from a string when it is one."""
    if isinstance(raw, str):
        raw = parse_inner(raw, path, problems)
    if isinstance(raw, dict):
        return raw
    problems.add(path, f"must be what model.to_json() returns, got {short(raw)}")
    return None


def parse_inner(text: str, path: str, problems: Problems) -> object:
    """Return the JSON in a string of the file, under the same limits."""
    if nesting(text) > MAX_NESTING:
        problems.add(path, f"must be nested at most {MAX_NESTING} deep")
        return None
    try:
        return parse_text(text)
    except ModelFileError as error:
        problems.add(path, str(error))
        return None


def read_model(model: Object, path: str, problems: Problems) -> Object:
    """Return the model's config; what Keras writes around it is checked and dropped."""
    class_name = model.get("class_name")
    if not isinstance(class_name, str) or class_name not in MODULES:
        wanted = one_of(("Sequential", "Functional"))
        problems.add(f"{path}.class_name", f"must be {wanted}, got {short(class_name)}")
        return {}
    module = model.get("module")
    modules = MODULES[class_name]
    expected = module if isinstance(module, str) and module in modules else modules[0]
    check_module(model, expected, path, problems)
    config = model.get("config")
    if not isinstance(config, dict):
        problems.add(f"{path}.config", f"must be an object, got {short(config)}")
        return {}
    for key in sorted(config.keys() - MODEL_KEYS):
        problems.add(f"{path}.config.{short_key(key)}", "is not a key that Keras writes here")
    if config.get("trainable", True) is not True:
        problems.add(f"{path}.config.trainable", "must be true; set it layer by layer instead")
    return config


def read_one(
    network: KerasNetwork, raw: object, path: str, problems: Problems, *, functional: bool
) -> None:
    """Add one layer of a model to the network."""
    if not isinstance(raw, dict) or not isinstance(raw.get("config"), dict):
        problems.add(path, f"must be a layer as Keras writes it, got {short(raw)}")
        return
    if raw.get("class_name") == "InputLayer":
        if network.layers or network.has_input:
            problems.add(path, "is a second input; Handcar's records are one array")
        network.input = read_input_layer(raw, path, problems)
        network.has_input = True
        return
    if is_mask(raw):
        network.passes_masks = True
        return
    calls = read_nodes(raw, path, problems) if functional else None
    if str(raw.get("module")).startswith(OPERATIONS):
        network.layers.append(read_operation(raw, calls, path, problems))
        return
    check_module(raw, "keras.layers", path, problems)
    config = raw["config"]
    wrapped = {"layer": "of"}
    arguments = {wrapped.get(key, key): config[key] for key in config if key != "name"}
    arguments |= call_arguments(raw)
    name = raw.get("name", config.get("name"))
    tensors = None if calls is None else [tensors_of(call) for call in calls]
    network.layers.append(
        RawLayer(raw.get("class_name"), name, arguments, tensors, path, f"{path}.config")
    )


def read_input_layer(raw: Object, path: str, problems: Problems) -> InputSpec:
    """Return the input that an InputLayer describes."""
    check_module(raw, "keras.layers", path, problems)
    config = cast(Object, raw["config"])
    for key in ("sparse", "ragged", "optional"):
        if config.get(key, False) is not False:
            problems.add(f"{path}.config.{key}", f"must be false, got {short(config[key])}")
    shape = config.get("batch_shape")
    plain = {key: config[key] for key in config.keys() & {"name", "dtype"}}
    known = {"name", "dtype", "batch_shape", "sparse", "ragged", "optional"}
    plain |= {key: config[key] for key in config.keys() - known}
    plain["shape"] = shape[1:] if isinstance(shape, list) else shape
    return read_input(plain, f"{path}.config", problems)


def read_nodes(raw: Object, path: str, problems: Problems) -> list[list[object]]:
    """Return the inputs of each call: tensors, and numbers as operations have them."""
    nodes = raw.get("inbound_nodes")
    if not isinstance(nodes, list) or not 1 <= len(nodes) <= MAX_LAYERS:
        problems.add(f"{path}.inbound_nodes", f"must be a list of calls, got {short(nodes)}")
        return []
    return [
        read_node(node, f"{path}.inbound_nodes[{index}]", problems)
        for index, node in enumerate(nodes)
    ]


def read_node(node: object, path: str, problems: Problems) -> list[object]:
    """Return the inputs of one call."""
    args = node.get("args") if isinstance(node, dict) else None
    kwargs = node.get("kwargs") if isinstance(node, dict) else None
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        problems.add(path, f"must be an object with args and kwargs, got {short(node)}")
        return []
    check_passed(kwargs, f"{path}.kwargs", problems)
    named = [kwargs[key] for key in ("inputs", *CALL_NAMES) if kwargs.get(key) is not None]
    return [
        read_item(item, f"{path}[{index}]", problems)
        for index, item in enumerate(flattened([*args, *named]))
    ]


def flattened(items: list[object]) -> Iterator[object]:
    """Yield the items, with lists among them opened once; null is what was not given."""
    for item in items:
        if item is not None:
            yield from item if isinstance(item, list) else [item]


def check_passed(kwargs: Object, path: str, problems: Problems) -> None:
    """Check what a call says besides its inputs: only what Keras passes on by itself."""
    for key in sorted(kwargs.keys() - {"inputs", *CALL_NAMES} - PASSED):
        problems.add(f"{path}.{short_key(key)}", "is not allowed in a call")
    for key in sorted(PASSED & kwargs.keys() - {"use_causal_mask"}):
        value = kwargs[key]
        passed_on = key.endswith("mask") and isinstance(value, dict)
        if value is not None and value is not False and not passed_on:
            problems.add(f"{path}.{key}", f"must be null, got {short(value)}")


def read_item(raw: object, path: str, problems: Problems) -> object:
    """Return the tensor that Keras's history names, or a plain number."""
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return raw
    config = raw.get("config") if isinstance(raw, dict) else None
    history = config.get("keras_history") if isinstance(config, dict) else None
    if isinstance(raw, dict) and raw.get("class_name") == "__keras_tensor__":
        return read_history(history, path, problems)
    problems.add(path, f"must be the output of another layer, got {short(raw)}")
    return Tensor("")


def read_history(raw: object, path: str, problems: Problems) -> Tensor:
    """Return the tensor of `["dense", 0, 0]`: layer, call, and which of its outputs."""
    match raw:
        case [str(layer), int(call), 0] if type(call) is int:
            return Tensor(layer, call)
    problems.add(path, f'must be as in ["dense", 0, 0], got {short(raw)}')
    return Tensor("")


def tensors_of(call: list[object]) -> list[Tensor]:
    """Return the tensors among the inputs of a call."""
    return [item for item in call if isinstance(item, Tensor)]


def call_arguments(raw: Object) -> dict[str, object]:
    """Return what all calls of a layer say besides their inputs, when it is not the default."""
    nodes = raw.get("inbound_nodes", [])
    said = [
        json.dumps(node["kwargs"].get("use_causal_mask", False))
        for node in (nodes if isinstance(nodes, list) else [])
        if isinstance(node, dict) and isinstance(node.get("kwargs"), dict)
    ]
    different = [value for value in said if value != "false"]
    return {"use_causal_mask": json.loads(different[0])} if different else {}


def read_ends(network: RawNetwork, config: Object, path: str, problems: Problems) -> None:
    """Read which tensors are the model's one input and one output."""
    start = one_end(config.get("input_layers"), f"{path}.input_layers", problems)
    if start.layer != network.input.name:
        problems.add(f"{path}.input_layers", "must name the model's only InputLayer")
    network.output = one_end(config.get("output_layers"), f"{path}.output_layers", problems)


def one_end(raw: object, path: str, problems: Problems) -> Tensor:
    """Return the tensor of `["dense", 0, 0]` or `[["dense", 0, 0]]`."""
    if isinstance(raw, list) and len(raw) == 1:
        raw = raw[0]
    if isinstance(raw, list) and raw and isinstance(raw[0], list):
        problems.add(path, f"must be one: a record is one array, got {len(raw)}")
        return Tensor("")
    return read_history(raw, path, problems)


def is_mask(raw: Object) -> bool:
    """Return whether this is an operation by which Keras passes masks on.

    They are dropped, and so are the places that read them: Keras makes them again.
    """
    return raw.get("module") == MODULE and raw.get("class_name") in MASKS


def check_masks(network: KerasNetwork, path: str, problems: Problems) -> None:
    """Check that masks come from a layer that makes them, not from the owner's own code."""
    if network.passes_masks and not any(makes_masks(layer) for layer in network.layers):
        wanted = "must come from an Embedding with mask_zero, or from Masking"
        problems.add(f"{path}.config.layers", f"masks {wanted}")


def makes_masks(layer: RawLayer) -> bool:
    """Return whether Keras makes a mask at this layer."""
    given = layer.arguments if isinstance(layer.arguments, dict) else {}
    return layer.class_name == "Masking" or given.get("mask_zero") is True
