"""Memory of a server that nobody asks anything: `handcar serve` as it comes.

Its processes are the one that was started, the web server's two, and the worker; what they
share is counted once (proportional set size, as the system tells it).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from common import Bar, arguments, report
from handcar.simulation.stage import Stage

SETTLED_S = 30.0
QUICK_S = 5.0


def memory(process: psutil.Process) -> Iterator[tuple[str, float, int]]:
    """Yield what each process of a server is, its memory in MB, and its threads."""
    for one in [process, *process.children(recursive=True)]:
        words = one.cmdline()
        name = words[words.index("handcar.server.processes") + 1] if _is_ours(words) else "serve"
        yield name, one.memory_full_info().pss / 1e6, one.num_threads()


def _is_ours(words: list[str]) -> bool:
    return "handcar.server.processes" in words


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage:
        server = stage.serve()
        stage.call("list", stage.url)
        time.sleep(QUICK_S if wanted.quick else SETTLED_S)
        rows = list(memory(psutil.Process(server.pid)))
    report(
        wanted,
        "Memory of an idle server",
        ("process", "memory, MB", "threads"),
        rows,
        [Bar("server.idle_mb", sum(size for _, size, _ in rows), "MB")],
    )


if __name__ == "__main__":
    main()
