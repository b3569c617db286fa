"""The whole job on one machine: a server, three volunteers behind thin links, real processes.

each link      1 Mbit/s up, 8 down, 20 ms: a modest household
the measure    the merged model against one volunteer alone with its first chunk
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from handcar import demo_data
from handcar.errors import HandcarError
from handcar.protocol.messages import ModelStatus
from handcar.simulation.network import ThrottledLink
from handcar.simulation.stage import Stage

VOLUNTEERS = ("ada", "emmy", "grace")
UP_BITS_PER_S = 1e6
DOWN_BITS_PER_S = 8e6
LATENCY_S = 0.02
MODEL = "digits"
TRAINING_AT_MOST_S = 80.0


@dataclass(frozen=True)
class View:
    """What the demo shows while it runs."""

    page: str
    seconds: float
    status: ModelStatus | None
    bytes_up: int
    bytes_down: int
    doing: str


@dataclass(frozen=True)
class Outcome:
    """What the demo came to."""

    accuracy: float
    accuracy_alone: float
    versions: int
    updates_merged: int
    bytes_up: int
    bytes_down: int
    seconds: float
    export: str


class Demo:
    """One run of the demo."""

    def __init__(self, stage: Stage, show: Callable[[View], None]) -> None:
        self._stage = stage
        self._show = show
        self._began = time.monotonic()
        self._links: list[ThrottledLink] = []

    def run(self, export: Path) -> Outcome:
        """Serve, publish, train, export; return what came of it."""
        stage = self._stage
        trained = stage.folder / f"{MODEL}.keras"
        self._view("starting the server")
        stage.serve()
        self._view("publishing the data set and the model")
        stage.call("publish", str(demo_data.MODEL_FILE), "--server", stage.url)
        with ExitStack() as links:
            for name in VOLUNTEERS:
                self._links.append(links.enter_context(self._link()))
                stage.join(name, self._links[-1].url)
            status = self._watch()
        stage.call("export", MODEL, "-o", str(trained), "--server", stage.url)
        self._view("comparing with one volunteer alone", status)
        measured = self._compare(trained, export)
        return Outcome(
            accuracy=measured["accuracy"],
            accuracy_alone=measured["accuracy_alone"],
            versions=status.version,
            updates_merged=status.updates_merged,
            bytes_up=sum(link.bytes_up for link in self._links),
            bytes_down=sum(link.bytes_down for link in self._links),
            seconds=round(time.monotonic() - self._began, 1),
            export=str(export),
        )

    def _link(self) -> ThrottledLink:
        parts = urlsplit(self._stage.url)
        return ThrottledLink(
            (parts.hostname or "127.0.0.1", parts.port or 80),
            up_bits_per_s=UP_BITS_PER_S,
            down_bits_per_s=DOWN_BITS_PER_S,
            latency_s=LATENCY_S,
        )

    def _watch(self) -> ModelStatus:
        """Follow the training to its end and through the last evaluation."""
        began = time.monotonic()

        def finished() -> ModelStatus | None:
            status = self._stage.status(MODEL)
            self._view("training", status)
            if status is None or not status.history:
                return None
            if status.state == "pending" and time.monotonic() - began > TRAINING_AT_MOST_S:
                self._stage.call("finish", MODEL, "--server", self._stage.url)
            measured = status.history[-1].accuracy is not None
            return status if status.state == "finished" and measured else None

        return self._stage.until(finished, "the training is finished")

    def _compare(self, trained: Path, export: Path) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "handcar.simulation.alone", str(trained), str(export)],
            capture_output=True,
            env=self._stage.environment,
            text=True,
            check=False,
        )
        if done.returncode:
            raise HandcarError(f"the comparison failed: {done.stderr.strip()[-2000:]}")
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def _view(self, doing: str, status: ModelStatus | None = None) -> None:
        self._show(
            View(
                page=self._stage.url,
                seconds=time.monotonic() - self._began,
                status=status,
                bytes_up=sum(link.bytes_up for link in self._links),
                bytes_down=sum(link.bytes_down for link in self._links),
                doing=doing,
            )
        )


def run(export: Path, show: Callable[[View], None]) -> Outcome:
    """Run the demo in a folder of its own, which is removed at the end."""
    # The folder goes last: processes write in it until they have stopped.
    with tempfile.TemporaryDirectory(prefix="handcar-demo-") as folder:  # noqa: SIM117
        with Stage(Path(folder)) as stage:
            return Demo(stage, show).run(export)
