"""The order in which Keras lists a model's layers, and so its weights.

Keras sorts by depth (how far a layer is from the output, at most), then by when a search
from the output meets it. See `map_graph` in keras/src/ops/function.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from handcar.modelfile.schema import LayerSpec, Network, Tensor


def layers_in_keras_order(network: Network) -> list[LayerSpec]:
    """Return the layers in the order of `model.layers`, the input left out."""
    layers = {layer.name: layer for layer in network.layers}
    met, finished = search(network.output, layers)
    depths = depths_of(finished, layers)
    return sorted(network.layers, key=lambda layer: (-depths[layer.name], met[layer.name]))


def search(output: Tensor, layers: Mapping[str, LayerSpec]) -> tuple[dict[str, int], list[Tensor]]:
    """Return when each layer is met first, and all calls, each after what it reads.

    Depth first from the output, as Keras does it, but without recursion.
    """
    met: dict[str, int] = {}
    finished: dict[Tensor, None] = {}
    to_do = [(output, False)]
    while to_do:
        tensor, done = to_do.pop()
        if tensor in finished:
            continue
        if done:
            finished[tensor] = None
            continue
        met.setdefault(tensor.layer, len(met))
        to_do.append((tensor, True))
        to_do.extend((read, False) for read in reversed(read_by(tensor, layers)))
    return met, list(finished)


def depths_of(finished: list[Tensor], layers: Mapping[str, LayerSpec]) -> dict[str, int]:
    """Return each layer's depth; a shared layer has that of its deepest call."""
    calls: dict[Tensor, int] = {}
    depths: dict[str, int] = {}
    for tensor in reversed(finished):
        depth = max(calls.get(tensor, 0), depths.get(tensor.layer, 0))
        depths[tensor.layer] = depth
        for read in read_by(tensor, layers):
            calls[read] = max(depth + 1, calls.get(read, 0))
    return depths


def read_by(tensor: Tensor, layers: Mapping[str, LayerSpec]) -> tuple[Tensor, ...]:
    """Return what one call reads; nothing for the input."""
    layer = layers.get(tensor.layer)
    return layer.calls[tensor.call] if layer else ()
