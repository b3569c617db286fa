"""Processes for tests of the worker: `python worker_stage.py WHAT HOME`.

`prepare` makes a server's folder with a small model and received updates, the first of them a
poisoned one; `killed`, `hangs` and `slow` are a real worker whose decoding is spoilt in that way.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

UPDATES = 6
POISONED_STEPS = 101


def prepare() -> None:
    """Make the model and its updates."""
    from django.conf import settings

    from server_api import Api, update_frame

    settings.ALLOWED_HOSTS = ["testserver"]
    server = Api.fresh(settings.HANDCAR_HOME)
    model = server.model()
    for seed in range(UPDATES):
        steps = 100 if seed else POISONED_STEPS
        frame = update_frame(model, seed=seed)
        server.deliver(server.join(f"v{seed}"), frame, steps=steps)


def spoil(what: str, log: Path) -> None:
    """Let decoding do what it must not."""
    from handcar.server.rounds import checks, decoding

    decode = decoding.decode

    def spoilt(update: Any) -> Any:
        with log.open("a") as file:
            file.write(f"{os.getpid()} {update.steps} {update.pk}\n")
        if what == "slow":
            time.sleep(0.5)
        elif update.steps == POISONED_STEPS:
            if what == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(3600)
        return decode(update)

    decoding.decode = spoilt
    checks.LONGEST_LOOK_S = 1.0


def main() -> None:
    """Do what the command line says."""
    from handcar.server import setup

    what, home = sys.argv[1], Path(sys.argv[2])
    setup.first_start(setup.prepare(home)) if what == "prepare" else setup.prepare(home)
    if what == "prepare":
        prepare()
        return
    from handcar.server import worker

    spoil(what, home / "decoded.log")
    worker.run()


if __name__ == "__main__":
    main()
