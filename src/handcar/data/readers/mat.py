"""MATLAB's .mat files: version 5 to 7, and version 7.3, which is HDF5.

Both keep numbers column by column. MATLAB people put the number of a record first or last;
SVHN's files have `X` as height x width x channel x record and `y` with 10 for zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.data.readers import mat5, mat73
from handcar.data.readers.tree import SPLITS
from handcar.data.reading import Arrays, Found, Reading
from handcar.data.survey import pieces
from handcar.errors import DataError

X_NAMES = ("x", "X")
Y_NAMES = ("y", "Y")
SIGNATURE_73 = b"\x89HDF\r\n\x1a\n"
HEADER_BYTES = 512
SVHN = "SVHN's layout: height x width x channel x record, and 10 for zero."


@dataclass(frozen=True, slots=True)
class _Part:
    x: NDArray[Any]
    y: NDArray[Any]
    notes: tuple[str, ...]


def read(path: Path, reading: Reading) -> Found:
    """Read x and y, or X and Y, of one file, or of those named train... and test... in a folder."""
    paths = _in_folder(path) if path.is_dir() else [path]
    if len(paths) > 1:
        reading.refuse_test(path)
    elif reading.options.test is not None:
        paths = [*paths, reading.options.test]
    parts = [_part(one, number, reading) for number, one in enumerate(paths)]
    arrays: list[Arrays] = [{"x": part.x, "y": part.y} for part in parts]
    names = [(f"{one.name}'s x", f"{one.name}'s y") for one in paths]
    return Found(
        arrays[0],
        arrays[1] if len(arrays) > 1 else None,
        (names[0], names[-1]),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _in_folder(path: Path) -> list[Path]:
    """Return the files to train on and, if there are such, to measure on."""
    found: dict[str, Path] = {}
    for file in sorted(path.glob("*.mat")):
        split = next((SPLITS[word] for word in SPLITS if file.name.lower().startswith(word)), None)
        if split is not None:
            found.setdefault(split, file)
    if "train" not in found:
        raise DataError(
            f"{path}: expected a file whose name begins with train, such as train_32x32.mat, and "
            "maybe one with test: rename them, or give one file"
        )
    measured = found.get("validation", found.get("test"))
    return [found["train"]] if measured is None else [found["train"], measured]


def _part(path: Path, number: int, reading: Reading) -> _Part:
    library = mat73 if _is_73(path) else mat5
    variables = library.variables(path)
    x_name, y_name = (_name(path, names, variables) for names in (X_NAMES, Y_NAMES))
    y = _labels(path, library.load(path, y_name, reading.folder / f"y{number}", reading))
    x = library.load(path, x_name, reading.folder / f"x{number}", reading)
    return _arranged(path, x_name, x, y)


def _is_73(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES + len(SIGNATURE_73))
    except OSError as fault:
        raise DataError(f"{path}: can't be read: {fault.strerror}") from fault
    return SIGNATURE_73 in (head[: len(SIGNATURE_73)], head[HEADER_BYTES:])


def _name(path: Path, wanted: tuple[str, str], variables: dict[str, str]) -> str:
    for name in wanted:
        if name in variables:
            return name
    found = ", ".join(f"{name} ({what})" for name, what in list(variables.items())[:20])
    raise DataError(
        f"{path}: expected a variable {' or '.join(wanted)}, found {found or 'none'}. In MATLAB: "
        "save('data.mat', 'x', 'y', '-v7.3')"
    )


def _labels(path: Path, y: NDArray[Any]) -> NDArray[Any]:
    """Return y without its axis of one, and as whole numbers where it holds no others."""
    flat = y.reshape(-1) if y.ndim == 2 and 1 in y.shape else y
    if flat.size == 0:
        raise DataError(f"{path}: y is empty")
    if flat.ndim > 1 or flat.dtype.kind != "f":
        return flat
    # MATLAB's numbers are fractions unless told otherwise, class numbers too.
    for _, piece in pieces(flat):
        if not (np.isfinite(piece).all() and (piece == np.rint(piece)).all()):
            return flat
    return flat.astype(np.int64)


def _arranged(path: Path, name: str, x: NDArray[Any], y: NDArray[Any]) -> _Part:
    """Return x with the number of the record first, and class 10 as 0 where it is SVHN's."""
    if name == "X" and x.ndim == 4 and x.shape[-1] == len(y):
        x = np.moveaxis(x, -1, 0)
        if y.ndim == 1 and (y.min(), y.max()) == (1, 10):
            return _Part(x, y % 10, (SVHN,))
        return _Part(x, y, ("X: the record is its last axis.",))
    if x.shape[0] == len(y):
        return _Part(x, y, ())
    if x.shape[-1] == len(y):
        return _Part(np.moveaxis(x, -1, 0), y, (f"{name}: the record is its last axis.",))
    if y.ndim == 2 and y.shape[-1] in (x.shape[0], x.shape[-1]):
        return _arranged(path, name, x, y.T)
    raise DataError(
        f"{path}: expected as many records in {name} as in y: {name} is "
        f"{_times(x.shape)}, y is {_times(y.shape)}"
    )


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
