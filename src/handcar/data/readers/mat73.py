"""One variable of a MATLAB file of version 7.3, which is HDF5 with the dimensions reversed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.data.reading import Reading, library
from handcar.data.spool import Spool, expect_room
from handcar.data.survey import PIECE_BYTES
from handcar.errors import DataError


def variables(path: Path) -> dict[str, str]:
    """Return the name of each variable, and its shape or what it is. Raises DataError."""
    h5py = library("h5py", "h5py", "MATLAB 7.3 files")
    with _opened(h5py, path) as file:
        return {name: _told(h5py, file, name) for name in file if not name.startswith("#")}


def load(path: Path, name: str, target: Path, reading: Reading) -> NDArray[Any]:
    """Copy a variable to `target` piece by piece and map it, in MATLAB's shape.

    Raises DataError, DiskFull.
    """
    h5py = library("h5py", "h5py", "MATLAB 7.3 files")
    with _opened(h5py, path) as file:
        if unfit := _unfit(h5py, file, name):
            raise DataError(f"{path}: {name}: expected numbers, got {unfit}")
        stored = file[name]
        expect_room(target.parent, stored.nbytes)
        try:
            return _copied(stored, target, reading)
        except OSError as fault:
            if fault.errno is not None:
                raise
            raise DataError(f"{path}: {name} is damaged: {fault}") from fault


def _opened(h5py: Any, path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as fault:
        raise DataError(f"{path}: a MATLAB 7.3 file that can't be read: {fault}") from fault


def _told(h5py: Any, file: Any, name: str) -> str:
    return _unfit(h5py, file, name) or " x ".join(map(str, file[name].shape[::-1]))


def _unfit(h5py: Any, file: Any, name: str) -> str:
    """Say why a variable can't be read; empty if it can."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return "a link to another place"
    stored = file[name]
    if not isinstance(stored, h5py.Dataset):
        return "a structure"
    if stored.is_virtual or stored.external:
        return "numbers kept in another file"
    if "MATLAB_empty" in stored.attrs or not stored.size or not stored.shape:
        return "nothing"
    if stored.attrs.get("MATLAB_class", b"") in (b"char", b"cell") or stored.dtype.kind not in (
        "biuf"
    ):
        return f"text, cells or complex numbers ({stored.dtype})"
    return ""


def _copied(stored: Any, target: Path, reading: Reading) -> NDArray[Any]:
    """Return the variable with its dimensions as MATLAB has them, read along the longest one."""
    axis = int(np.argmax(stored.shape))
    # Rows of the spool are that axis; the others follow in their order in the file.
    others = tuple(np.delete(stored.shape, axis).tolist())
    row_bytes = max(1, stored.nbytes // stored.shape[axis])
    rows = max(1, PIECE_BYTES // row_bytes)
    with Spool(target, others, stored.dtype) as spool:
        for first in range(0, stored.shape[axis], rows):
            place = (slice(None),) * axis + (slice(first, first + rows),)
            spool.append(np.moveaxis(stored[place], axis, 0))
            reading.on_progress(spool.rows, stored.shape[axis])
        mapped = spool.mapped()
    return np.moveaxis(mapped, 0, axis).T
