"""The page on bringing one's own data, typed in, on small data made up for it; and examples."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import wave
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat
from tokenizers import Tokenizer, models, pre_tokenizers

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/how-to/own-data.md").read_text()
RNG = np.random.default_rng(0)


def commands() -> list[str]:
    found = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    lines = [line for block in found for line in block.splitlines()]
    return [line for line in lines if line.startswith("handcar") and line.endswith("--check")]


def model(shape: list[int], units: int, *, tokens: int | None = None) -> dict:
    last = {"layer": "Dense", "units": units, "activation": "softmax"}
    if tokens is None:
        kind, first = {}, {"layer": "Flatten"}
    else:
        kind = {"dtype": "int32"}
        first = {"layer": "Embedding", "input_dim": tokens, "output_dim": 2}
    return {
        "dataset": {"name": "made-up"},
        "input": {"shape": shape, **kind},
        "layers": [first, last],
        "loss": "sparse_categorical_crossentropy",
    }


MODELS = {
    "flowers": model([24, 32, 3], 2),
    "small": model([48, 64, 3], 2),
    "census": model([4], 2),
    "shakespeare": model([64], 14, tokens=14),
    "novel": model([64], 3, tokens=3),
    "spoken": model([4000], 10),
    "model": model([3], 2),
    "digits": model([32, 32, 3], 10),
    "odd": model([2], 2),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with all that the page's commands name."""
    folder = tmp_path_factory.mktemp("own-data")
    for name, facts in MODELS.items():
        (folder / f"{name}.json").write_text(json.dumps({"name": name, **facts}))
    for make in (make_pictures, make_tables, make_text, make_sounds, make_arrays, make_mat):
        make(folder)
    return folder


def make_pictures(folder: Path) -> None:
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for number in range(20):
            path = folder / "pictures" / ("rose", "tulip")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path)
            archive.write(path, path.relative_to(folder))


def make_tables(folder: Path) -> None:
    ages, works = [20 + at for at in range(40)], ["state", "own"] * 20
    incomes = ["low", "high"] * 20
    ages[7] = None
    pq.write_table(
        pa.table({"income": incomes, "age": ages, "work": works}), folder / "census.parquet"
    )
    rows = zip(ages, works, incomes, strict=True)
    lines = [f"{age or '?'}, {work}, {income}" for age, work, income in rows]
    for name in ("census.csv", "census-test.csv"):
        (folder / name).write_text("\n".join(lines))


def make_text(folder: Path) -> None:
    (folder / "shakespeare.txt").write_text("to be or not to be, asked he\n" * 400)
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "to": 1, "be": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def make_sounds(folder: Path) -> None:
    (folder / "recordings").mkdir()
    for number in range(20):
        name = f"{number % 10}_jackson_{number}.wav"
        with wave.open(str(folder / "recordings" / name), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(RNG.bytes(2 * (3000 + 100 * number)))


def make_arrays(folder: Path) -> None:
    (folder / "arrays").mkdir()
    arrays = {"x": RNG.normal(size=(40, 3)), "y": np.arange(40) % 2}
    np.savez(folder / "data.npz", **arrays)
    for name, array in arrays.items():
        np.save(folder / "arrays" / f"{name}.npy", array)


def make_mat(folder: Path) -> None:
    (folder / "matlab").mkdir()
    x = RNG.integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
    for name in ("train_32x32.mat", "test_32x32.mat"):
        for place in (folder, folder / "matlab"):
            savemat(place / name, {"X": x, "y": (np.arange(20) % 10 + 1)[:, None]})


def typed(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", *shlex.split(line)]
    environment = os.environ | {"HANDCAR_HOME": str(folder / "home")}
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_every_kind_of_data_has_a_command():
    assert len(commands()) >= 16


@pytest.mark.parametrize("line", [line for line in commands() if " mine " not in line])
def test_the_commands_of_the_page_work_when_typed_in(folder, line):
    done = typed(line, folder)
    assert done.returncode == 0, done.stderr
    assert "ok: the model" in done.stdout


def test_the_program_of_the_page_writes_what_publish_takes(folder):
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)
    (line,) = [line for line in commands() if " mine " in line]
    done = typed(line, folder)
    assert done.returncode == 0, done.stderr
    assert "1,000 records" in done.stdout
    assert "even (500), odd (500)" in done.stdout or "odd (500), even (500)" in done.stdout


# -- examples


def real(name: str) -> Path:
    path = Path(os.environ.get("HANDCAR_DATA", "/none")) / name
    if not path.exists():
        pytest.skip(f"needs {name} in the folder that HANDCAR_DATA names")
    return path


@pytest.mark.parametrize(
    ("example", "data"),
    [
        ("census", ["adult/adult-train.csv", "adult/adult-test.csv"]),
        ("shakespeare", ["tinyshakespeare/input.txt"]),
    ],
)
def test_an_example_fits_the_data_that_it_names(tmp_path, example, data):
    for name in data:
        path = real(name)
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "model.json").write_text((ROOT / f"examples/{example}.json").read_text())
    done = typed("handcar publish model.json --check", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"ok: the model {example}" in done.stdout


def test_the_reading_example_fits_text_made_up_for_it(tmp_path):
    letters = "".join(chr(ord("!") + at) for at in range(65))
    (tmp_path / "input.txt").write_text(letters * 100)
    (tmp_path / "model.json").write_text((ROOT / "examples/shakespeare.json").read_text())
    done = typed("handcar publish model.json --check", tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_census_example_fits_a_table_made_up_for_it(tmp_path):
    lines = []
    for number in range(64):
        # 6 numbers, and as many places for 8 categories as the real table takes.
        row = [number] * 6 + [f"c{number % count}" for count in (8, 16, 7, 14, 6, 5, 2, 41)]
        row[7 if number % 3 else 6] = "?" if number % 5 == 0 else row[7 if number % 3 else 6]
        lines.append(", ".join(map(str, [*row, (">50K", "<=50K")[number % 2]])))
    for name in ("adult-train.csv", "adult-test.csv"):
        (tmp_path / name).write_text("\n".join(lines))
    facts = json.loads((ROOT / "examples/census.json").read_text())
    facts["input"]["shape"] = [6 + 8 + 16 + 7 + 14 + 6 + 5 + 2 + 41 + 2]
    (tmp_path / "model.json").write_text(json.dumps(facts))
    done = typed("handcar publish model.json --check", tmp_path)
    assert done.returncode == 0, done.stderr
