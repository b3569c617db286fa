"""How large a model is, before any Keras object exists: weights in Keras's order, and limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from handcar.errors import FieldProblem, ModelFileError
from handcar.modelfile.allowlist import argument
from handcar.modelfile.limits import (
    MAX_ACTIVATIONS,
    MAX_DIMENSION,
    MAX_ORTHOGONAL_WORK,
    MAX_WEIGHTS,
)
from handcar.modelfile.network import in_order
from handcar.modelfile.order import layers_in_keras_order
from handcar.modelfile.rulebook import RULES
from handcar.modelfile.rules import Mismatch, Outcome, Said, WeightRule
from handcar.modelfile.schema import LayerSpec, ModelFile, Network, Shape, Tensor
from handcar.wire.layout import Kind, Layout, TensorSpec

TAKES_WHOLE_NUMBERS = frozenset(
    {"Embedding", "Rescaling", "Normalization", "Flatten", "Reshape", "Permute", "RepeatVector"}
)
MAKES_FRACTIONS = frozenset({"Embedding", "Rescaling", "Normalization"})


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a model holds; shapes leave out the batch."""

    layout: Layout
    input_shape: Shape
    output_shape: Shape
    activations_per_record: int


@dataclass(frozen=True, slots=True)
class Made:
    """What one call makes; `fractions` is False for whole numbers such as tokens."""

    shape: Shape
    fractions: bool


def infer(model_file: ModelFile, *, paths: Mapping[str, str] | None = None) -> Sizes:
    """Return the sizes of a checked model file.

    Raises ModelFileError, with the layer's path, when shapes do not fit each other or a
    limit is passed. Layers without `trainable` count as statistics, as BatchNormalization's
    moving mean does. `paths` says where each layer stands in a file that was not canonical.
    """
    network = model_file.network
    walk = Walk(network, paths or canonical_paths(network))
    walk.run()
    tensors = tuple(
        tensor
        for layer in layers_in_keras_order(network)
        for tensor in tensors_of(layer, walk.weights[layer.name])
    )
    check_weights(tensors)
    made = walk.made[network.output]
    return Sizes(Layout(tensors), network.input.shape, made.shape, walk.activations)


def canonical_paths(network: Network) -> Mapping[str, str]:
    """Return where each layer stands in the canonical file."""
    return {layer.name: f"layers[{index}]" for index, layer in enumerate(network.layers)}


class Walk:
    """One pass over all calls, each after what it reads."""

    def __init__(self, network: Network, paths: Mapping[str, str]) -> None:
        self.network = network
        self.paths = paths
        start = network.input
        fractions = start.dtype == "float32"
        self.made = {Tensor(start.name): Made(start.shape, fractions)}
        self.weights: dict[str, tuple[WeightRule, ...]] = {}
        self.activations = math.prod(start.shape)

    def run(self) -> None:
        """Infer every call."""
        layers = {layer.name: layer for layer in self.network.layers}
        for tensor in in_order(self.network):
            layer = layers[tensor.layer]
            try:
                self.step(layer, tensor)
            except Mismatch as mismatch:
                problem = FieldProblem(self.paths[layer.name], str(mismatch))
                raise ModelFileError([problem]) from None

    def step(self, layer: LayerSpec, tensor: Tensor) -> None:
        """Infer one call."""
        inputs = [self.made[read] for read in layer.calls[tensor.call]]
        check_fractions(layer, inputs)
        outcome = RULES[layer.class_name](Said(layer, tuple(made.shape for made in inputs)))
        check_layer(outcome)
        if self.weights.setdefault(layer.name, outcome.weights) != outcome.weights:
            raise Mismatch("is shared, but its calls have inputs of different shapes")
        fractions = inputs[0].fractions or layer.class_name in MAKES_FRACTIONS
        self.made[tensor] = Made(outcome.output, fractions)
        self.activations += math.prod(outcome.output) + outcome.between
        if self.activations > MAX_ACTIVATIONS:
            limit = f"at most {MAX_ACTIVATIONS:,} numbers"
            raise Mismatch(f"one record must make {limit} on its way, got more by here")


def check_fractions(layer: LayerSpec, inputs: list[Made]) -> None:
    """Refuse whole numbers where a layer multiplies."""
    whole = not all(made.fractions for made in inputs)
    if whole and layer.class_name not in TAKES_WHOLE_NUMBERS:
        raise Mismatch(
            f"{layer.class_name} expects float32, got whole numbers; "
            "put an Embedding (tokens) or a Rescaling (pictures) before it"
        )


def check_layer(outcome: Outcome) -> None:
    """Refuse one layer's sizes where they pass a limit."""
    for shape in (outcome.output, *(weight.shape for weight in outcome.weights)):
        if max(shape) > MAX_DIMENSION:
            raise Mismatch(f"every dimension must be at most {MAX_DIMENSION:,}, got {shape}")
    for weight in outcome.weights:
        check_start(weight)


def check_start(weight: WeightRule) -> None:
    """Refuse an initializer that does not fit, or that would compute for minutes."""
    name = weight.initializer.name if weight.initializer else ""
    if name == "Identity" and len(weight.shape) != 2:
        raise Mismatch(f"Identity fits 2 dimensions, but {weight.name} is {weight.shape}")
    if name != "Orthogonal":
        return
    if len(weight.shape) < 2:
        raise Mismatch(f"Orthogonal fits 2 dimensions, but {weight.name} is {weight.shape}")
    columns = weight.shape[-1]
    rows = math.prod(weight.shape[:-1])
    if rows * columns * min(rows, columns) > MAX_ORTHOGONAL_WORK:
        raise Mismatch(f"Orthogonal is too slow for {weight.name} {weight.shape}; use another")


def check_weights(tensors: tuple[TensorSpec, ...]) -> None:
    """Refuse a model with too many weights, or with nothing to train."""
    total = sum(tensor.size for tensor in tensors)
    if total > MAX_WEIGHTS:
        message = f"must hold at most {MAX_WEIGHTS:,} weights in all, got {total:,}"
        raise ModelFileError([FieldProblem("layers", message)])
    if all(tensor.kind == "statistic" for tensor in tensors):
        message = "must hold at least one layer with weights to train"
        raise ModelFileError([FieldProblem("layers", message)])


def tensors_of(layer: LayerSpec, weights: tuple[WeightRule, ...]) -> Iterator[TensorSpec]:
    """Yield the weights of one layer as the wire knows them."""
    trained = is_trained(layer)
    for weight in weights:
        kind: Kind = "trainable" if trained and weight.trained else "statistic"
        yield TensorSpec(f"{layer.name}/{weight.name}", weight.shape, kind)


def is_trained(layer: LayerSpec) -> bool:
    """Return whether a layer, and the layer inside it, may be trained."""
    inner = layer.config.get("of")
    inside = is_trained(inner) if isinstance(inner, LayerSpec) else True
    return inside and argument(layer, "trainable") is not False
