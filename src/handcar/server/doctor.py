"""What a server needs, tried one by one: what works, what doesn't, and what to do about it.

Nothing is left behind: what is written is taken back. Each check is a function that yields what
it found; what it can't do at all is a fault of its own, and the others go on.
"""

from __future__ import annotations

import difflib
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from handcar.errors import HandcarError
from handcar.files import MB
from handcar.server import configuration, setup
from handcar.server.configuration import BadConfiguration, Configuration

OK: Final = "ok"
WARNING: Final = "warning"
FAULT: Final = "fault"
SLOW_S = 0.02
"""A database that takes longer for a question makes everything slow."""
LATE_S = 60.0
"""An update that nobody looked at for so long is one that no worker sees."""
SKEW_S = 5.0
REFUSED_SKEW_S = 15 * 60.0
"""S3 refuses requests that are so far from its own time."""
LITTLE_DISK = 5_000 * MB
LITTLE_MEMORY = 1_000 * MB
OLDEST_POSTGRESQL = 14
WORKERS_BESIDE = 16
"""Connections left for workers, their evaluators, and people."""
CLIENTS = ("HANDCAR_HOME", "HANDCAR_SERVER", "HANDCAR_TOKEN", "HANDCAR_PARENT")
BACKENDS = ("tensorflow", "jax", "torch")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    what: str
    state: Literal["ok", "warning", "fault"]
    found: str
    do: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return it for programs."""
        return asdict(self)


Check = Callable[[Configuration], Iterator[Finding]]


def examine(folder: Path) -> list[Finding]:
    """Try all that a server in this folder needs."""
    environ = os.environ | {"HANDCAR_SERVER_HOME": str(folder)}
    try:
        chosen = configuration.read(environ)
    except BadConfiguration as error:
        lines = str(error).splitlines()
        return [Finding("settings", FAULT, line, "mend this first") for line in lines]
    findings = [*_settings(chosen), *_folder(chosen)]
    if any(finding.state == FAULT for finding in findings):
        return findings
    setup.prepare(folder)
    for name, check in CHECKS.items():
        if name == "workers" and findings[-1].state == FAULT:
            continue  # it is the database that can't be asked
        findings += _tried(name, check, chosen)
    return findings


def _tried(name: str, check: Check, chosen: Configuration) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(check(chosen))
    except Exception as error:
        # Whatever a service did: a person should read it, and the other checks go on.
        text = " ".join(str(error).split()) or type(error).__name__
        found.append(Finding(name, FAULT, text, DO[name]))
    return found


# -- settings and this machine ---------------------------------------------------------------


def _settings(chosen: Configuration) -> Iterator[Finding]:
    where = f"the environment and {chosen.file}" if chosen.file else "the environment"
    yield Finding("settings", OK, f"read from {where}")
    known = {*configuration.VARIABLES, *CLIENTS, "HANDCAR_TEST_DATABASE"}
    for name in sorted(set(os.environ) - known):
        if name.startswith(configuration.PREFIX):
            near = difflib.get_close_matches(name, known, n=1)
            do = f"did you mean {near[0]}?" if near else "take it out"
            yield Finding("settings", WARNING, f"{name} is no setting", do)
    if chosen.file is not None and os.name == "posix" and chosen.file.stat().st_mode & 0o077:
        do = f"chmod 600 {chosen.file}"
        yield Finding("settings", WARNING, f"others can read {chosen.file}", do)
    if not chosen.is_embedded and not (
        chosen.secret_key and chosen.signing_key and chosen.checking_key
    ):
        yield Finding(
            "secrets",
            WARNING,
            "they are in this machine's folder alone",
            "before a second machine joins, give all the same HANDCAR_SECRET_KEY, "
            "HANDCAR_SIGNING_KEY and HANDCAR_CHECKING_KEY",
        )
    if not chosen.is_embedded and chosen.store is None:
        yield Finding(
            "store",
            WARNING,
            "bytes are in this machine's folder alone",
            "set HANDCAR_STORE before a second machine joins",
        )


def _folder(chosen: Configuration) -> Iterator[Finding]:
    folder = chosen.home.folder
    try:
        chosen.home.make_folders()
        trial = folder / ".doctor"
        trial.write_bytes(b"trial")
        trial.unlink()
    except OSError as error:
        yield Finding("folder", FAULT, f"{folder}: {error.strerror}", "let its user write there")
        return
    yield Finding("folder", OK, f"{folder} can be written")
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free"
    if free < LITTLE_DISK:
        yield Finding("disk", WARNING, text, "make room: a server that is short of it takes none")
    else:
        yield Finding("disk", OK, text)


def _memory(chosen: Configuration) -> Iterator[Finding]:
    import psutil

    free = psutil.virtual_memory().available
    text = f"{free / 1e9:.1f} GB free"
    if free < LITTLE_MEMORY:
        do = "merging needs five times a model's weights, the evaluator half a gigabyte more"
        yield Finding("memory", WARNING, text, do)
    else:
        yield Finding("memory", OK, text)


def _keras(chosen: Configuration) -> Iterator[Finding]:
    found = [name for name in BACKENDS if find_spec(name)]
    if find_spec("keras") and found:
        yield Finding("Keras", OK, f"is here, with {', '.join(found)}")
        return
    yield Finding(
        "Keras",
        WARNING,
        "neither TensorFlow, JAX nor PyTorch is here",
        "a worker needs one to prepare models and to measure versions: "
        "pip install 'handcar[tensorflow]'",
    )


# -- the database ----------------------------------------------------------------------------


def _database(chosen: Configuration) -> Iterator[Finding]:
    from django.db import connection, transaction

    connection.ensure_connection()
    yield _version(connection)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE handcar_doctor (number integer)")
        cursor.execute("INSERT INTO handcar_doctor VALUES (1)")
        transaction.set_rollback(True)
    yield _latency(connection)
    yield _migrations(chosen)
    if connection.vendor == "postgresql":
        yield _connections(connection, chosen)
        with connection.cursor() as cursor:
            cursor.execute("SELECT now()")
            theirs = cursor.fetchone()[0]
        yield _skew("clock", "the database's", (datetime.now(UTC) - theirs).total_seconds())


def _version(connection: Any) -> Finding:
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            return Finding("database", OK, f"SQLite {connection.Database.sqlite_version}")
        cursor.execute("SHOW server_version")
        version = str(cursor.fetchone()[0])
    text = f"PostgreSQL {version}"
    if int(version.split(".", maxsplit=1)[0]) < OLDEST_POSTGRESQL:
        return Finding("database", FAULT, text, f"{OLDEST_POSTGRESQL} or newer is needed")
    return Finding("database", OK, text)


def _latency(connection: Any) -> Finding:
    took = []
    with connection.cursor() as cursor:
        for _ in range(20):
            began = time.monotonic()
            cursor.execute("SELECT 1")
            took.append(time.monotonic() - began)
    median = statistics.median(took)
    text = f"writes, and answers in {median * 1000:.1f} ms"
    if median > SLOW_S:
        return Finding("database", WARNING, text, "put the server and it closer together")
    return Finding("database", OK, text)


def _migrations(chosen: Configuration) -> Finding:
    missing = setup.missing_migrations()
    if not missing:
        return Finding("tables", OK, "are up to date")
    text = f"{len(missing)} migrations are to be applied"
    return Finding("tables", WARNING, text, "`handcar serve` does it when it starts")


def _connections(connection: Any, chosen: Configuration) -> Finding:
    with connection.cursor() as cursor:
        cursor.execute("SHOW max_connections")
        most = int(cursor.fetchone()[0])
    needed = chosen.web_processes * chosen.threads + WORKERS_BESIDE
    text = f"this server may hold {needed} connections of {most}"
    if needed > most:
        do = "raise max_connections, or lower HANDCAR_WEB_PROCESSES or HANDCAR_WEB_THREADS"
        return Finding("database", FAULT, text, do)
    return Finding("database", OK, text)


def _workers(chosen: Configuration) -> Iterator[Finding]:
    """Say whether something waits that a worker would have taken."""
    from handcar.server.rounds.models import RECEIVED, Update

    if setup.missing_migrations():
        return
    waiting = Update.objects.filter(state=RECEIVED, examined_at=None).order_by("received_at")
    oldest = waiting.values_list("received_at", flat=True).first()
    late = (datetime.now(UTC) - oldest).total_seconds() if oldest else 0.0
    if late > LATE_S:
        text = f"an update has waited for {late:.0f} s, of {waiting.count()} that wait"
        yield Finding("workers", WARNING, text, "start `handcar worker`, or more of them")
    else:
        yield Finding("workers", OK, "nothing waits for them")


# -- other services --------------------------------------------------------------------------


def _broker(chosen: Configuration) -> Iterator[Finding]:
    if chosen.broker is None:
        yield Finding("broker", OK, "none is set: workers look twice a second")
        return
    from handcar.server import celery

    began = time.monotonic()
    with celery.app().connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=celery.CONNECT_S)
        name = str(connection.transport.driver_type)
    yield Finding("broker", OK, f"{name} answers in {(time.monotonic() - began) * 1000:.0f} ms")


def _store(chosen: Configuration) -> Iterator[Finding]:
    from handcar.server import blobs

    # Bytes of its own, so that nobody's are removed.
    data = b"handcar doctor " + os.urandom(16)
    began = time.monotonic()
    # As public bytes are: of private ones this machine keeps a copy, which would be read instead.
    digest = blobs.put(data, public=True)
    try:
        if blobs.read(digest) != data:
            raise HandcarError("it gave other bytes than it was given")
    finally:
        blobs.remove(digest)
    took = f"{(time.monotonic() - began) * 1000:.0f} ms"
    place = chosen.store or str(chosen.home.blobs)
    yield Finding("store", OK, f"{place}: put, read and removed in {took}")
    if (bucket := blobs.bucket()) is not None:
        if bucket.is_open():
            do = "open only public/ to everyone, in the bucket's policy and in a CDN"
            yield Finding("store", FAULT, "anyone can read what lies under private/", do)
        yield _skew("clock", "the store's", _store_skew(chosen))


def _store_skew(chosen: Configuration) -> float:
    """Return by how many seconds our clock is ahead of the store's, which dates its answers."""
    import httpx2

    usual = f"https://s3.{chosen.store_region}.amazonaws.com"
    answer = httpx2.get(chosen.store_endpoint or usual, timeout=10)
    told = answer.headers.get("Date")
    if told is None:
        return 0.0
    return (datetime.now(UTC) - parsedate_to_datetime(told)).total_seconds()


def _skew(what: str, whose: str, ahead_s: float) -> Finding:
    text = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} {whose}"
    do = "set it by NTP: leases and signed links are told by the clock"
    if abs(ahead_s) > REFUSED_SKEW_S:
        return Finding(what, FAULT, text, do)
    if abs(ahead_s) > SKEW_S:
        return Finding(what, WARNING, text, do)
    return Finding(what, OK, text)


CHECKS: dict[str, Check] = {
    "database": _database,
    "workers": _workers,
    "store": _store,
    "broker": _broker,
    "memory": _memory,
    "Keras": _keras,
}
DO = {
    "database": "is it running, and is HANDCAR_DATABASE right?",
    "workers": "mend the database first",
    "store": "are HANDCAR_STORE and what belongs to it right, and may it write and remove?",
    "broker": "is it running, and is HANDCAR_BROKER right? Until then workers look for themselves",
    "memory": "",
    "Keras": "",
}
