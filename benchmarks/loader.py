"""Records per second of the loader beside Grain, tf.data, PyTorch's DataLoader and streaming.

The same records, made up, on the disk in each loader's own form; each with one worker, in a
process of its own. They take turns, a slice of a second at a time, and the median of their
slices counts. `loader.vs_best` is the least, over all data and batch sizes, of our records per
second over those of the best of the others with as many workers: one (a thread or a process,
as each does best), and none where a library has that. What TensorFlow takes from us is held
against tf.data: both are drawn inside a graph.

`from disk`: one pass with none of the files in memory, as it is with data larger than memory.

`loader.memory_growth` is a loader's peak memory over 4 x of what it may have over that at
0.1 x of it. What it may have is set by the system (RLIMIT_DATA), and it is anonymous memory:
pages of mapped files are a cache, which the system takes back when somebody needs them.

HANDCAR_PEERS names a Python that has grain, torch, mosaicml-streaming and tensorflow; without
it only ours is measured.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from common import Bar, arguments, report
from loader_feeds import LOADERS

FEEDS = Path(__file__).with_name("loader_feeds.py")
KINDS: dict[str, tuple[tuple[int, ...], str]] = {
    "pictures 28 x 28": ((28, 28), "uint8"),
    "pictures 32 x 32 x 3": ((32, 32, 3), "uint8"),
    "table of 100 columns": ((100,), "float32"),
}
BATCHES = (32, 256)
BLOCK_BYTES = 32_000_000
"""As large as `handcar publish` makes blocks at most."""
LIMIT_BYTES, QUICK_LIMIT_BYTES = 960_000_000, 320_000_000
MEMORY_SHARES = (0.1, 1.0, 4.0)
FROM_DISK_BATCH = 256
QUICK = (
    "ours",
    "ours, no worker",
    "ours, TensorFlow",
    "DataLoader",
    "DataLoader, no worker",
    "Grain",
    "tf.data",
)


def make(folder: Path, shape: tuple[int, ...], dtype: str, blocks: int) -> None:
    """Write random records as blocks."""
    rng = np.random.default_rng(0)
    record_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    records = BLOCK_BYTES // record_bytes
    for number in range(blocks):
        block = folder / "blocks" / f"{number:064x}"
        block.mkdir(parents=True)
        x = np.frombuffer(rng.bytes(records * record_bytes), dtype)
        np.save(block / "x.npy", x.reshape(records, *shape))
        np.save(block / "y.npy", np.arange(records) + number * records)


class Loader:
    """One loader's process."""

    def __init__(self, name: str, python: str) -> None:
        self._process = subprocess.Popen(
            [python, FEEDS, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def measure(self, folder: Path, batch: int, seconds: float) -> Any:
        """Return records per second, or why there are none."""
        ask, answer = self._process.stdin, self._process.stdout
        assert ask is not None
        assert answer is not None
        ask.write(f"{folder} {batch} {seconds}\n")
        ask.flush()
        return json.loads(answer.readline() or '"failed: it ended"')


def forget(folder: Path) -> None:
    """Let the system drop the files from its memory."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file)  # what is not on the disk yet is kept
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def speeds(
    loaders: dict[str, Loader], folder: Path, batch: int, slices: int, seconds: float
) -> dict[str, Any]:
    """Return each loader's median records per second, or why there is none."""
    found: dict[str, list[Any]] = {name: [] for name in loaders}
    for _ in range(slices):
        for name, loader in loaders.items():
            if not any(isinstance(one, str) for one in found[name]):
                if seconds < 0:
                    forget(folder)
                found[name].append(loader.measure(folder, batch, seconds))
    return {name: _median(some) for name, some in found.items()}


def _median(some: list[Any]) -> Any:
    told = [one for one in some if isinstance(one, str)]
    return told[0] if told else statistics.median(some)


def compare(quick: bool, python: str | None) -> tuple[list[tuple[object, ...]], list[Bar]]:
    """Return the rows of the table, and the bar."""
    names = [name for name in (QUICK if quick else LOADERS) if python or name.startswith("ours")]
    kinds = dict(list(KINDS.items())[:2]) if quick else KINDS
    blocks = 3 if quick else 8
    rows: list[tuple[object, ...]] = []
    shares = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        loaders = {
            name: stack.enter_context(
                Loader(name, sys.executable if name.startswith("ours") else python or "")
            )
            for name in names
        }
        for number, (kind, (shape, dtype)) in enumerate(kinds.items()):
            place = folder / str(number)
            make(place, shape, dtype, blocks)
            subprocess.run([python or sys.executable, FEEDS, "write", place], check=True)
            runs = [(kind, batch, *((3, 0.3) if quick else (5, 0.6))) for batch in BATCHES]
            if not quick and number == 1:
                passes = blocks * (BLOCK_BYTES // int(np.prod(shape))) // FROM_DISK_BATCH
                runs.append((f"{kind}, from disk", FROM_DISK_BATCH, 3, -passes))
            for title, batch, slices, seconds in runs:
                found = speeds(loaders, place, batch, slices, seconds)
                rows += [(title, batch, name, value) for name, value in found.items()]
                shares += _shares(found)
    return rows, [Bar("loader.vs_best", min(shares), "x")] if shares else []


def _shares(found: dict[str, Any]) -> list[float]:
    """Return ours over the best of the others of the same kind, for each kind there is."""
    speeds = {name: value for name, value in found.items() if isinstance(value, float)}
    others = {name: value for name, value in speeds.items() if not name.startswith("ours")}
    alone = [value for name, value in others.items() if name.endswith("no worker")]
    tensors = [value for name, value in others.items() if name.startswith("tf.data")]
    pairs = (
        ("ours", [value for name, value in others.items() if not name.endswith("no worker")]),
        ("ours, no worker", alone),
        ("ours, TensorFlow", tensors),
    )
    return [speeds[name] / max(best) for name, best in pairs if best]


def growth(quick: bool) -> tuple[list[tuple[object, ...]], Bar]:
    """Return the peaks as the data grow from a tenth of what a process may have to 4 x."""
    limit = QUICK_LIMIT_BYTES if quick else LIMIT_BYTES
    rows: list[tuple[object, ...]] = []
    peaks = []
    for share in MEMORY_SHARES:
        with tempfile.TemporaryDirectory() as name:
            make(Path(name), (32, 32, 3), "uint8", round(share * limit / BLOCK_BYTES))
            done = subprocess.run(
                [sys.executable, FEEDS, "memory", name, str(limit)],
                capture_output=True,
                check=True,
            )
        found = json.loads(done.stdout)
        peaks.append(found["anonymous"])
        rows += [
            (f"{share:g} x of {limit / 1e6:g} MB", "", f"ours, peak {what}, MB", value / 1e6)
            for what, value in found.items()
        ]
    return rows, Bar("loader.memory_growth", peaks[-1] / peaks[0], "x")


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    python = os.environ.get("HANDCAR_PEERS")
    rows, bars = compare(wanted.quick, python)
    title = "Records per second, one worker each"
    if not python:
        title += "; HANDCAR_PEERS names no Python with the other libraries"
    memory, bar = growth(wanted.quick)
    report(wanted, title, ("data", "batch", "loader", "records/s"), rows + memory, [*bars, bar])


if __name__ == "__main__":
    main()
