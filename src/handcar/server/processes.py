"""Where the server's child processes begin: `python -m handcar.server.processes NAME HOME ...`.

Each ends by itself when the process that started it is gone.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

from handcar.server import lifeline

BLOCKING_THREADS = 64
"""Requests at once: slow uplinks hold a thread each, and wait nearly all of the time."""
STOP_WITHIN_S = 3


def web(host: str, port: str) -> None:
    """Serve the API and the pages."""
    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    Granian(
        "handcar.server.wsgi:watched",
        factory=True,
        interface=Interfaces.WSGI,
        address=host,
        port=int(port),
        workers=1,
        blocking_threads=BLOCKING_THREADS,
        respawn_failed_workers=True,
        workers_kill_timeout=STOP_WITHIN_S,
        websockets=False,
        # Its warning is about the many threads, which are meant.
        log_level=LogLevels.error,
    ).serve()


def worker() -> None:
    """Check and merge updates."""
    from handcar.server.worker import run

    run()


def evaluator() -> None:
    """Build and evaluate models."""
    # Ctrl-C in a terminal reaches every process; the worker ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from handcar.server.rounds.evaluate import run

    run()


def main() -> None:
    """Run the process that the command line names."""
    from handcar.server.setup import prepare

    name, home, *rest = sys.argv[1:]
    lifeline.watch()
    prepare(Path(home))
    programs: dict[str, Callable[..., None]] = {
        "web": web,
        "worker": worker,
        "evaluator": evaluator,
    }
    programs[name](*rest)


if __name__ == "__main__":
    main()
