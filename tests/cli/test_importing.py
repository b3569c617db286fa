"""`handcar publish` with data of many kinds, as far as it goes without a server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handcar import cli
from handcar.cli import importing
from handcar.data import importers
from handcar.data.reading import Options
from handcar.protocol.limits import TEXT_LENGTH

CLASSIFY = {"loss": "sparse_categorical_crossentropy", "batch_size": 8}


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Run `handcar publish MODEL ... --check`; return its exit code and what it says."""
    monkeypatch.setenv("HANDCAR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cli.app, "registered_commands", [])

    def check(model: dict, *arguments: object, **dataset: object) -> tuple[int, str]:
        path = tmp_path / "model.json"
        path.write_text(json.dumps({"name": "m", "dataset": {"name": "d", **dataset}, **model}))
        given = ["handcar", "publish", str(path), *map(str, arguments), "--check"]
        monkeypatch.setattr("sys.argv", given)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert list((tmp_path / "home").glob("*")) == [], "it tidies up"
        return int(ended.value.code or 0), out + err

    return check


def dense(shape: list[int], units: int) -> dict:
    layers = [{"layer": "Flatten"}, {"layer": "Dense", "units": units, "activation": "softmax"}]
    return {**CLASSIFY, "input": {"shape": shape}, "layers": layers}


def reader(window: int, tokens: int, units: int) -> dict:
    layers = [
        {"layer": "Embedding", "input_dim": tokens, "output_dim": 4},
        {"layer": "Dense", "units": units, "activation": "softmax"},
    ]
    return {**CLASSIFY, "input": {"shape": [window], "dtype": "int32"}, "layers": layers}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("ant", "bee", "cat"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / label / f"{number}.png")
    return tmp_path / "pictures"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("abcdefg hij\n" * 500)
    return tmp_path / "text.txt"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    lines = [f"{at},{('red', 'blue')[at % 2]},{('no', 'yes')[at // 20]}" for at in range(40)]
    (tmp_path / "table.csv").write_text("\n".join(["age,colour,class", *lines]))
    return tmp_path / "table.csv"


def test_what_was_found_is_told(check, pictures, text, table):
    for model, data, facts in (
        (dense([6, 8, 3], 3), pictures, ["ant (10), bee (10), cat (10)", "6 x 8 x 3"]),
        (reader(64, 12, 12), text, ["its 12 different characters", "last 10%"]),
        (dense([3], 2), table, ["The label is class", "no (20), yes (20)"]),
    ):
        code, said = check(model, data)
        assert code == 0, said
        assert "ok: the model m" in said
        for fact in facts:
            assert fact in said


def test_the_command_line_says_how_to_read(check, pictures, text, table):
    assert check(dense([5, 4, 3], 3), pictures, "--size", "4x5")[0] == 0
    assert check(dense([4, 4, 3], 3), pictures, "--size", "4")[0] == 0
    assert check(reader(32, 12, 12), text, "--window", "32")[0] == 0
    assert check(dense([3], 2), table, "--label", "colour")[0] == 0
    assert check(dense([3], 2), table, "--test", table)[0] == 0


def test_the_model_file_may_say_so_too_and_the_command_line_comes_first(check, text, table):
    assert check(reader(32, 12, 12), file="text.txt", window=32)[0] == 0
    assert check(reader(16, 12, 12), "--window", "16", text, window=32)[0] == 0
    code, said = check(dense([3], 2), file="table.csv", label="colour", test="table.csv")
    assert code == 0, said
    assert "The label is colour" in said
    assert "40 records to train and 40 to test" in said


@pytest.mark.parametrize("size", ["0", "4x", "x4", "4x4x4", "-4", "wide"])
def test_a_size_that_is_none_says_what_one_is(check, pictures, size):
    code, said = check(dense([4, 4, 3], 3), pictures, f"--size={size}")
    assert code == 2
    assert "expected a width and a height such as 64x48" in said


def test_what_does_not_fit_says_which_option_or_field_mends_it(check, pictures, text, table):
    for model, data, hint in (
        (dense([4, 5, 3], 3), pictures, "--size 5x4 resizes the pictures, or set the model's"),
        (dense([6, 8, 1], 3), pictures, "set the model's input shape to [6, 8, 3]"),
        (dense([6, 8, 3], 2), pictures, "The classes are ant, bee, cat: give the last layer 3"),
        (reader(32, 12, 12), text, "say --window 32, or set the model's input shape to [64]"),
        (reader(64, 10, 12), text, "Embedding knows, got 0 to 11: set its input_dim to 12"),
        (reader(64, 12, 10), text, "got 0 to 11: give the last layer 12 units or more"),
        (dense([7], 2), table, "set the model's input shape to [3]"),
    ):
        code, said = check(model, data)
        assert code == 2
        assert hint in said, said


def test_programs_get_the_names_too(check, table):
    code, said = check(dense([3], 2), table, "--json")
    told = json.loads(said)
    assert (code, told["class_names"]) == (0, ["no", "yes"])
    assert told["columns"] == ["age", "colour=blue", "colour=red"]


def test_the_description_tells_what_numbers_stand_for_and_stays_short_enough(table, tmp_path):
    with importers.read(table) as source:
        said = importing.description("Made up.", source)
        assert said == ("Made up.\nClasses from 0: no, yes.\nColumns of x: age, colour=blue|red.")
        long = importing.description("x" * (TEXT_LENGTH - 60), source)
        assert len(long) <= TEXT_LENGTH
        assert "no, yes." in long
    wide = tmp_path / "wide.csv"
    header = ",".join(f"a column with a long name {at}" for at in range(100))
    wide.write_text("\n".join([header, *(",".join("12" * 50) for _ in range(20))]))
    with importers.read(wide) as source:
        said = importing.description("", source)
        assert said.endswith(" ...")
        assert len(said) == TEXT_LENGTH


def test_how_far_it_is_is_told_in_lines_where_there_is_no_terminal(monkeypatch, capsys, table):
    monkeypatch.setattr(importing, "LINE_S", 0.0)
    show = importing.progress(table, bar=True)
    with show as told:
        told(1, 4)
        told(0, 0)
    assert capsys.readouterr().out == f"Read 25% of {table}\n"


def test_reading_loads_only_what_it_needs(table):
    program = f"""
import sys
from pathlib import Path
from handcar.data import importers
importers.read(Path({str(table)!r})).close()
heavy = {{"PIL", "pyarrow", "h5py", "scipy", "tokenizers", "keras", "pandas"}} & sys.modules.keys()
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_defaults_are_those_of_the_options():
    assert importing.options_of(importing.Wanted(), Path("m.json"), None) == Options()
