"""One variable of a MATLAB file of version 5 to 7, unpacked to disk piece by piece.

SciPy reads these files too, but a variable at a time into memory; the data sets that we want
are larger. The format is that of MathWorks' "MAT-File Format": a header of 128 bytes, then
elements of a tag (type, length) and data, each variable an element of its own, mostly under
zlib. Only real numbers and truth values are read; other variables are told by name.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from handcar import files
from handcar.data.reading import Reading
from handcar.data.spool import expect_room
from handcar.errors import DataError
from handcar.files import MB

HEADER_BYTES = 128
MATRIX, COMPRESSED = 14, 15
STORED = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
"""Types of an element's data."""
CLASSES = {
    1: "cells", 2: "a structure", 3: "an object", 4: "text", 5: "sparse numbers", 6: "f8", 7: "f4",
    8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8",
}  # fmt: skip
"""Types of a variable; from 6 on numbers that we read."""
FIRST_NUMBERS = 6
COMPLEX = 0x0800
DIMENSIONS = 8
NAME_BYTES = 63


@dataclass(frozen=True, slots=True)
class _Variable:
    """What a variable's own header says."""

    name: str
    kind: int
    shape: tuple[int, ...]
    unfit: str
    """Why it can't be read, empty if it can."""

    def __str__(self) -> str:
        return self.unfit or " x ".join(map(str, self.shape))


class _Stream:
    """A variable's bytes, unpacked as they are read."""

    def __init__(self, file: IO[bytes], length: int, order: str, *, packed: bool) -> None:
        self.order = order
        self._file = file
        self._left = length
        self._unpack = zlib.decompressobj() if packed else None

    def read(self, count: int) -> bytes:
        """Return exactly so many bytes. Raises EOFError."""
        parts = []
        while count:
            part = self._some(count)
            if not part:
                raise EOFError("it ends too early")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _some(self, count: int) -> bytes:
        if self._unpack is None:
            return self._raw(count)
        while True:
            waiting = self._unpack.unconsumed_tail or self._raw(MB)
            part = self._unpack.decompress(waiting, count)
            if part or self._unpack.eof or not waiting:
                return part

    def _raw(self, count: int) -> bytes:
        data = self._file.read(min(count, self._left))
        self._left -= len(data)
        return data

    def element(self) -> tuple[int, int, bytes | None]:
        """Return the next element's type, length and, if it is a small one, its data."""
        first, length = struct.unpack(self.order + "II", tag := self.read(8))
        if first >> 16:  # both in four bytes, and the data in the other four
            kind, length = first & 0xFFFF, first >> 16
            return kind, length, tag[4 : 4 + length]
        return first, length, None

    def data(self, most: int) -> tuple[int, bytes]:
        """Return the next element's type and data, of at most `most` bytes."""
        kind, length, small = self.element()
        if length > most:
            raise ValueError(f"an element of {length:,} bytes, expected at most {most}")
        return kind, small if small is not None else self.read(length + -length % 8)[:length]


def variables(path: Path) -> dict[str, str]:
    """Return the name of each variable, and its shape or what it is. Raises DataError."""
    with path.open("rb") as file:
        return {variable.name: str(variable) for variable, _ in _each(path, file)}


def load(path: Path, name: str, target: Path, reading: Reading) -> NDArray[Any]:
    """Unpack a variable to `target` and map it, in MATLAB's shape. Raises DataError, DiskFull."""
    with path.open("rb") as file:
        for variable, stream in _each(path, file):
            if variable.name == name:
                if variable.unfit:
                    raise DataError(f"{path}: {name}: expected numbers, got {variable.unfit}")
                with _plainly(path):
                    return _loaded(path, variable, stream, target, reading)
    raise DataError(f"{path}: has no variable {name}")


def _each(path: Path, file: IO[bytes]) -> Iterator[tuple[_Variable, _Stream]]:
    """Yield each variable, with a stream that stands before its numbers."""
    order = _order(path, file.read(HEADER_BYTES))
    end = path.stat().st_size
    place = HEADER_BYTES
    while place + 8 <= end:
        file.seek(place)
        kind, length = struct.unpack(order + "II", file.read(8))
        if kind in (MATRIX, COMPRESSED):
            with _plainly(path):
                stream = _Stream(file, length, order, packed=kind == COMPRESSED)
                yield _variable(stream, inside=kind == COMPRESSED), stream
        # Only what is not packed is padded to a multiple of eight.
        place += 8 + length + (0 if kind == COMPRESSED else -length % 8)


def _order(path: Path, header: bytes) -> str:
    order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
    if order is None:
        raise DataError(
            f"{path}: expected a MATLAB file of version 5 or later, got something else or a "
            "version 4 file: in MATLAB, load it and save it with save('data.mat', 'x', 'y')"
        )
    return order


class _plainly:
    """Turns what damaged bytes raise into a DataError that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, fault: object, _: object) -> None:
        damage = (zlib.error, EOFError, ValueError, struct.error, KeyError, IndexError)
        if kind is not None and issubclass(kind, damage):
            raise DataError(f"{self._path}: is damaged, or no MATLAB file: {fault}") from None


def _variable(stream: _Stream, *, inside: bool) -> _Variable:
    """Read a variable's header: flags, dimensions and name."""
    if inside:
        stream.element()
    _, flags = stream.data(8)
    (flag,) = struct.unpack(stream.order + "I", flags[:4])
    _, sides = stream.data(4 * DIMENSIONS)
    shape = np.frombuffer(sides, stream.order + "i4").tolist()
    _, name = stream.data(NAME_BYTES)
    kind = flag & 0xFF
    unfit = "" if kind >= FIRST_NUMBERS else CLASSES.get(kind, "something unknown")
    if flag & COMPLEX:
        unfit = "complex numbers"
    if kind not in CLASSES or min(shape, default=0) < 0:
        unfit = "something unknown"
    return _Variable(name.decode("ascii", "replace"), kind, tuple(shape), unfit)


def _loaded(
    path: Path, variable: _Variable, stream: _Stream, target: Path, reading: Reading
) -> NDArray[Any]:
    kind, length, small = stream.element()
    # MATLAB keeps whole numbers small, whatever type the variable has.
    stored = np.dtype(stream.order + STORED[kind])
    if length != int(np.prod(variable.shape, dtype=object)) * stored.itemsize or not length:
        raise DataError(
            f"{path}: {variable.name}: expected {variable} numbers, got {length:,} bytes"
        )
    expect_room(target.parent, length)
    with files.said_plainly(target), target.open("wb") as file:
        for done, piece in _pieces(stream.read, length, small):
            file.write(piece)
            reading.on_progress(done, length)
    mapped = np.memmap(target, stored, "r", shape=variable.shape, order="F")
    return np.asarray(mapped)


def _pieces(
    read: Callable[[int], bytes], length: int, small: bytes | None
) -> Iterator[tuple[int, bytes]]:
    if small is not None:
        yield length, small
        return
    for first in range(0, length, MB):
        count = min(MB, length - first)
        yield first + count, read(count)
