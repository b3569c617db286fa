"""Celery, which carries one word to the workers: look what there is to do.

The word holds nothing, so a lost one costs seconds and a doubled one costs a look. docs/decisions/
0016-engines.md says why.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from functools import lru_cache
from typing import Any

from celery import Celery
from celery.exceptions import SecurityWarning
from django.conf import settings
from django.utils import timezone
from kombu.entity import Queue

TASK = "handcar.work"
EXPIRES_S = 60
"""A word that nobody heard by then is old: workers have looked since."""
WAITING_MOST = 1_000
STEPS_MOST = 1_000
SECONDS_MOST = 60.0
CONNECT_S = 3.0
AFTER_FAULT_S = 10.0


@lru_cache(maxsize=1)
def app() -> Celery:
    """Return the application, made at the first call."""
    made = Celery("handcar", broker=settings.HANDCAR.broker, set_as_current=False)
    made.conf.update(
        task_default_queue=queue(),
        task_queues=[
            Queue(  # type: ignore[no-untyped-call]
                queue(),
                queue_arguments={"x-message-ttl": EXPIRES_S * 1000, "x-max-length": WAITING_MOST},
            )
        ],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        # The evaluator writes where this process does, and needs a real file for that.
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        # A merge of large weights may take longer than a heartbeat's patience.
        broker_heartbeat=0,
        broker_connection_timeout=CONNECT_S,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_transport_options(str(settings.HANDCAR.broker)),
    )
    made.task(name=TASK)(work)
    return made


def queue() -> str:
    """Return the name of this project's queue: several may share a broker."""
    return f"handcar-{hashlib.sha256(b'queue' + settings.HANDCAR_CHECKING_KEY).hexdigest()[:8]}"


def _transport_options(broker: str) -> dict[str, Any]:
    patience = {"max_retries": 1, "interval_start": 0, "interval_step": 0.5, "interval_max": 0.5}
    if broker.startswith("redis"):
        return {**patience, "socket_timeout": CONNECT_S, "socket_connect_timeout": CONNECT_S}
    return {**patience, "write_timeout": CONNECT_S}


def send() -> None:
    """Send the word, or fail within seconds."""
    app().send_task(TASK, expires=EXPIRES_S, retry=False, ignore_result=True)


def work() -> None:
    """Do what there is, within bounds; workers that look by themselves do what is left."""
    from handcar.server.worker import look_back, work_once

    look_back(timezone.now())
    until = time.monotonic() + SECONDS_MOST
    for _ in range(STEPS_MOST):
        if not work_once(timezone.now()) or time.monotonic() > until:
            return


def listen() -> None:
    """Hear and do until SIGTERM or Ctrl-C; a broker that is away is looked for again and again."""
    from celery.worker import state

    while state.should_stop is None and state.should_terminate is None:
        _listen()
        # Celery gives up where a password is refused or a queue is another's: it may be mended.
        for _ in range(round(AFTER_FAULT_S)):
            if state.should_stop is None and state.should_terminate is None:
                time.sleep(1.0)


def _listen() -> None:
    # A word says nothing, so it can't make a worker that runs as root do anything.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    worker = app().Worker(
        pool="solo",
        concurrency=1,
        loglevel=settings.HANDCAR.log,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
