"""Write tests/wire/vectors.json: frames, and the digest of what each must decode to.

Run it only when the format gets a new version: frames that are out there must go on being
read as they were.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from handcar.wire import frames
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Flat, Layout, TensorSpec

PATH = Path(__file__).resolve().parent.parent / "tests/wire/vectors.json"
SMALL = Layout(
    (
        TensorSpec("conv/kernel", (3, 3, 2, 4)),
        TensorSpec("conv/bias", (4,)),
        TensorSpec("norm/moving_mean", (4,), "statistic"),
        TensorSpec("dense/kernel", (16, 5)),
    )
)
LARGE = Layout((TensorSpec("dense/kernel", (250, 80)), TensorSpec("dense/bias", (80,))))


def numbers(layout: Layout, seed: int) -> Flat:
    """Return a vector whose rows and columns are unlike each other, and some of them 0."""
    rng = np.random.default_rng(seed)
    pieces = []
    for tensor in layout.tensors:
        columns = tensor.shape[-1]
        busy = rng.exponential(size=(tensor.size // columns, 1)) ** 2 * rng.exponential(
            size=(1, columns)
        )
        busy[rng.random(busy.shape[0]) < 0.1] = 0
        pieces.append((rng.laplace(size=busy.shape) * busy).reshape(-1))
    return np.concatenate(pieces).astype(np.float32)


def vectors() -> Iterator[dict[str, Any]]:
    """Yield a vector of each kind, codec and stage."""
    weights = numbers(SMALL, 0)
    key = FrameFacts("keyframe", "vectors", 7, "")
    yield vector("planes", SMALL, frames.encode_keyframe(key, weights), weights)
    rounded = frames.round_keyframe(weights)
    yield vector("bf16", SMALL, frames.encode_keyframe(key, rounded), rounded)
    for name, layout in (("small", SMALL), ("large", LARGE)):
        change = numbers(layout, 1)
        data = frames.encode_difference(FrameFacts("update", "vectors", 7), change, layout, k=0.7)
        yield vector(f"update, {name}", layout, data, frames.decode_difference(data, layout)[1])
        base = numbers(layout, 2)
        for rounds in (False, True):
            facts = FrameFacts("delta", "vectors", 8, rounded=rounds)
            data = frames.encode_difference(facts, change, layout, k=2.0)
            after = frames.lead(data, base, layout)[1]
            yield vector(f"delta, {name}, {rounds}", layout, data, after, base)


def vector(
    name: str, layout: Layout, frame: bytes, decoded: Flat, base: Flat | None = None
) -> dict[str, Any]:
    """Return one frame, what it is read with, and the digest of what it decodes to."""
    tensors = [
        {"shape": tensor.shape, "statistic": tensor.kind == "statistic"}
        for tensor in layout.tensors
    ]
    return {
        "name": name,
        "frame": base64.b64encode(frame).decode(),
        "tensors": tensors,
        "base": None if base is None else base64.b64encode(base.astype("<f4").tobytes()).decode(),
        "sha256": hashlib.sha256(decoded.astype("<f4").tobytes()).hexdigest(),
    }


if __name__ == "__main__":
    made = list(vectors())
    PATH.write_text(json.dumps(made, indent=1) + "\n")
