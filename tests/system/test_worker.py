"""Real worker processes: a poisoned update stands behind the others, and workers share the work."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from worker_stage import POISONED_STEPS, UPDATES

from handcar.server import lifeline

pytestmark = pytest.mark.system
STAGE = Path(__file__).with_name("worker_stage.py")
WITHIN_S = 60.0


@pytest.fixture
def home(tmp_path):
    run("prepare", tmp_path).wait(WITHIN_S)
    assert len(states(tmp_path)) == UPDATES
    return tmp_path


def run(what: str, home: Path, *, supervised: bool = False) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join(path for path in sys.path if path)
    given = (lifeline.environment() if supervised else dict(os.environ)) | {"PYTHONPATH": paths}
    return subprocess.Popen([sys.executable, str(STAGE), what, str(home)], env=given)


def states(home: Path) -> list[tuple[str, int, str]]:
    """Return state, steps and reason of each update."""
    (path,) = home.glob("*.sqlite3")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT state, steps, reason FROM rounds_update")
        return list(rows)


def until_done(worker: subprocess.Popen[bytes], home: Path) -> bool:
    """Wait until the worker died, or all is done: then say so and end it."""
    for _ in range(int(WITHIN_S / 0.1)):
        if worker.poll() is not None:
            return False
        if all(state in ("merged", "refused") for state, _, _ in states(home)):
            worker.terminate()
            worker.wait(WITHIN_S)
            return True
        time.sleep(0.1)
    worker.kill()
    raise AssertionError(f"not done within {WITHIN_S:g} s: {states(home)}")


@pytest.mark.parametrize("what", ["killed", "hangs"])
def test_an_update_that_ends_the_worker_waits_behind_the_others_and_is_refused(home, what):
    deaths = 0
    while not until_done(run(what, home, supervised=True), home):
        deaths += 1
        assert deaths <= 3
        if deaths == 2:  # the others went first
            others = {state for state, steps, _ in states(home) if steps != POISONED_STEPS}
            assert "received" not in others
    assert deaths == 3
    ends = {steps: (state, reason) for state, steps, reason in states(home)}
    assert ends[POISONED_STEPS] == ("refused", "could not be read")
    assert ends[100] == ("merged", None)


def test_workers_share_the_updates_and_look_at_each_once(home):
    workers = [run("slow", home) for _ in range(2)]
    try:
        assert until_done(workers[0], home)
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait(WITHIN_S)
    looks = [line.split() for line in (home / "decoded.log").read_text().splitlines()]
    checked = Counter(update for _, _, update in looks)
    assert len(checked) == UPDATES
    assert len({process for process, _, _ in looks}) == 2
