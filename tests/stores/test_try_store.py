"""`tools/try_store.py`, as an owner runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from weed import PRIVATE, PUBLIC, Weed

pytestmark = pytest.mark.xdist_group("weed")
SCRIPT = Path(__file__).parents[2] / "tools" / "try_store.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )


def test_a_store_that_volunteers_can_fetch_from_is_told_step_by_step(as_owner: Weed):
    ran = run(f"s3://{PUBLIC}/trial", "--s3-endpoint", as_owner.endpoint, "--bytes", "20000")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for told in ("put a file", "is there", "right bytes by", "goes on after a break", "remove it"):
        assert told in ran.stdout
    assert as_owner.names(PUBLIC, "trial/") == []


def test_a_store_that_they_can_t_fetch_from_fails_with_the_reason(as_owner: Weed):
    ran = run(f"s3://{PRIVATE}/trial", "--s3-endpoint", as_owner.endpoint, "--bytes", "20000")
    assert ran.returncode == 1
    assert "HTTP 403" in ran.stdout
    assert as_owner.names(PRIVATE, "trial/") == []


def test_what_is_no_store_is_told():
    ran = run("nonsense")
    assert ran.returncode == 1
    assert "expected --store server" in ran.stderr
