"""How long a thread waits to write to SQLite, when many threads and another process do.

Each thread makes small transactions one after the other, as requests of a web process do, for so
many seconds; beside them another process writes, as the worker does. First on Django's own
backend, then on Handcar's, whose threads take turns.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from common import Bar, arguments, report

ENGINES = {"Django's": "django.db.backends.sqlite3", "Handcar's": "handcar.server.sqlite"}
THREADS = 64
SECONDS, QUICK_SECONDS = 15.0, 5.0
PAUSE_S = 0.005
ROWS = 5


def write(engine: str, path: str, threads: int, seconds: float) -> dict[str, Any]:
    """Write in this process; return what waiting for the lock took, in milliseconds."""
    import django
    from django.conf import settings
    from django.db import connection, transaction

    options = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
    }
    database = {"ENGINE": engine, "NAME": path, "OPTIONS": options}
    settings.configure(DATABASES={"default": database})
    django.setup()
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS written (number integer PRIMARY KEY, text text)")
    ends, waits = time.monotonic() + seconds, []

    def go() -> None:
        while time.monotonic() < ends:
            began = time.monotonic()
            with transaction.atomic(), connection.cursor() as cursor:
                waits.append(time.monotonic() - began)
                for _ in range(ROWS):
                    cursor.execute("INSERT INTO written (text) VALUES (%s)", ["x" * 200])
            time.sleep(PAUSE_S)
        connection.close()

    started = [threading.Thread(target=go) for _ in range(threads)]
    for one in started:
        one.start()
    for one in started:
        one.join()
    p50, p99, most = (float(1e3 * one) for one in np.percentile(waits, (50, 99, 100)))
    return {"count": len(waits), "p50": p50, "p99": p99, "most": most}


def measure(engine: str, seconds: float) -> dict[str, dict[str, Any]]:
    """Let two processes write to one database; return what each found."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "database.sqlite3")
        write_in = [sys.executable, __file__, "--write", engine, path]
        started = {
            name: subprocess.Popen([*write_in, str(threads), str(seconds)], stdout=subprocess.PIPE)
            for name, threads in (("worker", 1), ("web", THREADS))
        }
        return {name: json.loads(one.communicate()[0]) for name, one in started.items()}


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    seconds = QUICK_SECONDS if wanted.quick else SECONDS
    found = {name: measure(engine, seconds) for name, engine in ENGINES.items()}
    rows = [
        (name, process, one["count"], one["p50"], one["p99"], one["most"])
        for name, both in found.items()
        for process, one in both.items()
    ]
    ratio = found["Django's"]["web"]["p99"] / found["Handcar's"]["web"]["p99"]
    report(
        wanted,
        f"{THREADS} threads of one process and one of another write for {seconds:g} s; ms waited",
        ("backend", "process", "transactions", "p50", "p99", "most"),
        rows,
        [Bar("sqlite.wait_ratio", ratio, "times shorter, p99 of the threads")],
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        _, _, *given = sys.argv
        print(json.dumps(write(given[0], given[1], int(given[2]), float(given[3]))))
    else:
        main()
