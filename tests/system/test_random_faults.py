"""A project past a few random faults of its life: `benchmarks/faults.py`, small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

PROGRAM = Path(__file__).parent.parent.parent / "benchmarks" / "faults.py"
KINDS = (
    "web killed",
    "worker killed",
    "server killed",
    "line cut",
    "disk full",
    "clock ahead",
    "requests said again",
    "requests cut short",
    "update sent twice",
    "update out of order",
    "update cut short",
)


def test_a_project_past_random_faults_loses_nothing_and_counts_nothing_twice():
    chosen = [word for kind in KINDS for word in ("--kind", kind)]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--json", "--faults", "8", "--volunteers", "1"]
        + ["--seed", "11", *chosen],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr[-3000:]
    bars = {bar["name"]: bar["value"] for bar in json.loads(done.stdout)["bars"]}
    told = done.stderr[-3000:]
    assert bars["faults.tried"] == 8, told
    assert bars["faults.acknowledged"] > 8, told
    for wrong in ("lost", "doubled", "other_bits", "stuck"):
        assert bars[f"faults.{wrong}"] == 0, told
    assert done.returncode == 0, told
