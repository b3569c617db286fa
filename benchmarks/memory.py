"""Peak memory of a volunteer as the data set grows tenfold.

A volunteer trains until all chunks are on its disk and each record has been gone through
once; its peak resident memory is read from the system at the end. A volunteer that held the
data set would grow by the size of the data, which is shown beside.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
from pathlib import Path

from common import Bar, arguments, model_file, pictures, publish, report
from handcar.simulation.stage import Stage

PICTURE_BYTES = 784
BATCH = 256


def peak_bytes(records: int) -> int:
    """Return the peak resident memory of a volunteer on so many pictures."""
    x, y, _ = pictures(records)
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage:
        publish(stage, model_file(batch_size=BATCH, max_steps=500), x, y)
        del x, y
        process = stage.join("ada")

        def through() -> bool:
            shown = [line for line in stage.lines("ada") if "progress" in line]
            if not shown:
                return False
            now = shown[-1]
            whole = 0 < now["chunks"] == now["chunks_in_all"]
            return whole and now["progress"]["records"] >= records

        stage.until(through, "each record was gone through", wait_s=500, process=process)
        status = Path(f"/proc/{process.pid}/status").read_text()
        os.killpg(process.pid, signal.SIGKILL)
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    small = 25_000 if wanted.quick else 60_000
    times = 1 if wanted.quick else 3
    peaks = {n: statistics.median(peak_bytes(n) for _ in range(times)) for n in (small, 10 * small)}
    report(
        wanted,
        "Peak resident memory of a volunteer",
        ("records", "data, MB", "peak, MB"),
        [(n, n * PICTURE_BYTES / 1e6, peak / 1e6) for n, peak in peaks.items()],
        [Bar("memory.growth", peaks[10 * small] / peaks[small], "x")],
    )


if __name__ == "__main__":
    main()
