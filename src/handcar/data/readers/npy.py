"""Arrays in .npy files beside each other, mapped where they lie: no copy, no memory.

x.npy and y.npy, or x_train.npy and y_train.npy, and optionally x_val.npy or x_test.npy
with its y; `classes.txt` beside them may name the classes, one a line, from 0
"""

from __future__ import annotations

from pathlib import Path

from handcar.data.readers import arrays
from handcar.data.reading import Arrays, Found, Pair, Reading
from handcar.errors import DataError

CLASSES = "classes.txt"
CLASSES_BYTES = 1 << 20


def read(path: Path, reading: Reading) -> Found:
    """Read the arrays in a folder, or one x...npy with its y...npy beside it."""
    folder, pair, tests, notes = _names(path)
    if tests:
        reading.refuse_test(path)
    test, test_pair = (_mapped(folder, tests[0]), tests[0]) if tests else _other(reading)
    names = _class_names(folder / CLASSES)
    return Found(_mapped(folder, pair), test, (pair, test_pair), names, notes=tuple(notes))


def _other(reading: Reading) -> tuple[Arrays | None, Pair]:
    path = reading.options.test
    if path is None:
        return None, ("x_test", "y_test")
    folder, pair, _, _ = _names(path)
    return _mapped(folder, pair), (f"{path.name}'s {pair[0]}", f"{path.name}'s {pair[1]}")


def _names(path: Path) -> tuple[Path, Pair, list[Pair], list[str]]:
    """Return the folder, the arrays to train on and to measure on, and what to tell."""
    if path.is_dir():
        there = sorted(file.stem for file in path.glob("*.npy"))
        return path, arrays.training_names(path, there), *arrays.test_names(path, there)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    pair = (path.stem, _other_half(path))
    if pair not in arrays.TRAIN_NAMES:
        return path.parent, pair, [], []
    there = [file.stem for file in path.parent.glob("*.npy")]
    return path.parent, pair, *arrays.test_names(path.parent, there)


def _other_half(path: Path) -> str:
    """Return the name of the y that goes with an x."""
    name = path.stem
    if name == "x" or name.startswith("x_"):
        label = "y" + name[1:]
    elif name.endswith("_x"):
        label = name[:-1] + "y"
    else:
        raise DataError(
            f"{path}: expected a file named x.npy, with y.npy beside it, got {path.name}: rename "
            "both, or give the folder"
        )
    if not path.with_name(f"{label}.npy").is_file():
        raise DataError(f"{path}: expected {label}.npy beside it, with what should come out")
    return label


def _mapped(folder: Path, pair: Pair) -> Arrays:
    mapped = {}
    for column, name in zip("xy", pair, strict=True):
        path = folder / f"{name}.npy"
        with path.open("rb") as file:
            arrays.expect_numbers(str(path), file)
        mapped[column] = arrays.mapped(str(path), path)
    return mapped


def _class_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    if path.stat().st_size > CLASSES_BYTES:
        raise DataError(f"{path}: expected one class a line, at most {CLASSES_BYTES:,} bytes")
    try:
        return tuple(path.read_text("utf-8").rstrip("\n").split("\n"))
    except UnicodeDecodeError as fault:
        raise DataError(f"{path}: expected UTF-8 text: {fault.reason}") from fault
