"""Layers as a file wrote them -> a checked Network: known classes, one graph, no loose ends."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from handcar.modelfile.allowlist import LAYERS
from handcar.modelfile.kinds import read_arguments
from handcar.modelfile.limits import MAX_LAYERS
from handcar.modelfile.problems import (
    Problems,
    did_you_mean,
    short,
    snake_case,
)
from handcar.modelfile.schema import InputSpec, LayerSpec, Network, Tensor

NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
REFUSED = {
    "Lambda": "it carries code",
    "TFSMLayer": "it loads a model from outside the file",
    "TorchModuleWrapper": "it carries code",
    "JaxLayer": "it carries code",
    "FlaxLayer": "it carries code",
    "StringLookup": "its words may be a file on the volunteer's disk",
    "IntegerLookup": "its words may be a file on the volunteer's disk",
    "TextVectorization": "its words may be a file on the volunteer's disk",
    "Hashing": "prepare the data before it is published instead",
    "HashedCrossing": "prepare the data before it is published instead",
    "FeatureSpace": "prepare the data before it is published instead",
    "Functional": "models inside models are not supported; write its layers out",
    "Sequential": "models inside models are not supported; write its layers out",
}


@dataclass(slots=True)
class RawLayer:
    """A layer as written: nothing of it is checked yet, but `calls` is well formed."""

    class_name: object
    name: object
    arguments: object
    calls: list[list[Tensor]] | None
    path: str
    arguments_path: str


@dataclass(slots=True)
class RawNetwork:
    """All layers as written; `output` None means the last call of the last layer."""

    input: InputSpec
    layers: list[RawLayer] = field(default_factory=list)
    output: Tensor | None = None
    output_path: str = "output"


def read_network(raw: RawNetwork, problems: Problems) -> Network:
    """Return the network, or add every problem that it has.

    A layer that does not say what it reads, reads the layer before.
    """
    names = given_names(raw, problems)
    name_the_others(raw, names)
    before = Tensor(raw.input.name)
    layers = []
    for layer in raw.layers:
        layers.append(read_layer(layer, before, problems))
        before = Tensor(layers[-1].name, len(layers[-1].calls) - 1)
    network = Network(raw.input, tuple(layers), raw.output or before)
    if raw.layers and not problems.found:
        check_graph(network, raw, problems)
    return network


def given_names(raw: RawNetwork, problems: Problems) -> set[str]:
    """Return all names that the file gives, each used once."""
    names = {raw.input.name}
    for layer in raw.layers:
        if layer.name is None:
            continue
        if not isinstance(layer.name, str) or not NAME.fullmatch(layer.name):
            problems.add(f"{layer.path}.name", f"{NAME_RULE}, got {short(layer.name)}")
        elif layer.name in names:
            problems.add(f"{layer.path}.name", f"{layer.name!r} is used twice")
        else:
            names.add(layer.name)
    return names


NAME_RULE = "must be 1 to 64 letters, digits or underscores"


def name_the_others(raw: RawNetwork, names: set[str]) -> None:
    """Name layers as Keras does: `dense`, `dense_1` ..."""
    for layer in raw.layers:
        if layer.name is None:
            layer.name = free_name(snake_case(str(layer.class_name))[:50], names)
            names.add(str(layer.name))


def free_name(base: str, names: set[str]) -> str:
    """Return `base`, with a number when it is taken."""
    name, count = base, 0
    while name in names:
        count += 1
        name = f"{base}_{count}"
    return name


def read_layer(raw: RawLayer, before: Tensor, problems: Problems) -> LayerSpec:
    """Return one layer, its arguments checked against the table."""
    calls = [[before]] if raw.calls is None else raw.calls
    if raw.class_name == "MultiHeadAttention":
        calls = [call * 2 if len(call) == 1 else call for call in calls]
    class_name = raw.class_name if isinstance(raw.class_name, str) else ""
    spec = LayerSpec(class_name, str(raw.name), {}, tuple(tuple(call) for call in calls))
    entry = LAYERS.get(class_name)
    if entry is None:
        problems.add(f"{raw.path}.layer", unknown_layer(raw.class_name))
        return spec
    least, most = entry.inputs
    for call in calls:
        if not least <= len(call) <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            problems.add(raw.path, f"{class_name} takes {wanted} inputs, got {len(call)}")
    config = read_arguments(entry, raw.arguments, raw.arguments_path, problems)
    return LayerSpec(class_name, spec.name, config, spec.calls)


def unknown_layer(class_name: object) -> str:
    """Say why a class is refused."""
    if isinstance(class_name, str) and class_name in REFUSED:
        return f"{class_name} is refused: {REFUSED[class_name]}"
    hint = did_you_mean(class_name, LAYERS)
    return f"must be a layer that Handcar knows, got {short(class_name)}{hint}"


def check_graph(network: Network, raw: RawNetwork, problems: Problems) -> None:
    """Check that each call reads calls that exist, without circles, and that all are used."""
    counts = {network.input.name: 1} | {layer.name: len(layer.calls) for layer in network.layers}
    if sum(counts.values()) > MAX_LAYERS:
        problems.add("layers", f"must be at most {MAX_LAYERS} calls of layers in all")
        return
    sound = references_exist(network, raw, counts, problems)
    if not sound:
        return
    order = list(in_order(network))
    if len(order) < sum(counts.values()) - 1:
        report_circle(network, raw, set(order), problems)
        return
    report_unused(network, raw, problems)


def references_exist(
    network: Network, raw: RawNetwork, counts: dict[str, int], problems: Problems
) -> bool:
    """Return whether every tensor that is read is made by some call."""
    missing = [
        (place.path, tensor)
        for layer, place in zip(network.layers, raw.layers, strict=True)
        for call in layer.calls
        for tensor in call
        if not 0 <= tensor.call < counts.get(tensor.layer, 0)
    ]
    if not 0 <= network.output.call < counts.get(network.output.layer, 0):
        missing.append((raw.output_path, network.output))
    for path, tensor in missing:
        hint = did_you_mean(tensor.layer, counts)
        problems.add(path, f"reads {short(str(tensor))}, which no layer is named{hint}")
    return not missing


def in_order(network: Network) -> Iterator[Tensor]:
    """Yield all calls, each after what it reads and after the layer's call before.

    Stops early when the rest goes in a circle.
    """
    known = {Tensor(network.input.name)}
    waiting = [(layer, 0) for layer in network.layers]
    while waiting:
        still_waiting = []
        for layer, start in waiting:
            index = start
            while index < len(layer.calls) and known.issuperset(layer.calls[index]):
                known.add(Tensor(layer.name, index))
                yield Tensor(layer.name, index)
                index += 1
            if index < len(layer.calls):
                still_waiting.append((layer, index))
        if still_waiting == waiting:
            return
        waiting = still_waiting


def report_circle(
    network: Network, raw: RawNetwork, known: set[Tensor], problems: Problems
) -> None:
    """Add the layers that wait for each other."""
    for layer, place in zip(network.layers, raw.layers, strict=True):
        if any(Tensor(layer.name, index) not in known for index in range(len(layer.calls))):
            problems.add(place.path, f"{layer.name!r} reads, in a circle, what it makes itself")


def report_unused(network: Network, raw: RawNetwork, problems: Problems) -> None:
    """Add the layers from which nothing leads to the output."""
    used = reachable(network)
    for layer, place in zip(network.layers, raw.layers, strict=True):
        calls = [Tensor(layer.name, index) for index in range(len(layer.calls))]
        if not calls or not used.issuperset(calls):
            problems.add(place.path, f"nothing leads from {layer.name!r} to the output")
    if Tensor(network.input.name) not in used:
        problems.add("input", "nothing leads from the input to the output")


def reachable(network: Network) -> set[Tensor]:
    """Return all tensors that the output depends on, itself included."""
    layers = {layer.name: layer for layer in network.layers}
    found, to_do = {network.output}, [network.output]
    while to_do:
        tensor = to_do.pop()
        for read in reads(layers, tensor):
            if read not in found:
                found.add(read)
                to_do.append(read)
    return found


def reads(layers: dict[str, LayerSpec], tensor: Tensor) -> Sequence[Tensor]:
    """Return what the call reads that makes `tensor`; nothing for the input."""
    layer = layers.get(tensor.layer)
    return layer.calls[tensor.call] if layer else ()
