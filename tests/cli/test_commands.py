"""The commands as a person and a script meet them: real processes, a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from processes import blobs_dataset, free_port, model_file

from handcar.simulation.stage import Stage
from handcar.wire import frames
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Layout, TensorSpec


def run(*arguments: str, stage: Stage | None = None) -> subprocess.CompletedProcess[str]:
    environment = stage.environment if stage else dict(os.environ)
    return subprocess.run(
        [sys.executable, "-m", "handcar", *arguments],
        capture_output=True,
        text=True,
        env=environment | {"COLUMNS": "160"},
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A server with one model that nobody trains yet."""
    folder = tmp_path_factory.mktemp("commands")
    with Stage(folder) as stage:
        stage.serve()
        blobs_dataset(folder)
        stage.call("publish", str(model_file(folder)), "--server", stage.url)
        yield stage


COMMANDS = ["join", "list", "publish", "status", "export", "message", "pause", "resume"]
COMMANDS += ["finish", "inspect", "serve", "worker", "demo", "plan"]
HEAVY = (
    "[name for name in ('keras', 'django', 'tensorflow', 'jax', 'torch') if name in sys.modules]"
)


@pytest.mark.parametrize("command", [[], ["join"], ["publish"], ["serve"]])
def test_help_loads_neither_keras_nor_django(command: list[str]):
    program = (
        "import sys, contextlib\nfrom handcar.cli import main\n"
        f"sys.argv = ['handcar', *{command!r}, '--help']\n"
        "with contextlib.suppress(SystemExit): main()\n"
        f"print('loaded:', {HEAVY})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "loaded: []" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str):
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"handcar {command}" in done.stdout.partition("Example:")[2]


def test_the_version_is_printed():
    assert run("--version").stdout.startswith("handcar 0.")


def test_an_unknown_command_is_refused_with_exit_code_2():
    assert run("jion").returncode == 2


def test_a_server_that_does_not_answer_is_exit_code_3_and_one_sentence():
    done = run("list", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 3
    assert "could not reach" in done.stderr
    assert "Traceback" not in done.stderr


def test_list_shows_models_to_people_and_programs(stage: Stage):
    assert "blobs" in run("list", stage.url, stage=stage).stdout
    (row,) = json.loads(run("list", stage.url, "--json", stage=stage).stdout)
    assert row["id"] == "blobs"
    assert row["dataset"]["name"] == "clouds"
    assert row["version"] == 0


def test_status_tells_how_a_model_stands(stage: Stage):
    text = run("status", "blobs", "--server", stage.url, stage=stage).stdout
    assert "blobs: pending, version 0" in text
    status = json.loads(run("status", "blobs", "--server", stage.url, "--json", stage=stage).stdout)
    assert status["history"][0]["number"] == 0


def test_a_model_that_is_not_there_is_exit_code_4(stage: Stage):
    done = run("status", "nothing", "--server", stage.url, stage=stage)
    assert done.returncode == 4
    assert "nothing" in done.stderr


def test_pausing_needs_the_owner_s_token(stage: Stage):
    done = run("pause", "blobs", "--server", stage.url, "--token", "wrong", stage=stage)
    assert done.returncode == 4
    assert "token" in done.stderr
    assert run("pause", "blobs", "--server", stage.url, stage=stage).returncode == 0
    assert stage.status("blobs").state == "paused"
    assert run("resume", "blobs", "--server", stage.url, stage=stage).returncode == 0
    assert stage.status("blobs").state == "pending"


def test_a_message_that_is_too_long_is_bad_input(stage: Stage):
    done = run("message", "x" * 2001, "--server", stage.url, stage=stage)
    assert done.returncode == 2
    assert "2000" in done.stderr


def test_an_export_is_a_keras_file_with_the_published_weights(stage: Stage):
    path = stage.folder / "out.keras"
    done = run("export", "blobs", "-o", str(path), "--server", stage.url, "--json", stage=stage)
    assert json.loads(done.stdout)["version"] == 0
    model = keras.models.load_model(path)
    assert model.predict(np.zeros((1, 20)), verbose=0).shape == (1, 10)


def test_an_export_to_another_kind_of_file_is_refused(stage: Stage):
    done = run("export", "blobs", "-o", "out.h5", "--server", stage.url, stage=stage)
    assert done.returncode == 2
    assert ".keras" in done.stderr


def test_two_volunteers_in_one_folder_are_told_so(stage: Stage):
    import fcntl

    home = stage.folder / "taken"
    home.mkdir()
    with (home / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("join", stage.url, "--home", str(home), stage=stage)
    assert done.returncode == 2
    assert "--home" in done.stderr


def test_a_backend_that_is_not_there_is_named(stage: Stage):
    stage.environment["KERAS_BACKEND"] = "abacus"
    try:
        done = run("join", stage.url, "--home", str(Path(stage.folder) / "none"), stage=stage)
    finally:
        del stage.environment["KERAS_BACKEND"]
    assert done.returncode == 2
    assert "abacus" in done.stderr


def frame_file(folder: Path) -> Path:
    layout = Layout((TensorSpec("kernel", (30, 20)), TensorSpec("mean", (20,), "statistic")))
    change = np.random.default_rng(0).laplace(size=layout.size).astype(np.float32)
    path = folder / "update.bin"
    facts = FrameFacts("update", "blobs", 7)
    path.write_bytes(frames.encode_difference(facts, change, layout, k=2.0))
    return path


def test_inspect_explains_a_frame(tmp_path: Path):
    path = frame_file(tmp_path)
    text = run("inspect", str(path)).stdout
    assert "update: what a round that started from version 7 changed of blobs" in text
    assert "620 weights" in text
    told = json.loads(run("inspect", str(path), "--json").stdout)
    assert told["bytes"] == path.stat().st_size
    assert told["bits_a_weight"] == 8 * told["bytes"] / 620
    assert sum(told["sections"].values()) < told["bytes"]
    assert len(told["scales"]) == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "missing"])
def test_inspect_says_what_is_no_frame(tmp_path: Path, damage: str):
    path = frame_file(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    damaged = {"cut": data[:-3], "flipped": data, "other": b"PK", "missing": b""}[damage]
    path.write_bytes(damaged)
    if damage == "missing":
        path.unlink()
    done = run("inspect", str(path))
    assert done.returncode == 2
    assert "update.bin" in done.stderr
    assert "Traceback" not in done.stderr
