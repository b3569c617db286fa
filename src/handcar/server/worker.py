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
from django.db import InterfaceError, OperationalError, close_old_connections, connections
from django.utils import timezone

from handcar.errors import DiskFull
from handcar.server import lifeline, pausing, setup, sweep
from handcar.server.rounds import (
    auditors,
    checks,
    evaluation,
    leases,
    merges,
    rollback,
    services,
    verdicts,
)

log = logging.getLogger(__name__)

IDLE_S = 0.5
IDLE_WITH_BROKER_S = 2.0
"""A broker tells of most work at once; what it loses is found so much later."""
AFTER_FAULT_S = 5.0
SWEEP_EVERY_S = 24 * 3600.0
EVALUATION_EVERY_S = 1.0
LOOK_BACK_EVERY_S = 1.0
NICENESS = 5
"""Web processes on the same machine go first: someone waits for them, for milliseconds."""

_alone = threading.Lock()
"""One step at a time in a process: its memory is that of one merge."""


def work_once(now: datetime) -> bool:
    """Do one step of work; say whether there was one. There is none while the server is moved."""
    with _alone:
        return not pausing.is_paused() and (
            services.expire(now)
            or merges.merge_one(now)
            or checks.check_one(now)
            or checks.pass_one(now)
            or verdicts.judge_one(now)
            or auditors.expire(now)
        )


def look_back(now: datetime) -> bool:
    """Take one model back, as its owner asked or because it got worse; say if there was one."""
    with _alone:
        return not pausing.is_paused() and rollback.roll_back_one(now)


def run() -> None:
    """Work until SIGTERM or Ctrl-C, or until the server that started this process is gone."""
    stop = threading.Event()
    if hasattr(os, "nice"):
        os.nice(NICENESS)  # the evaluator has it from this process
    if lifeline.PARENT in os.environ and settings.HANDCAR.is_embedded:
        leases.release_all()  # the server has one worker, and the one before is dead
    if settings.HANDCAR.broker is None:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: stop.set())
        _look(stop, IDLE_S)
        return
    from handcar.server import celery

    looks = threading.Thread(target=_look_or_end, args=(stop, IDLE_WITH_BROKER_S), name="looks")
    looks.start()
    try:
        celery.listen()  # and this thread has the signals
    finally:
        stop.set()
        looks.join()


def _look_or_end(stop: threading.Event, idle_s: float) -> None:
    """Look for work in a thread; without it the process is of no use, and is started again."""
    try:
        _look(stop, idle_s)
    except Exception:
        log.exception("the worker can't go on")
    if not stop.is_set():
        os._exit(1)


def _look(stop: threading.Event, idle_s: float) -> None:
    """Look for work again and again, and do it."""
    if not setup.wait_for_tables(stop):
        return
    evaluator = Evaluator()
    sweep_at = look_back_at = time.monotonic()
    try:
        while not stop.is_set():
            if pausing.is_paused():
                stop.wait(idle_s)
                continue
            if time.monotonic() >= sweep_at:
                sweep_at = time.monotonic() + SWEEP_EVERY_S
                _guarded(stop, sweep.sweep)
            if time.monotonic() >= look_back_at:
                look_back_at = time.monotonic() + LOOK_BACK_EVERY_S
                _guarded(stop, lambda: look_back(timezone.now()))
            _guarded(stop, evaluator.look_after)
            _guarded(stop, lambda: work_once(timezone.now()) or stop.wait(idle_s))
    finally:
        evaluator.stop()
        connections.close_all()


def _guarded(stop: threading.Event, step: Callable[[], object]) -> None:
    """Run one step; whatever goes wrong is logged, and the loop goes on."""
    try:
        step()
    except DiskFull as error:
        log.error("%s", error)
        stop.wait(AFTER_FAULT_S)
    except (OperationalError, InterfaceError) as error:
        log.error("the database: %s; trying again in %g s", str(error).strip(), AFTER_FAULT_S)
        stop.wait(AFTER_FAULT_S)
    except Exception:
        log.exception("the worker goes on after this")
        stop.wait(AFTER_FAULT_S)
    finally:
        close_old_connections()  # one that was cut would fail for ever


class Evaluator:
    """The process with Keras: started when there is work for it, again after growing pauses."""

    FIRST_PAUSE_S = 2.0
    LONGEST_PAUSE_S = 300.0
    CALM_S = 60.0
    """One that lived so long did not die of how it was started."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = self._look_at = 0.0
        self._pause_s = self.FIRST_PAUSE_S

    def look_after(self) -> None:
        """Start the process if it is needed and not there."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + EVALUATION_EVERY_S
        if self._process is not None and not self._ended(self._process):
            return
        if evaluation.waits():
            self._started_at = time.monotonic()
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
        if code == 0 or time.monotonic() - self._started_at > self.CALM_S:
            self._pause_s = self.FIRST_PAUSE_S
        if code == 0:
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
