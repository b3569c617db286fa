"""What .npz and .npy have in common: the arrays' names, headers and types."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from handcar.data import spool
from handcar.data.reading import Pair
from handcar.errors import DataError

TRAIN_NAMES: tuple[Pair, ...] = (("x", "y"), ("x_train", "y_train"))
VALIDATION_NAMES: tuple[Pair, ...] = (("x_val", "y_val"), ("x_validation", "y_validation"))
TEST_NAMES: tuple[Pair, ...] = (("x_test", "y_test"),)
HOW_TO_SAVE = 'numpy.savez("data.npz", x=..., y=...) writes one'


def training_names(path: Path, there: Collection[str]) -> Pair:
    """Return the names of the arrays to train on. Raises DataError naming those there are."""
    for pair in TRAIN_NAMES:
        if set(pair) <= set(there):
            return pair
    found = ", ".join(sorted(there)[:20]) or "none"
    raise DataError(f"{path}: expected the arrays x and y, found {found}; {HOW_TO_SAVE}")


def test_names(path: Path, there: Collection[str]) -> tuple[list[Pair], list[str]]:
    """Return the names of the arrays to measure on, if any, and what to tell of others."""
    pairs = []
    for pair in (*VALIDATION_NAMES, *TEST_NAMES):
        found = set(pair) & set(there)
        if len(found) == 1:
            raise DataError(
                f"{path}: {found.pop()} is there, expected both of {' and '.join(pair)}"
            )
        if found:
            pairs.append(pair)
    left = [" and ".join(pair) for pair in pairs[1:]]
    notes = [f"{both} stay here: {' and '.join(pairs[0])} are measured on." for both in left]
    return pairs[:1], notes


def expect_numbers(name: str, file: IO[bytes]) -> None:
    """Look at the type before anything is unpacked: an object array is a program to run."""
    try:
        shape, dtype = _header(file)
    except (ValueError, KeyError, EOFError) as fault:
        raise DataError(f"{name}: not an array as NumPy writes it: {fault}") from fault
    if dtype.kind not in "biuf":
        kind = "Python objects" if dtype.hasobject else f"the type {dtype}"
        raise DataError(
            f"{name}: expected numbers or truth values, got {kind}. Text labels become numbers "
            f"with: _, {name} = numpy.unique({name}, return_inverse=True)"
        )
    if len(shape) == 0 or 0 in shape:
        raise DataError(f"{name}: expected records, got an array of the shape {shape}")


def _header(file: IO[bytes]) -> tuple[Sequence[int], np.dtype[Any]]:
    version = npy.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(file)
    else:
        shape, _, dtype = npy.read_array_header_2_0(file)
    return shape, dtype


def mapped(name: str, path: Path) -> NDArray[Any]:
    """Map an .npy file whose header was looked at. Raises DataError when it is cut short."""
    try:
        return spool.mapped(path)
    except (ValueError, EOFError) as fault:
        raise DataError(f"{name}: fewer bytes than its shape promises: {fault}") from fault
