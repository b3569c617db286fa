"""The worker: finds work in the state tables, one step at a time.

Work is found, not delivered: the truth is the `state` of each row, so a crash at any
moment loses nothing and repeats nothing that counts.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess  # noqa: S404
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime

from django.conf import settings
from django.utils import timezone

from handcar.errors import DiskFull
from handcar.server import lifeline, sweep
from handcar.server.rounds import checks, evaluation, merges, services

log = logging.getLogger(__name__)

IDLE_S = 0.5
AFTER_FAULT_S = 5.0
SWEEP_EVERY_S = 24 * 3600.0
EVALUATION_EVERY_S = 1.0


def work_once(now: datetime) -> bool:
    """Find one step of work and do it; say whether there was one."""
    return services.expire(now) or merges.merge_one(now) or checks.check_one(now)


def run() -> None:
    """Work until SIGTERM or Ctrl-C, or until the server that started this process is gone."""
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    if lifeline.PARENT in os.environ:
        services.release_leases()  # the server has one worker, and the one before is dead
    evaluator = Evaluator()
    sweep_at = time.monotonic()
    try:
        while not stop.is_set():
            if time.monotonic() >= sweep_at:
                sweep_at = time.monotonic() + SWEEP_EVERY_S
                _guarded(stop, sweep.sweep)
            _guarded(stop, evaluator.look_after)
            _guarded(stop, lambda: work_once(timezone.now()) or stop.wait(IDLE_S))
    finally:
        evaluator.stop()


def _guarded(stop: threading.Event, step: Callable[[], object]) -> None:
    """Run one step; whatever goes wrong is logged, and the loop goes on."""
    try:
        step()
    except DiskFull as error:
        log.error("%s", error)
        stop.wait(AFTER_FAULT_S)
    except Exception:
        log.exception("the worker goes on after this")
        stop.wait(AFTER_FAULT_S)


class Evaluator:
    """The process with Keras: started when there is work for it, again after growing pauses."""

    FIRST_PAUSE_S = 2.0
    LONGEST_PAUSE_S = 300.0

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._look_at = 0.0
        self._pause_s = self.FIRST_PAUSE_S

    def look_after(self) -> None:
        """Start the process if it is needed and not there."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + EVALUATION_EVERY_S
        if self._process is not None and not self._ended(self._process):
            return
        if evaluation.waits():
            self._process = self._start()

    def stop(self) -> None:
        """End the process; what it was doing is done again another time."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _ended(self, process: subprocess.Popen[bytes]) -> bool:
        code = process.poll()
        if code is None:
            return False
        self._process = None
        if code == 0:
            self._pause_s = self.FIRST_PAUSE_S
            return True
        log.warning("the evaluating process ended with %d; next in %g s", code, self._pause_s)
        self._look_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, self.LONGEST_PAUSE_S)
        return False

    def _start(self) -> subprocess.Popen[bytes]:
        home = str(settings.HANDCAR_HOME.folder)
        command = [sys.executable, "-m", "handcar.server.processes", "evaluator", home]
        return subprocess.Popen(  # noqa: S603 - our own program
            command, env=lifeline.environment(), stdin=subprocess.DEVNULL, stdout=sys.stderr
        )
