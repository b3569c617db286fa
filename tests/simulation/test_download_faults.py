"""Whatever a server does, a download ends in the right bytes or in a report."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from handcar.simulation.faults import KINDS, Mirrors, download, draw

COUNT = 2 * len(KINDS)


def test_every_fault_ends_in_verified_bytes_or_in_a_report(tmp_path: Path):
    with Mirrors(3) as mirrors, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda fault: download(fault, mirrors, tmp_path), draw(COUNT, 7)))
    assert [one for one in found if one.ended == "wrong"] == []
    assert {one.fault.kind for one in found} == set(KINDS)
    assert all(one.text for one in found if one.ended == "reported")
    avoidable = [one for one in found if one.ended == "reported" and one.fault.can_be_survived]
    assert avoidable == []
