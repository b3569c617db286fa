"""`handcar simulate`, in a process of its own as people run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("tensorflow")
MODEL = {
    "name": "blobs",
    "dataset": {"name": "blobs", "file": "blobs.npz"},
    "input": {"shape": [6]},
    "layers": [{"layer": "Dense", "units": 3}],
    "loss": {"name": "SparseCategoricalCrossentropy", "from_logits": True},
    "optimizer": {"name": "Adam", "learning_rate": 0.05},
    "batch_size": 8,
}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 400)
    x = (rng.normal(size=(400, 6)) + 2 * np.eye(3, 6)[y]).astype(np.float32)
    np.savez(tmp_path / "blobs.npz", x=x, y=y)
    (tmp_path / "blobs.json").write_text(json.dumps(MODEL))
    scenario = {"model": "blobs.json", "steps": 60, "points": 3}
    scenario["volunteers"] = {"count": 3, "steps_per_second": 0.1}
    (tmp_path / "crowd.json").write_text(json.dumps(scenario))
    return tmp_path


def simulate(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "handcar", "simulate", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"KERAS_BACKEND": "tensorflow"},
        check=False,
    )


def test_a_scenario_becomes_json_and_a_picture(folder):
    done = simulate(folder, "crowd.json", "--json", "--picture", "curve.svg")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] >= 60
    assert result["bytes_up"] > 0
    assert 1 <= len(result["curve"]) <= 4
    assert "<svg" in (folder / "curve.svg").read_text()


def test_data_that_is_not_there_is_named(folder):
    (folder / "blobs.npz").unlink()
    done = simulate(folder, "crowd.json")
    assert done.returncode == 2
    assert "blobs.npz" in done.stderr


def test_a_scenario_that_names_no_model_is_told_so(folder):
    (folder / "crowd.json").write_text("{}")
    done = simulate(folder, "crowd.json")
    assert done.returncode == 2
    assert "names no model file" in done.stderr
