"""Updates for a server under load: real frames of a large model, each with bytes of its own.

A few differences are coded as volunteers code them. Each update then takes the coded numbers of
one of them and scales of its own: another frame, another digest, and another direction, since the
layers' parts in it differ as they do between real rounds. That costs a millisecond, where coding
costs a second.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np

from handcar import files
from handcar.modelfile.check import check
from handcar.modelfile.shapes import infer
from handcar.wire import container, frames
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Flat, Layout

BASES = 8
SPREAD = 1.0
"""Of the logarithm of how strongly a layer takes part in an update."""
SHARED = 0.5
"""How much of each update all have in common, beside what chance does."""
LENGTH = 1e-3
"""Length of an update of one step beside that of the weights: small, so that versions stay good."""
LAYERS = 16


def network(weights: int) -> dict[str, Any]:
    """Return the part of a model file that makes a dense network of about so many weights."""
    inputs, outputs = 64, 10
    layers = max(2, min(LAYERS, weights // 50_000))
    width = int(((weights / (layers - 1)) + 256) ** 0.5)
    dense = [{"layer": "Dense", "units": width, "activation": "relu"}] * layers
    return {
        "input": {"shape": [inputs]},
        "layers": [*dense, {"layer": "Dense", "units": outputs, "activation": "softmax"}],
    }


def layout_of(model_file: dict[str, Any]) -> Layout:
    """Return the order of a model's weights."""
    return infer(check(json.dumps(model_file).encode())).layout


class Updates:
    """Makes one update after the other."""

    def __init__(self, model_id: str, layout: Layout, k: float) -> None:
        self._rng = np.random.default_rng(0)
        self._model_id = model_id
        self._size = layout.size
        facts = FrameFacts("update", model_id, 0)
        self._bases: list[tuple[dict[str, Any], list[bytes], np.ndarray]] = []
        shared = self._drawn(layout)
        for _ in range(BASES):
            change = SHARED * shared + self._drawn(layout)
            data = frames.encode_difference(facts, change, layout, k=k)
            header, sections = container.unpack(data)
            arrived = frames.decode_difference(data, layout)[1]
            lengths = [float(np.linalg.norm(arrived[place])) for place in layout.slices]
            self._bases.append((header, [bytes(one) for one in sections], np.array(lengths)))
        self._turn = itertools.count()

    def make(self, base_version: int, steps: int) -> tuple[str, bytes]:
        """Return the digest and the bytes of an update nobody has sent yet."""
        header, sections, lengths = self._bases[next(self._turn) % BASES]
        strength = self._rng.lognormal(0, SPREAD, len(lengths))
        usual = LENGTH * np.sqrt(self._size) * 0.03 * np.sqrt(steps)
        wanted = usual * self._rng.lognormal(0, 0.15)
        strength *= wanted / np.linalg.norm(strength * lengths)
        scales = np.float32(np.array(header["scales"]) * strength)
        told = header | {"version": base_version, "scales": [float(one) for one in scales]}
        data = container.pack(told, sections)
        return files.digest(data), data

    def _drawn(self, layout: Layout) -> Flat:
        """Return a difference whose units and inputs differ in how busy they are."""
        arrays = []
        for tensor in layout.tensors:
            drawn = self._rng.standard_normal(tensor.shape, dtype=np.float32)
            for axis, size in enumerate(tensor.shape):
                busy = self._rng.lognormal(0, 0.7, size).astype(np.float32)
                drawn *= np.expand_dims(busy, tuple(n for n in range(drawn.ndim) if n != axis))
            arrays.append(drawn / np.sqrt(np.mean(np.square(drawn))))
        return layout.flatten(arrays)
