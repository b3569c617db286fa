"""Children that belong together: started, watched, started again, stopped quickly."""

from __future__ import annotations

import logging
import subprocess  # noqa: S404
import sys
import threading
import time
from dataclasses import dataclass, field

from handcar.server import lifeline

log = logging.getLogger(__name__)

STOP_S = 5.0
LOOK_S = 0.2
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
CALM_S = 60.0
"""A child that lived so long starts again at once."""


@dataclass(slots=True)
class Child:
    """One child process: how to start it, and when next if it dies."""

    name: str
    arguments: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    start_at: float = field(default=0.0)

    def start(self) -> None:
        """Start it."""
        command = [sys.executable, "-m", "handcar.server.processes", self.name, *self.arguments]
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            command, env=lifeline.environment(), stdin=subprocess.DEVNULL, stdout=sys.stderr
        )
        self.started_at = time.monotonic()

    def look_after(self) -> None:
        """Start it again if it died, after a pause that grows while it dies young."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            calm = now - self.started_at > CALM_S
            self.pause_s = FIRST_PAUSE_S if calm else min(2 * self.pause_s, LONGEST_PAUSE_S)
            self.start_at = now + self.pause_s
            log.warning("%s ended with %s; starting it again", self.name, self.process.returncode)
            self.process = None
        if self.process is None and now >= self.start_at:
            self.start()


def run(children: list[Child], stop: threading.Event) -> None:
    """Look after the children until `stop` is set."""
    while not stop.wait(LOOK_S):
        for child in children:
            child.look_after()


def end(children: list[Child]) -> None:
    """Ask all children to stop, and stop those who don't within seconds."""
    running = [child.process for child in children if child.process is not None]
    for process in running:
        process.terminate()
    until = time.monotonic() + STOP_S
    for process in running:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
