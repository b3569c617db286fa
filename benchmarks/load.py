"""How many volunteers one server holds: real HTTP, simulated volunteers, real updates.

A real `handcar serve` with a published model; beside it volunteers that do all that real ones do
but train (`load_volunteers.py`): they heartbeat every minute, fetch each version's delta, and send
an update of their own every round, evenly spread. `--search` lets the crowd grow until the 99th
percentile of the API's answers is above half a second. The client shares the machine with the
server. Requests go to this machine only, and every phase ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import engines
from common import Bar, end_cleanly, report
from handcar.modelfile.coding import STEP
from handcar.protocol.messages import ModelStatus
from handcar.server.processes import allow_connections
from handcar.simulation.stage import Process, Stage
from load_updates import Updates, layout_of, network
from load_volunteers import Crowd

VOLUNTEERS, QUICK_VOLUNTEERS = 10_000, 500
SECONDS, QUICK_SECONDS = 900.0, 30.0
EVERY_S, QUICK_EVERY_S = 1800.0, 60.0
WEIGHTS, QUICK_WEIGHTS = 20_000_000, 1_000_000
BATCH = 32
LOOK_S = 2.0
SETTLE_S = 3.0
JOINING_S = 600.0
"""Who has not joined by then does not take part."""
P99_MS = 500.0
GROWTH = 1.25
STAGE_S, QUICK_STAGE_S = 90.0, 10.0
STAGES = 20
"""The search ends after so many, whatever it finds."""
FILES = ("delta",)
"""Routes whose time depends on how many bytes are asked for: they have rows, but no bar."""


def main() -> None:
    """Measure and report."""
    wanted = _arguments()
    end_cleanly()
    allow_connections()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = stack.enter_context(engines.made(wanted, folder))
        stage = stack.enter_context(Stage(folder))
        stage.environment |= engine.environment
        server = stage.serve()
        time.sleep(SETTLE_S)
        idle_mb = memory_mb(psutil.Process(server.pid))
        model = publish(stage, wanted.weights, validation=wanted.validation)
        updates = Updates(model["name"], layout_of(model), STEP)
        crowd = Crowd(stage.url, model["name"], updates, wanted.every, BATCH)
        with Meter(server, engine.database) as meter:
            held = asyncio.run(search(crowd, wanted) if wanted.search else hold(crowd, wanted))
        status = stage.until(lambda: stage.status(model["name"]), "the server answers")
        show(wanted, engine.name, Outcome(crowd, held, meter, status, idle_mb))
        if held.errors and not wanted.json:
            print(stage.logs()[-2000:], file=sys.stderr)


# -- phases ------------------------------------------------------------------------------------


@dataclass
class Held:
    """What was measured while a crowd was held."""

    volunteers: int
    seconds: float
    milliseconds: dict[str, tuple[int, float, float, float]]
    """By route: how many, and the percentiles 50, 95 and 99."""
    p99_ms: float
    requests_per_s: float
    errors: int
    told: dict[str, int] = field(default_factory=dict)
    client_share: float = 0.0
    """Of a core, that the volunteers themselves took."""
    later: int = 0
    mb_up_per_s: float = 0.0
    mb_down_per_s: float = 0.0


async def hold(crowd: Crowd, wanted: argparse.Namespace) -> Held:
    """Gather the crowd, then measure for a while."""
    await crowd.grow(wanted.volunteers, JOINING_S)
    _say(f"{len(crowd.members)} volunteers have joined: {_summary(crowd)}")
    held = await _measured(crowd, wanted.seconds)
    await crowd.go()
    return held


async def search(crowd: Crowd, wanted: argparse.Namespace) -> Held:
    """Let the crowd grow until answers are slow; return the last one that was held."""
    count = wanted.volunteers
    best: Held | None = None
    for _ in range(STAGES):
        await crowd.grow(count - len(crowd.members), JOINING_S)
        held = await _measured(crowd, wanted.stage)
        _say(
            f"{held.volunteers} volunteers: {held.requests_per_s:.0f} requests a second, "
            f"p99 {held.p99_ms:.0f} ms, {held.errors} errors, client {held.client_share:.0%}"
        )
        if held.p99_ms > P99_MS or held.errors:
            best = best or held
            break
        best, count = held, round(count * GROWTH)
    await crowd.go()
    assert best is not None
    return best


async def _measured(crowd: Crowd, seconds: float) -> Held:
    crowd.tally.forget()
    began, used = time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    took, used = time.monotonic() - began, time.process_time() - used
    tally = crowd.tally
    api = [one for route, times in tally.seconds.items() if route not in FILES for one in times]
    return Held(
        volunteers=len(crowd.members),
        seconds=took,
        milliseconds={route: _percentiles(times) for route, times in tally.seconds.items()},
        p99_ms=_percentiles(api)[3],
        requests_per_s=sum(map(len, tally.seconds.values())) / took,
        errors=sum(tally.errors.values()),
        told=dict(tally.errors.most_common(10)),
        client_share=used / took,
        later=tally.later,
        mb_up_per_s=tally.bytes_up / took / 1e6,
        mb_down_per_s=tally.bytes_down / took / 1e6,
    )


def _percentiles(seconds: Sequence[float]) -> tuple[int, float, float, float]:
    if not seconds:
        return 0, 0.0, 0.0, 0.0
    found = np.percentile(np.array(seconds) * 1e3, (50, 95, 99))
    return len(seconds), float(found[0]), float(found[1]), float(found[2])


def _summary(crowd: Crowd) -> str:
    """Say how joining went."""
    return ", ".join(
        f"{route} {count} times, p99 {slow:.0f} ms"
        for route, (count, _, _, slow) in (
            (route, _percentiles(times)) for route, times in crowd.tally.seconds.items()
        )
    )


# -- the server --------------------------------------------------------------------------------


def publish(stage: Stage, weights: int, *, validation: int) -> dict[str, Any]:
    """Publish a dense network of so many weights; return its model file."""
    records = 2_000
    rng = np.random.default_rng(0)
    x = rng.standard_normal((records, 64)).astype(np.float32)
    np.savez(stage.folder / "load.npz", x=x, y=rng.integers(0, 10, records))
    dataset: dict[str, Any] = {"name": "noise", "file": "load.npz"}
    if validation:
        dataset["validation"] = validation / records
    model = {
        "name": "load",
        "dataset": dataset,
        **network(weights),
        "loss": "sparse_categorical_crossentropy",
        "optimizer": {"name": "SGD", "learning_rate": 0.01},
        "batch_size": BATCH,
        "round": {"max_steps": 1000, "max_seconds": 1800},
    }
    path = stage.folder / "load.json"
    path.write_text(json.dumps(model))
    stage.call("publish", str(path), "--server", stage.url)

    def ready() -> bool:
        status = stage.status("load")
        return status is not None and status.version >= 0

    stage.until(ready, "version 0 is there")
    return model


class Meter:
    """What a server's processes use, those of its database too; looked at every other second."""

    def __init__(self, server: Process, database: str) -> None:
        self.most_mb = 0.0
        self.memory_mb: list[float] = []
        self._server = psutil.Process(server.pid)
        self._database = database
        self._seconds: dict[tuple[int, str], float] = {}
        self._began = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Meter:
        self._look()
        self._before = dict(self._seconds)
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.seconds = time.monotonic() - self._began

    def cores(self) -> dict[str, float]:
        """Return how many cores each part took on average."""
        used: dict[str, float] = {}
        for key, seconds in self._seconds.items():
            part = seconds - self._before.get(key, 0.0)
            used[key[1]] = used.get(key[1], 0.0) + part / self.seconds
        return used

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        memory = 0.0
        for process, name in self._processes():
            try:
                times = process.cpu_times()
                self._seconds[process.pid, name] = times.user + times.system
                if name != "database":
                    memory += process.memory_full_info().pss / 1e6
            except psutil.Error:
                continue  # it has just ended
        self.memory_mb.append(memory)
        self.most_mb = max(self.most_mb, memory)

    def _processes(self) -> list[tuple[psutil.Process, str]]:
        try:
            ours = [self._server, *self._server.children(recursive=True)]
            found = [(one, _part(one, self._server)) for one in ours]
        except psutil.Error:
            return []
        if self._database:
            for one in psutil.process_iter(["name", "cmdline"]):
                if "postgres" in (one.info["name"] or ""):
                    words = " ".join(one.info["cmdline"] or ())
                    if self._database in words:
                        found.append((one, "database"))
        return found


