"""Figures for Prometheus, at `/metrics`.

What the state tables know is read from them when somebody asks. What only a process knows, such
as how long its requests or merges took, it counts in files of its own in the folder `metrics/`,
and any web process on this machine adds all of them up: web processes and workers, running or
gone. Without prometheus-client nothing is counted.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
WORK_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
OLD_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Metrics:
    """What processes count."""

    requests: Any
    request_seconds: Any
    bytes: Any
    heartbeats: Any
    limited: Any
    check_seconds: Any
    decode_seconds: Any
    merge_seconds: Any


@cache
def ours() -> Metrics | None:
    """Return what this process counts; none without prometheus-client."""
    try:
        _make_folder()
        from prometheus_client import CollectorRegistry, Counter, Histogram, values
    except (ImportError, OSError):
        return None
    # By name of the machine too: in containers process ids are alike.
    values.ValueClass = values.MultiProcessValue(_process)  # type: ignore[no-untyped-call]
    unseen: dict[str, Any] = {
        "registry": CollectorRegistry()
    }  # what is shown is read from the files
    route = ("method", "route")
    return Metrics(
        requests=Counter(
            "handcar_requests", "Requests, by route and status", (*route, "status"), **unseen
        ),
        request_seconds=Histogram(
            "handcar_request_seconds",
            "Time until the answer begins",
            route,
            buckets=REQUEST_BUCKETS,
            **unseen,
        ),
        bytes=Counter("handcar_bytes", "Bodies of requests and answers", ("direction",), **unseen),
        heartbeats=Counter("handcar_heartbeats", "Heartbeats heard", **unseen),
        limited=Counter(
            "handcar_requests_limited", "Requests that came too often", ("limit",), **unseen
        ),
        check_seconds=_work("check", "Looking at one update", unseen),
        decode_seconds=_work("decode", "Decoding one update", unseen),
        merge_seconds=_work("merge", "Making one version", unseen),
    )


def _work(name: str, text: str, unseen: dict[str, Any]) -> Any:
    from prometheus_client import Histogram

    return Histogram(f"handcar_{name}_seconds", text, buckets=WORK_BUCKETS, **unseen)


def _process() -> str:
    # Without underscores, which part the names of the files.
    return f"{socket.gethostname().replace('_', '-')}-{os.getpid()}"


def _make_folder() -> None:
    folder: Path = settings.HANDCAR_HOME.folder / "metrics"
    folder.mkdir(exist_ok=True)
    os.environ[FOLDER] = str(folder)
    _sweep(folder)


def _sweep(folder: Path) -> None:
    """Remove what processes left that are gone for a day: Prometheus has it."""
    for path in folder.glob("*.db"):
        if time.time() - path.stat().st_mtime > OLD_S:
            path.unlink(missing_ok=True)


# -- counting --------------------------------------------------------------------------------


def answered(method: str, route: str, status: int, seconds: float) -> None:
    """Count one request."""
    if found := ours():
        found.requests.labels(method, route, str(status)).inc()
        found.request_seconds.labels(method, route).observe(seconds)


def moved(*, up: int, down: int) -> None:
    """Count the bytes of one request."""
    if found := ours():
        found.bytes.labels("up").inc(up)
        found.bytes.labels("down").inc(down)


def heard() -> None:
    """Count one heartbeat."""
    if found := ours():
        found.heartbeats.inc()


def limited(kind: str) -> None:
    """Count a request that came too often."""
    if found := ours():
        found.limited.labels(kind).inc()


@contextmanager
def timed(work: str) -> Iterator[None]:
    """Note how long the block takes: `check`, `decode` or `merge`."""
    began = time.perf_counter()
    yield
    if found := ours():
        getattr(found, f"{work}_seconds").observe(time.perf_counter() - began)
