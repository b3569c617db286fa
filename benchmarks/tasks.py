"""The four small problems that merging is measured on: data, a model file, a budget of steps.

Small on purpose: a training takes seconds, so that three seeds of every setting can be had.
Data comes from HANDCAR_DATA; without it, data of the same shape is made.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handcar.modelfile.check import check
from handcar.modelfile.schema import ModelFile
from handcar.simulation.learner import Problem, Records

WARM_UP = 100
"""Steps in which the learning rate rises to its full height; a quarter of shorter trainings."""
HELD = 8_000
CONTEXT = 32
"""Characters that the transformer sees."""


@dataclass(frozen=True)
class Task:
    """One problem; `rate` is the best of several for a single machine and `steps` steps."""

    name: str
    data: Callable[[], tuple[Records, Records]]
    network: dict[str, Any]
    steps: int
    batch: int
    rate: float

    def problem(self, steps: int) -> Problem:
        """Return the problem with its learning rate annealed over so many steps."""
        seen, held = _data(self.name)
        return Problem(self.model_file(steps), seen, held)

    def model_file(self, steps: int) -> ModelFile:
        """Return the model file: Adam, a warm-up, then a cosine down to nothing."""
        warm_up = min(WARM_UP, steps // 4)
        rate = {
            "name": "CosineDecay",
            "initial_learning_rate": 0.0,
            "warmup_target": self.rate,
            "warmup_steps": warm_up,
            "decay_steps": steps - warm_up,
        }
        said = {
            "name": self.name,
            "dataset": {"name": self.name},
            "loss": {"name": "SparseCategoricalCrossentropy", "from_logits": True},
            "optimizer": {"name": "Adam", "learning_rate": rate},
            "batch_size": self.batch,
        }
        return check(json.dumps(said | self.network).encode())


@functools.cache
def _data(name: str) -> tuple[Records, Records]:
    return TASKS[name].data()


# -- data --------------------------------------------------------------------------------------


def source() -> str:
    """Say where the data comes from."""
    return "HANDCAR_DATA" if "HANDCAR_DATA" in os.environ else "nowhere: it is made up"


def _file(name: str) -> Path | None:
    path = Path(os.environ.get("HANDCAR_DATA", ".")) / name
    return path if "HANDCAR_DATA" in os.environ and path.is_file() else None


def _halved(pictures: np.ndarray) -> np.ndarray:
    """Return pictures at half their size: the mean of each two by two dots."""
    count, height, width = pictures.shape[:3]
    parts = pictures.reshape(count, height // 2, 2, width // 2, 2, *pictures.shape[3:])
    return parts.mean((2, 4)).astype(np.uint8)


def digits() -> tuple[Records, Records]:
    """Return MNIST at 14 x 14: 55,000 records to train on."""
    path = _file("mnist/mnist_63k.npz")
    if path is None:
        return _made_up((14, 14))
    data = np.load(path)
    x, y = _halved(data["x"]), data["y"].astype(np.int32)
    return Records(x[HELD:], y[HELD:]), Records(x[:HELD], y[:HELD])


def pictures() -> tuple[Records, Records]:
    """Return CIFAR-10 at 16 x 16: 30,000 records to train on."""
    paths = [_file(f"cifar10_jpeg/cifar10_jpeg_{part}.npz") for part in ("train30k", "test10k")]
    if None in paths:
        return _made_up((16, 16, 3))
    seen, held = (_unpacked(path) for path in paths)
    return seen, Records(held.x[: HELD // 2], held.y[: HELD // 2])


def _unpacked(path: Path | None) -> Records:
    import tensorflow

    assert path is not None
    data = np.load(path)
    raw, offsets = data["jpeg"].tobytes(), data["offsets"]
    files = [raw[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    x = [tensorflow.io.decode_jpeg(file, channels=3).numpy() for file in files]
    return Records(_halved(np.stack(x)), data["y"].astype(np.int32))


def letters() -> tuple[Records, Records]:
    """Return every 8 characters of Shakespeare and the one that follows."""
    codes = _codes()
    cut = len(codes) * 9 // 10
    seen = np.lib.stride_tricks.sliding_window_view(codes[:cut], 9)
    held = np.lib.stride_tricks.sliding_window_view(codes[cut:], 9)[:: len(codes) // 10 // HELD]
    return _followed(seen), _followed(held[:HELD])


def lines() -> tuple[Records, Records]:
    """Return every 32 characters of Shakespeare and, for each, the one that follows."""
    codes = _codes()
    cut = len(codes) * 9 // 10
    seen = np.lib.stride_tricks.sliding_window_view(codes[:cut], CONTEXT + 1)[::5]
    held = codes[cut:][: 1000 * (CONTEXT + 1)].reshape(-1, CONTEXT + 1)
    return _shifted(seen), _shifted(held)


def _followed(windows: np.ndarray) -> Records:
    return Records(windows[:, :-1].astype(np.int32), windows[:, -1].astype(np.int32))


def _shifted(windows: np.ndarray) -> Records:
    return Records(windows[:, :-1].astype(np.int32), windows[:, 1:].astype(np.int32))


def _codes() -> np.ndarray:
    path = _file("tinyshakespeare/input.txt")
    if path is not None:
        raw = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        return np.unique(raw, return_inverse=True)[1].astype(np.uint8)
    # Letters of which each follows from the one before, but for one in four.
    rng = np.random.default_rng(0)
    follows, codes = rng.permutation(64), rng.integers(0, 64, 400_000)
    stray = rng.random(len(codes)) < 0.25
    for n in range(1, len(codes)):
        if not stray[n]:
            codes[n] = follows[codes[n - 1]]
    return codes.astype(np.uint8)


def _made_up(shape: tuple[int, ...]) -> tuple[Records, Records]:
    """Return pictures of ten kinds under noise."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(128, 12, (10, *shape))
    y = rng.integers(0, 10, 30_000 + HELD).astype(np.int32)
    noise = rng.normal(0, 64, (len(y), *shape)).astype(np.float32)
    x = np.clip(kinds[y] + noise, 0, 255).astype(np.uint8)
    return Records(x[HELD:], y[HELD:]), Records(x[:HELD], y[:HELD])


