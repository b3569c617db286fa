"""What one volunteer reaches alone with its first chunk: the demo's yardstick.

    python -m handcar.simulation.alone TRAINED.keras EXPORT.keras

Opens the trained model as anyone would, measures it and a model trained on the first chunk
alone, for as many passes, on the same records that no volunteer has seen. Prints JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from handcar import demo_data
from handcar.data import chunks, importers
from handcar.data import cut as cutting
from handcar.modelfile import build
from handcar.modelfile.check import check

SEED = 1


def compare(trained: Path) -> dict[str, float]:
    """Return the accuracy of the trained model, and of one trained on a single chunk."""
    import keras

    model_file = check(demo_data.MODEL_FILE.read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        source = importers.read_npz(demo_data.DATA)
        cut = cutting.cut(source, Path(folder), validation=model_file.dataset.validation)
        parts = {split: _columns(cut, split) for split in ("train", "validation")}
    first, test = parts["train"][0], parts["validation"]
    x, y = (np.concatenate([columns[name] for columns in test]) for name in ("x", "y"))
    alone = build.build(model_file, seed=SEED)
    alone.fit(
        first["x"],
        first["y"],
        batch_size=model_file.batch_size,
        epochs=int(model_file.epochs or 1),
        verbose=0,
    )
    merged = keras.models.load_model(trained)
    return {"accuracy": accuracy(merged, x, y), "accuracy_alone": accuracy(alone, x, y)}


def accuracy(model: Any, x: Any, y: Any) -> float:
    """Return the share of records whose likeliest class is the right one."""
    return float((model.predict(x, verbose=0).argmax(axis=1) == y).mean())


def _columns(cut: Any, split: str) -> list[dict[str, Any]]:
    return [chunks.decode(chunk.path.read_bytes()) for chunk in cut if chunk.split == split]


if __name__ == "__main__":
    trained, export = map(Path, sys.argv[1:3])
    result = compare(trained)
    shutil.copyfile(trained, export)
    print(json.dumps(result))
