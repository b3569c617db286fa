"""The arrays of an .npz file, unpacked to disk and memory-mapped: never whole in memory."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from handcar import files
from handcar.errors import DataError

HOW_TO_SAVE = 'numpy.savez("data.npz", x=..., y=...) writes one'


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an .npz file. Raises DataError, also for what turns out damaged inside the block."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: expected an .npz file, got a folder") from None
    except PermissionError:
        raise DataError(f"{path}: this user may not read it") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as fault:
        hint = "" if zipfile.is_zipfile(path) else f"; {HOW_TO_SAVE}"
        raise DataError(
            f"{path}: expected an .npz file, which can't be read: {fault}{hint}"
        ) from fault


def names(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the arrays."""
    members = archive.namelist()
    return [name.removesuffix(".npy") for name in members if name.endswith(".npy")]


def unpack(archive: zipfile.ZipFile, name: str, folder: Path) -> NDArray[Any]:
    """Copy one array to `folder`, piece by piece, and map it. Raises DataError, DiskFull."""
    with archive.open(f"{name}.npy") as member:
        _expect_numbers(name, member)
    target = folder / f"{name}.npy"
    with (
        files.said_plainly(target),
        archive.open(f"{name}.npy") as member,
        target.open("wb") as file,
    ):
        shutil.copyfileobj(member, file, files.MB)
    return _map(name, target)


def _expect_numbers(name: str, member: IO[bytes]) -> None:
    """Look at the type before anything is unpacked: an object array is a program to run."""
    try:
        shape, dtype = _header(member)
    except (ValueError, KeyError) as fault:
        raise DataError(f"{name}: not an array as NumPy writes it: {fault}") from fault
    if dtype.kind not in "biuf":
        kind = "Python objects" if dtype.hasobject else f"the type {dtype}"
        raise DataError(
            f"{name}: expected numbers or truth values, got {kind}. Text labels become numbers "
            f"with: _, {name} = numpy.unique({name}, return_inverse=True)"
        )
    if len(shape) == 0 or 0 in shape:
        raise DataError(f"{name}: expected records, got an array of the shape {shape}")


def _header(member: IO[bytes]) -> tuple[Sequence[int], np.dtype[Any]]:
    version = npy.read_magic(member)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(member)
    else:
        shape, _, dtype = npy.read_array_header_2_0(member)
    return shape, dtype


def _map(name: str, path: Path) -> NDArray[Any]:
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as fault:
        raise DataError(f"{name}: fewer bytes than its shape promises: {fault}") from fault
    return np.asarray(mapped)