# -- networks ----------------------------------------------------------------------------------


def _dense(units: int, **more: Any) -> dict[str, Any]:
    return {"layer": "Dense", "units": units, **more}


MLP = {
    "input": {"shape": [14, 14]},
    "layers": [
        {"layer": "Rescaling", "scale": 1 / 255},
        {"layer": "Flatten"},
        _dense(64, activation="relu"),
        _dense(32, activation="relu"),
        _dense(10),
    ],
}
CNN = {
    "input": {"shape": [16, 16, 3]},
    "layers": [
        {"layer": "Rescaling", "scale": 1 / 255},
        {"layer": "Conv2D", "filters": 16, "kernel_size": 3, "padding": "same"},
        {"layer": "ReLU"},
        {"layer": "MaxPooling2D"},
        {"layer": "Conv2D", "filters": 32, "kernel_size": 3, "padding": "same"},
        {"layer": "ReLU"},
        {"layer": "MaxPooling2D"},
        {"layer": "Flatten"},
        _dense(20, activation="relu"),
        _dense(10),
    ],
}
LETTERS = {
    "input": {"shape": [8], "dtype": "int32"},
    "layers": [
        {"layer": "Embedding", "input_dim": 65, "output_dim": 16},
        {"layer": "Flatten"},
        _dense(128, activation="relu"),
        _dense(65),
    ],
}


def _block(number: int, reads: str, width: int) -> list[dict[str, Any]]:
    name = f"block{number}"
    return [
        {"layer": "LayerNormalization", "name": f"{name}_norm", "inputs": [reads]},
        {
            "layer": "MultiHeadAttention",
            "name": f"{name}_look",
            "inputs": [f"{name}_norm", f"{name}_norm"],
            "num_heads": 2,
            "key_dim": width // 2,
            "use_causal_mask": True,
        },
        {"layer": "Add", "name": f"{name}_seen", "inputs": [reads, f"{name}_look"]},
        {"layer": "LayerNormalization", "name": f"{name}_again", "inputs": [f"{name}_seen"]},
        _dense(4 * width, activation="gelu", name=f"{name}_wide", inputs=[f"{name}_again"]),
        _dense(width, name=f"{name}_back", inputs=[f"{name}_wide"]),
        {"layer": "Add", "name": name, "inputs": [f"{name}_seen", f"{name}_back"]},
    ]


def _transformer(width: int, blocks: int) -> dict[str, Any]:
    """Return a transformer; each place sees the character before its own, to tell order by."""
    layers: list[dict[str, Any]] = [
        {"layer": "Embedding", "name": "letters", "input_dim": 65, "output_dim": width},
        {"layer": "ZeroPadding1D", "name": "moved", "padding": [1, 0], "inputs": ["letters"]},
        {"layer": "Cropping1D", "name": "before", "cropping": [0, 1], "inputs": ["moved"]},
        {"layer": "Concatenate", "name": "both", "inputs": ["letters", "before"]},
        _dense(width, name="block0", inputs=["both"]),
    ]
    for number in range(1, blocks + 1):
        layers += _block(number, f"block{number - 1}", width)
    layers += [
        {"layer": "LayerNormalization", "name": "last", "inputs": [f"block{blocks}"]},
        _dense(65, name="next", inputs=["last"]),
    ]
    return {"input": {"shape": [CONTEXT], "dtype": "int32"}, "layers": layers}


TASKS = {
    task.name: task
    for task in (
        Task("mnist", digits, MLP, steps=6000, batch=32, rate=6e-3),
        Task("letters", letters, LETTERS, steps=5000, batch=64, rate=8e-3),
        Task("cifar", pictures, CNN, steps=4000, batch=32, rate=4e-3),
        Task("transformer", lines, _transformer(32, 2), steps=8000, batch=4, rate=4e-3),
    )
}
