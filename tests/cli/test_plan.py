"""`handcar plan` as its owner meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MODEL = Path(__file__).parents[2] / "examples" / "mnist-cnn.json"


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "handcar", "plan", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_measures_this_machine_and_reckons_with_it():
    done = plan(str(MODEL), "--records", "60000", "--data-size", "11", "--volunteers", "20")
    assert done.returncode == 0, done.stderr
    assert "steps a second; volunteers are taken to be like it" in done.stdout
    assert "12,810 weights, 7,500 steps" in done.stdout
    assert "20 <" in done.stdout
    assert not done.stderr


def test_json_holds_what_the_table_shows():
    done = plan(str(MODEL), "--steps", "100000", "--speed", "10", "--json")
    told = json.loads(done.stdout)
    expected = told["expected"]
    assert expected["volunteers"] == 8
    assert told["steps"] == 100000
    assert expected["hours"] * expected["speedup"] * 36000 == 100000
    assert expected in told["crowds"]


def test_it_asks_how_long_the_training_is():
    done = plan(str(MODEL), "--speed", "10")
    assert done.returncode == 2
    assert "Give --records, or --steps" in done.stderr


def test_a_file_that_is_no_model_is_refused(tmp_path: Path):
    wrong = tmp_path / "model.json"
    wrong.write_text("{}")
    done = plan(str(wrong), "--steps", "10", "--speed", "1")
    assert done.returncode == 2
    assert "name" in done.stderr
