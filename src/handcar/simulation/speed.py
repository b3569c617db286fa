"""How fast this machine trains a model: real steps on made-up records.

    python -m handcar.simulation.speed MODEL.json

prints the steps a second; TensorFlow's chatter stays in that process.
"""

from __future__ import annotations

import subprocess  # noqa: S404 - our own program
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from handcar.errors import HandcarError
from handcar.modelfile.check import check
from handcar.modelfile.schema import ModelFile
from handcar.modelfile.shapes import Sizes, infer
from handcar.volunteer import backend

WARM_UP = 3
AT_LEAST_S = 2.0
STEPS = 10


def measured(model_file: Path) -> float:
    """Return the steps a second that this machine makes; raise HandcarError where it can't."""
    backend.choose()
    command = [sys.executable, "-m", __name__, str(model_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise HandcarError(
            f"this machine could not train the model ({''.join(last)}): give the steps a second "
            "of a volunteer with --speed"
        )
    return float(done.stdout)


def _steps_per_second(model_file: ModelFile) -> float:
    from handcar.modelfile import build

    model = build.build(model_file, seed=0)
    x, y = _batch(model_file, infer(model_file))
    model.fit(x, y, batch_size=len(x), epochs=WARM_UP, verbose=0)
    x, y = np.concatenate([x] * STEPS), np.concatenate([y] * STEPS)
    steps, began = 0, time.monotonic()
    while (took := time.monotonic() - began) < AT_LEAST_S:
        model.fit(x, y, batch_size=model_file.batch_size, epochs=1, verbose=0)
        steps += STEPS
    return steps / took


def _batch(model_file: ModelFile, sizes: Sizes) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    count, said = model_file.batch_size, model_file.network.input
    # Zeros and ones are sound for whatever comes first, an embedding too.
    x = rng.integers(0, 2, (count, *said.shape)).astype(said.dtype)
    shape = sizes.output_shape
    if "Sparse" in model_file.loss.name:
        return x, rng.integers(0, shape[-1], (count, *shape[:-1]))
    return x, rng.integers(0, 2, (count, *shape)).astype("float32")


if __name__ == "__main__":
    print(_steps_per_second(check(Path(sys.argv[1]).read_bytes())))
