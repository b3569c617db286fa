"""Where the server's child processes begin: `python -m handcar.server.processes NAME HOME ...`.

Each ends by itself when the process that started it is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable

from handcar.errors import HandcarError
from handcar.server import configuration, lean, lifeline
from handcar.server import home as homes
from handcar.server.home import Home

STOP_WITHIN_S = 3
CONNECTIONS = 16_384
"""At once, of a web process: a volunteer's stays open for half a minute after each heartbeat."""
BACKLOG = 4_096


def web(host: str, port: str) -> None:
    """Serve the API and the pages. Django is loaded by the processes that this one starts."""
    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    chosen = configuration.read(os.environ)
    allow_connections()
    Granian(
        "handcar.server.wsgi:watched",
        factory=True,
        interface=Interfaces.RSGI,
        address=host,
        port=int(port),
        workers=chosen.web_processes,
        backlog=BACKLOG,
        backpressure=CONNECTIONS,
        respawn_failed_workers=True,
        workers_kill_timeout=STOP_WITHIN_S,
        websockets=False,
        # It warns of each file that is gone before it could be sent, which its client is told.
        log_level=LogLevels.error,
    ).serve()


def allow_connections() -> None:
    """Let this process and its children have as many connections as the system lets them."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def tables() -> None:
    """Make ready what the others need; print the owner's token, or why it can't be done."""
    from handcar.server import setup

    try:
        print(json.dumps({"token": setup.first_start(_prepare())}))
    except HandcarError as error:
        print(json.dumps({"error": str(error)}))


def worker() -> None:
    """Check and merge updates."""
    lean.leave_out(configuration.read(os.environ))
    _prepare()
    from handcar.server.worker import run

    run()


def evaluator() -> None:
    """Build and evaluate models."""
    # Ctrl-C in a terminal reaches every process; the worker ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prepare()
    from handcar.server.rounds.evaluate import run

    run()


def _prepare() -> Home:
    from handcar.server import setup

    return setup.prepare(homes.from_environment().folder)


def main() -> None:
    """Run the process that the command line names."""
    name, home, *rest = sys.argv[1:]
    lifeline.watch()
    os.environ[homes.VARIABLE] = home
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "handcar.server.settings")
    programs: dict[str, Callable[..., None]] = {
        "tables": tables,
        "web": web,
        "worker": worker,
        "evaluator": evaluator,
    }
    programs[name](*rest)


if __name__ == "__main__":
    main()