def memory_mb(server: psutil.Process) -> float:
    """Return what a server's processes take, what they share counted once."""
    ours = [server, *server.children(recursive=True)]
    return sum(one.memory_full_info().pss for one in ours) / 1e6


def _part(process: psutil.Process, server: psutil.Process) -> str:
    """Return which part of the server a process is: its own name, or that of who started it."""
    words = process.cmdline()
    for name in ("web", "worker", "evaluator"):
        if name in words:
            return name
    parent = process.parent()
    if process == server or parent is None or parent == server:
        return "serve"
    return _part(parent, server)


# -- report ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """All that there is to report."""

    crowd: Crowd
    held: Held
    meter: Meter
    status: ModelStatus
    idle_mb: float


def show(wanted: argparse.Namespace, engine: str, found: Outcome) -> None:
    """Print what was found."""
    crowd, held, meter, status = found.crowd, found.held, found.meter, found.status
    rows = [(route, *numbers) for route, numbers in sorted(held.milliseconds.items())]
    bars = [
        Bar("load.volunteers", held.volunteers, "volunteers"),
        Bar("load.p99_ms", held.p99_ms, "ms, of the API's answers"),
        Bar("load.errors", held.errors, "errors"),
        Bar("load.requests_per_s", held.requests_per_s, "a second"),
        Bar("load.acknowledged", crowd.acknowledged, "updates"),
        Bar("load.merged", status.updates_merged, "updates"),
        Bar("load.waiting", status.updates_waiting, "updates not merged yet"),
        Bar("load.refused", status.updates_refused, "updates"),
        Bar("load.versions", status.version, "versions"),
        Bar("load.round_s", max(wanted.every, crowd.min_seconds), "s, a round in the end"),
        Bar("load.later", held.later, "answers that asked to come later"),
        Bar("load.up_mb_per_s", held.mb_up_per_s, "MB/s"),
        Bar("load.down_mb_per_s", held.mb_down_per_s, "MB/s"),
        *(
            Bar(f"load.{part}_cores", share, "cores")
            for part, share in sorted(meter.cores().items())
        ),
        Bar("load.client_cores", held.client_share, "cores"),
        Bar("server.idle_mb", found.idle_mb, "MB, before anything was published"),
        Bar("load.server_mb", statistics.median(meter.memory_mb), "MB, all its processes"),
        Bar("load.server_most_mb", meter.most_mb, "MB"),
    ]
    report(
        wanted,
        f"{held.volunteers} volunteers for {held.seconds:.0f} s on {engine}, an update of "
        f"{wanted.weights:,} weights every {wanted.every:g} s each; ms",
        ("route", "requests", "p50", "p95", "p99"),
        rows,
        bars,
    )
    for text, count in held.told.items():
        _say(f"{count} times: {text}")
    for refusal in status.refusals[:3]:
        _say(f"refused: {refusal.reason}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within about a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--search", action="store_true", help="let the crowd grow until it is slow")
    parser.add_argument("--volunteers", type=int, help="how many; where --search begins")
    parser.add_argument("--seconds", type=float, help="how long they are held")
    parser.add_argument("--every", type=float, help="seconds between two updates of a volunteer")
    parser.add_argument("--weights", type=int, help="of the model")
    parser.add_argument("--stage", type=float, help="seconds that --search measures each crowd")
    parser.add_argument("--validation", type=int, default=0, help="held-out records")
    engines.add_arguments(parser)
    wanted = parser.parse_args()
    usual, quick = (
        (VOLUNTEERS, SECONDS, EVERY_S, WEIGHTS, STAGE_S),
        (QUICK_VOLUNTEERS, QUICK_SECONDS, QUICK_EVERY_S, QUICK_WEIGHTS, QUICK_STAGE_S),
    )
    for name, value in zip(
        ("volunteers", "seconds", "every", "weights", "stage"),
        quick if wanted.quick else usual,
        strict=True,
    ):
        if getattr(wanted, name) is None:
            setattr(wanted, name, value)
    return wanted


if __name__ == "__main__":
    main()
