"""A checked model file -> a compiled Keras model. The only module here that imports Keras.

Every Keras object is made from our own plain values, by a class that the table names;
no JSON of a stranger ever reaches Keras.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras.src.saving.serialization_lib import SafeModeScope

from handcar.errors import FieldProblem, ModelFileError
from handcar.modelfile.allowlist import CALL_ARGUMENTS, LAYERS, argument
from handcar.modelfile.network import in_order
from handcar.modelfile.schema import (
    FunctionConfig,
    LayerSpec,
    ModelFile,
    Network,
    Tensor,
    Value,
)
from handcar.modelfile.shapes import infer, is_trained
from handcar.wire.layout import Flat, Layout

MODULES = {
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
    "rate": keras.optimizers.schedules,
}
"""The last word of an argument's name -> where Keras has what it means."""

KERAS_NAMES = {"of": "layer"}

ALWAYS_SAID = ("dtype", "data_format")
"""Arguments whose default a volunteer's own keras.json could change."""

ACCURACY = {
    "SparseCategoricalCrossentropy": "SparseCategoricalAccuracy",
    "CategoricalCrossentropy": "CategoricalAccuracy",
    "CategoricalFocalCrossentropy": "CategoricalAccuracy",
    "BinaryCrossentropy": "BinaryAccuracy",
    "BinaryFocalCrossentropy": "BinaryAccuracy",
}
"""What `accuracy` means beside a loss; for other losses Keras looks at the shapes."""


def build(model_file: ModelFile, *, seed: int | None = None) -> keras.Model:
    """Return the compiled model of a checked model file.

    `seed` sets Keras's global seed, so that weights start the same on the same backend.
    Raises ModelFileError when Keras refuses the model, or when its weights are not those
    that `infer` said: other shapes, or another order.
    """
    layout = infer(model_file).layout
    if seed is not None:
        keras.utils.set_random_seed(seed)
    try:
        with SafeModeScope(True):
            model = build_network(model_file.network)
            freeze(model, model_file.network)
            compile_model(model, model_file)
    except (ValueError, TypeError) as error:
        raise refusal(f"Keras refuses the network: {error}") from error
    need_layout(model, layout)
    return model


def build_network(network: Network) -> keras.Model:
    """Return a Sequential of a chain, else a functional model."""
    start = keras.Input(network.input.shape, dtype=network.input.dtype, name=network.input.name)
    made = {spec.name: build_layer(spec) for spec in network.layers}
    if network.is_chain:
        return keras.Sequential([start, *made.values()])
    specs = {spec.name: spec for spec in network.layers}
    tensors = {Tensor(network.input.name): start}
    for tensor in in_order(network):
        spec = specs[tensor.layer]
        inputs = [tensors[read] for read in spec.calls[tensor.call]]
        tensors[tensor] = call_layer(made[spec.name], spec, inputs)
    return keras.Model(start, tensors[network.output])


def build_layer(spec: LayerSpec) -> keras.layers.Layer:
    """Return a new Keras layer; frozen ones are frozen later, with what is inside them."""
    entry = LAYERS[spec.class_name]
    said = {name: spec.config[name] for name in spec.config if name not in CALL_ARGUMENTS}
    said |= {name: argument(spec, name) for name in ALWAYS_SAID if name in entry.arguments}
    arguments = {
        KERAS_NAMES.get(name, name): keras_value(name, value)
        for name, value in said.items()
        if name not in ("trainable", "backward_layer")
    }
    if spec.name:
        arguments["name"] = spec.name
    return getattr(keras.layers, spec.class_name)(**arguments)


def keras_value(name: str, value: Value) -> Any:
    """Return a checked value as Keras takes it."""
    if isinstance(value, LayerSpec):
        return build_layer(value)
    if isinstance(value, FunctionConfig):
        return build_function(MODULES[name.rpartition("_")[2]], value)
    return value


def build_function(module: Any, function: FunctionConfig) -> Any:
    """Return a new object of a class in one of Keras's modules."""
    arguments = {name: keras_value(name, value) for name, value in function.config.items()}
    return getattr(module, function.name)(**arguments)


def call_layer(layer: keras.layers.Layer, spec: LayerSpec, inputs: list[Any]) -> Any:
    """Return what a layer gives for these inputs."""
    if spec.class_name == "MultiHeadAttention":
        return layer(*inputs, use_causal_mask=argument(spec, "use_causal_mask"))
    several = LAYERS[spec.class_name].inputs[1] > 1
    return layer(inputs if several else inputs[0])


def freeze(model: keras.Model, network: Network) -> None:
    """Freeze layers that are not trained; a constructor's `trainable` stops at a wrapper."""
    for spec in network.layers:
        if not is_trained(spec):
            model.get_layer(spec.name).trainable = False


def compile_model(model: keras.Model, model_file: ModelFile) -> None:
    """Give the model its loss, optimizer and metrics."""
    model.compile(
        optimizer=build_function(keras.optimizers, model_file.optimizer),
        loss=build_function(keras.losses, model_file.loss),
        metrics=[build_metric(metric, model_file.loss) for metric in model_file.metrics],
        jit_compile="auto",
    )


def build_metric(metric: FunctionConfig, loss: FunctionConfig) -> Any:
    """Return a metric; `accuracy` becomes the one that fits the loss."""
    if metric.name != "Accuracy":
        return build_function(keras.metrics, metric)
    class_name = ACCURACY.get(loss.name)
    if class_name is None:
        return "accuracy"
    logits = class_name == "BinaryAccuracy" and loss.config.get("from_logits")
    threshold = {"threshold": 0.0} if logits else {}
    return getattr(keras.metrics, class_name)(name="accuracy", **threshold)


def need_layout(model: keras.Model, layout: Layout) -> None:
    """Refuse a model whose weights are not, in order, those of the layout."""
    expected = [
        (tensor.name.partition("/")[0], tensor.shape, tensor.kind == "trainable")
        for tensor in layout.tensors
    ]
    got = [
        (layer.name, tuple(weight.shape), bool(weight.trainable))
        for layer in model.layers
        for weight in layer.weights
    ]
    for place, pair in enumerate(zip(expected, got, strict=False)):
        if pair[0] != pair[1]:
            raise refusal(f"weight {place} should be {pair[0]}, and Keras made {pair[1]}")
    if not len(expected) == len(got) == len(model.weights):
        raise refusal(f"the network should have {len(expected)} weights, Keras made {len(got)}")


def refusal(message: str) -> ModelFileError:
    """Return the error of a network that passed the check and still cannot be built."""
    return ModelFileError([FieldProblem("layers", message)])


def initial_weights(model: keras.Model, layout: Layout) -> Flat:
    """Return the weights that a model just built starts with."""
    return get_weights(model, layout)


def get_weights(model: keras.Model, layout: Layout) -> Flat:
    """Return all weights as one new float32 vector in the layout's order."""
    flat = np.empty(layout.size, dtype=np.float32)
    for variable, place in zip(model.weights, layout.slices, strict=True):
        flat[place] = keras.ops.convert_to_numpy(variable).reshape(-1)
    return flat


def set_weights(model: keras.Model, layout: Layout, flat: Flat) -> None:
    """Set all weights from one float32 vector in the layout's order.

    Raises ValueError when `flat` is not of the layout's size.
    """
    if flat.shape != (layout.size,):
        raise ValueError(f"expected {layout.size} weights, got an array of shape {flat.shape}")
    for variable, view in zip(model.weights, layout.views(flat), strict=True):
        # A copy, because JAX on a CPU may keep the very memory that it is given.
        variable.assign(view.copy())
