"""An .npz file: its arrays are unpacked to disk and memory-mapped."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from handcar import files
from handcar.data.readers import arrays, zips
from handcar.data.reading import Arrays, Found, Pair, Reading
from handcar.data.spool import expect_room
from handcar.errors import DataError


def read(path: Path, reading: Reading) -> Found:
    """Read x and y, and optional x_val and y_val or x_test and y_test."""
    with opened(path) as archive:
        there = _names(archive)
        pair = arrays.training_names(path, there)
        tests, notes = arrays.test_names(path, there)
        if tests:
            reading.refuse_test(path)
        train, *own = _unpacked(archive, [pair, *tests], reading)
    test, test_pair = (own[0], tests[0]) if tests else _other(reading)
    return Found(train, test, (pair, test_pair), notes=tuple(notes))


def _other(reading: Reading) -> tuple[Arrays | None, Pair]:
    """Read the file that --test names, if there is one."""
    path = reading.options.test
    if path is None:
        return None, ("x_test", "y_test")
    with opened(path) as archive:
        pair = arrays.training_names(path, _names(archive))
        (test,) = _unpacked(archive, [pair], reading, prefix="test-")
    return test, (f"{path.name}'s {pair[0]}", f"{path.name}'s {pair[1]}")


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
    except zips.DAMAGED as fault:
        hint = "" if zipfile.is_zipfile(path) else f"; {arrays.HOW_TO_SAVE}"
        raise DataError(
            f"{path}: expected an .npz file, which can't be read: {fault}{hint}"
        ) from fault


def _names(archive: zipfile.ZipFile) -> list[str]:
    members = archive.namelist()
    return [name.removesuffix(".npy") for name in members if name.endswith(".npy")]


def _unpacked(
    archive: zipfile.ZipFile, pairs: list[Pair], reading: Reading, *, prefix: str = ""
) -> list[Arrays]:
    """Copy arrays to disk, piece by piece, and map them. Raises DataError, DiskFull."""
    sizes = [archive.getinfo(f"{name}.npy").file_size for pair in pairs for name in pair]
    expect_room(reading.folder, sum(sizes))
    copied = 0

    def told(count: int) -> None:
        nonlocal copied
        copied += count
        reading.on_progress(copied, sum(sizes))

    return [
        {
            column: _unpack(archive, name, reading.folder / f"{prefix}{name}.npy", told)
            for column, name in zip("xy", pair, strict=True)
        }
        for pair in pairs
    ]


def _unpack(
    archive: zipfile.ZipFile, name: str, target: Path, told: Callable[[int], None]
) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as member:
        arrays.expect_numbers(name, member)
    with (
        files.said_plainly(target),
        archive.open(f"{name}.npy") as member,
        target.open("wb") as file,
    ):
        while piece := member.read(files.MB):
            file.write(piece)
            told(len(piece))
    return arrays.mapped(name, target)
