"""What the benchmarks share: arguments, a table or JSON, data, and a published model.

Every benchmark prints a table, or with --json one object whose list `bars` holds
{name, value, unit}; with --quick it ends within about a minute. The folder of real data
sets is taken from HANDCAR_DATA; without it data of the same shape is made.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from handcar.simulation.stage import Stage

Trial = TypeVar("Trial")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Bar:
    """One figure that is held against a bar."""

    name: str
    value: float
    unit: str


def on_all_cores(
    train: Callable[[Trial], Outcome], trials: Sequence[Trial], quick: bool
) -> dict[Trial, Outcome]:
    """Run all trials, a process a core; the few quick ones in this process."""
    if quick:
        return {trial: train(trial) for trial in trials}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        return dict(zip(trials, pool.map(train, trials), strict=True))


def arguments(description: str) -> argparse.Namespace:
    """Read --quick and --json."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="end within about a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def end_cleanly() -> None:
    """Let SIGTERM end the program as Ctrl-C does, so that what it started is stopped too."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


def report(
    wanted: argparse.Namespace,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    bars: Sequence[Bar],
) -> None:
    """Print the table and the bars, or all of it as JSON."""
    if wanted.json:
        table = [dict(zip(columns, row, strict=True)) for row in rows]
        print(json.dumps({"title": title, "rows": table, "bars": [asdict(bar) for bar in bars]}))
        return
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    print(title)
    for line in (columns, *texts):
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    for bar in bars:
        print(f"{bar.name} = {bar.value:.4g} {bar.unit}")


def _text(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def pictures(count: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Return `count` grey pictures of 28 x 28, their labels, and where they come from."""
    folder = os.environ.get("HANDCAR_DATA")
    path = Path(folder or ".") / "mnist" / "mnist_63k.npz"
    if folder and path.is_file():
        data = np.load(path)
        rows = np.resize(np.arange(len(data["x"])), count)
        return data["x"][rows], data["y"][rows], "MNIST"
    rng = np.random.default_rng(0)
    return (
        rng.integers(0, 256, (count, 28, 28), dtype=np.uint8),
        rng.integers(0, 10, count, dtype=np.uint8),
        "made up",
    )


def model_file(*, units: int = 128, max_steps: int = 1000, **more: Any) -> dict[str, Any]:
    """Return a small dense network for `pictures`."""
    return {
        "name": "bench",
        "dataset": {"name": "pictures", "file": "pictures.npz", "validation": 0.02},
        "input": {"shape": [28, 28]},
        "layers": [
            {"layer": "Rescaling", "scale": 1 / 255},
            {"layer": "Flatten"},
            {"layer": "Dense", "units": units, "activation": "relu"},
            {"layer": "Dense", "units": 10, "activation": "softmax"},
        ],
        "loss": "sparse_categorical_crossentropy",
        "optimizer": {"name": "Adam", "learning_rate": 0.001},
        "metrics": ["accuracy"],
        "batch_size": 32,
        "round": {"max_steps": max_steps, "max_seconds": 1800},
    } | more


def publish(stage: Stage, model: dict[str, Any], x: np.ndarray, y: np.ndarray) -> None:
    """Start a server in the stage and publish a model and data there."""
    np.savez(stage.folder / "pictures.npz", x=x, y=y)
    path = stage.folder / "bench.json"
    path.write_text(json.dumps(model))
    if not stage.url:
        stage.serve()
    stage.call("publish", str(path), "--server", stage.url)
