"""Downloads past 200 random faults: each ends in verified bytes or in a clear report.

Real HTTP servers on this machine truncate, lie, stall, drip, refuse, redirect in circles, show
pages, send without end and let links expire, at random places of real downloads by the
volunteer's own code (`handcar.simulation.faults`). Wrong bytes must never come out as a file.
`avoidable` counts reports where another mirror, or another try, would have given the bytes.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import Bar, arguments, report
from handcar.simulation.faults import KINDS, Mirrors, Outcome, download, draw

FAULTS = 200
AT_ONCE = 8


def outcomes(count: int) -> list[Outcome]:
    """Return how so many downloads ended."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Mirrors(3) as mirrors,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        return list(pool.map(lambda fault: download(fault, mirrors, Path(folder)), draw(count)))


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    began = time.monotonic()
    found = outcomes(FAULTS)
    seconds = time.monotonic() - began
    ended = Counter((one.fault.kind, one.ended) for one in found)
    rows = [
        (kind, *(ended[kind, how] for how in ("verified", "reported", "wrong"))) for kind in KINDS
    ]
    counts = Counter(one.ended for one in found)
    avoidable = sum(one.ended == "reported" and one.fault.can_be_survived for one in found)
    report(
        wanted,
        f"{len(found)} downloads past a fault each, in {seconds:.0f} s",
        ("fault", "verified", "reported", "wrong"),
        rows,
        [
            Bar("faults.tried", len(found), "faults"),
            Bar("faults.verified", counts["verified"], "faults"),
            Bar("faults.reported", counts["reported"], "faults"),
            Bar("faults.avoidable", avoidable, "faults"),
            Bar("faults.wrong", counts["wrong"], "faults"),
        ],
    )


if __name__ == "__main__":
    main()
