"""Seconds to a volunteer's first training step, against downloading all the data first.

`handcar join` runs behind a throttled line. Two moments are read: its first step, and the
moment when all chunks are on its disk, which is when a program that downloads everything
first could make its own first step. Both count from the start of the program, Keras's own
loading included.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from common import Bar, arguments, model_file, pictures, publish, report
from handcar.simulation.network import ThrottledLink
from handcar.simulation.stage import Stage


def moments(stage: Stage, megabits: float, name: str) -> tuple[float, float]:
    """Return the seconds to the first step and to the last chunk, over a line of that speed."""
    parts = urlsplit(stage.url)
    link = ThrottledLink(
        (parts.hostname or "", parts.port or 0),
        up_bits_per_s=1e6,
        down_bits_per_s=megabits * 1e6,
        latency_s=0.02,
    )
    with link:
        began = time.monotonic()
        process = stage.join(name, link.url)

        def first() -> float | None:
            steps = [
                line["progress"]["counted_at"]
                for line in stage.lines(name)
                if line.get("progress", {}).get("steps")
            ]
            return steps[0] - began if steps else None

        def last() -> float | None:
            shown = [line for line in stage.lines(name) if line.get("chunks_in_all")]
            whole = shown and shown[-1]["chunks"] == shown[-1]["chunks_in_all"]
            return time.monotonic() - began if whole else None

        first_s = stage.until(first, "the first step", wait_s=600, process=process)
        last_s = stage.until(last, "the last chunk", wait_s=600, process=process)
        process.terminate()
        process.wait()
    return first_s, last_s


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    settings = [(20_000, 4.0)] if wanted.quick else [(60_000, 8.0), (60_000, 2.0), (240_000, 8.0)]
    rows = []
    for records, megabits in settings:
        x, y, source = pictures(records)
        with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage:
            publish(stage, model_file(), x, y)
            first_s, last_s = moments(stage, megabits, "ada")
            status = stage.status("bench")
            size = status.dataset_bytes / 1e6 if status else 0.0
        rows.append((source, size, megabits, first_s, last_s, first_s / last_s))
    report(
        wanted,
        "The first training step, against all data first",
        ("data", "MB", "Mbit/s", "first step, s", "all data, s", "share"),
        rows,
        [Bar("first_step.share", rows[-1][-1], "of the time to all data")],
    )


if __name__ == "__main__":
    main()
