"""Steps a second inside `handcar join` against plain `model.fit`: same data, model, backend.

Both run as processes of their own, but only one at a time goes on while the other is
stopped (SIGSTOP). They take turns in short windows, so that both see the same machine; the
figure is the median over pairs of windows. The server shares the two's machine, which a real
one doesn't: it gives way to both (nice 19) and has no validation set to measure versions on.
What is measured is the volunteer's own loop, with its checkpoints, encoding, sending and
heartbeats.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import Bar, arguments, model_file, pictures, publish, report
from handcar.simulation.stage import Process, Stage

RECORDS = 8_000
WARM_UP_S = 3.0
LEAST_READINGS = 3

PLAIN = """
import json, sys, time
import keras, numpy
from handcar.modelfile import build
from handcar.modelfile.check import check

class Told(keras.callbacks.Callback):
    steps = 0
    def on_epoch_end(self, epoch, logs=None):
        Told.steps += self.params["steps"]
        print(json.dumps([time.monotonic(), Told.steps]), flush=True)

model_file = check(open(sys.argv[1], "rb").read())
data = numpy.load(sys.argv[2])
model = build.build(model_file, seed=0)
model.fit(data["x"], data["y"], batch_size=model_file.batch_size, epochs=10**9, verbose=0,
          callbacks=[Told()])
"""

Reading = tuple[float, float]
"""Seconds of the monotonic clock, and steps made by then."""


def volunteer_readings(stage: Stage) -> list[Reading]:
    """Return what the volunteer has counted."""
    shown = [line["progress"] for line in stage.lines("ada") if "progress" in line]
    readings = {one["counted_at"]: one["steps"] for one in shown}  # shown more often than counted
    return sorted((at, steps) for at, steps in readings.items() if at)


def plain_readings(stage: Stage) -> list[Reading]:
    """Return what plain Keras has counted."""
    return [tuple(line) for line in map(json.loads, _plain_lines(stage))]


def _plain_lines(stage: Stage) -> list[str]:
    lines = (stage.folder / "plain.log").read_text().splitlines()
    return [line for line in lines if line.startswith("[") and line.endswith("]")]


def start_plain(stage: Stage, backend: str) -> Process:
    """Start plain Keras on the same model file and data."""
    with (stage.folder / "plain.log").open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-c", PLAIN, "bench.json", "pictures.npz"],
            stdout=out,
            stderr=subprocess.DEVNULL,
            cwd=stage.folder,
            env=stage.environment | {"KERAS_BACKEND": backend},
            start_new_session=True,
        )


def window(process: Process, read: Callable[[], list[Reading]], seconds: float) -> float:
    """Let one process go on for `seconds`, or for a few readings; return its steps a second."""
    os.killpg(process.pid, signal.SIGCONT)
    begin = time.monotonic() + 0.5
    time.sleep(0.5)
    inside: list[Reading] = []
    while len(inside) < LEAST_READINGS or time.monotonic() < begin + seconds:
        time.sleep(0.1)
        inside = [reading for reading in read() if reading[0] >= begin]
    os.killpg(process.pid, signal.SIGSTOP)
    (first_at, first), (last_at, last) = inside[0], inside[-1]
    return (last - first) / (last_at - first_at)


def measure(stage: Stage, backend: str, pairs: int, seconds: float) -> list[tuple[float, float]]:
    """Return (volunteer's, plain) steps a second of each pair of windows."""
    volunteer = stage.join("ada", KERAS_BACKEND=backend)
    stage.until(lambda: len(volunteer_readings(stage)) > 3, "the volunteer trains")
    os.killpg(volunteer.pid, signal.SIGSTOP)
    plain = start_plain(stage, backend)
    try:
        stage.until(lambda: len(plain_readings(stage)) > 2, "plain Keras trains")
        time.sleep(WARM_UP_S)
        os.killpg(plain.pid, signal.SIGSTOP)
        return [
            (
                window(volunteer, lambda: volunteer_readings(stage), seconds),
                window(plain, lambda: plain_readings(stage), seconds),
            )
            for _ in range(pairs)
        ]
    finally:
        os.killpg(plain.pid, signal.SIGKILL)
        plain.wait()
        os.killpg(volunteer.pid, signal.SIGCONT)


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    pairs, seconds = (5, 3.0) if wanted.quick else (20, 5.0)
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    x, y, source = pictures(RECORDS)
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage:
        server = stage.serve()
        os.setpriority(os.PRIO_PGRP, server.pid, 19)
        model = model_file(units=256)
        model["dataset"]["validation"] = 0
        publish(stage, model, x, y)
        pairs_found = measure(stage, backend, pairs, seconds)
    ratio = statistics.median(ours / plain for ours, plain in pairs_found)
    report(
        wanted,
        f"Steps a second on {backend}, dense network of 200,000 weights, {source} pictures",
        ("pair", "handcar join", "model.fit", "ratio"),
        [(n, ours, plain, ours / plain) for n, (ours, plain) in enumerate(pairs_found, start=1)],
        [Bar("overhead.ratio", ratio, "x")],
    )


if __name__ == "__main__":
    main()
