"""Arrays larger than memory: written row by row to an .npy file, then memory-mapped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from handcar import files
from handcar.errors import DiskFull


class Spool:
    """An .npy file that grows by rows, in a `with` block; `mapped` ends it."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any) -> None:
        self.path = path
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.rows = 0
        self._file: BinaryIO = path.open("wb")
        self._write_header()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, whether or not it is whole."""
        self._file.close()

    def rename(self, path: Path) -> None:
        """Give the file another name; one of that name is replaced."""
        self._file.close()
        self.path.replace(path)
        self.path = path
        self._file = path.open("r+b")
        self._file.seek(0, 2)

    def append(self, rows: NDArray[Any]) -> None:
        """Write rows of the shape (n, *shape). Raises DiskFull."""
        with files.said_plainly(self.path):
            self._file.write(np.ascontiguousarray(rows, self.dtype).tobytes())
        self.rows += len(rows)

    def mapped(self) -> NDArray[Any]:
        """Finish the file and return all of its rows, mapped from disk. Raises DiskFull."""
        with files.said_plainly(self.path):
            # NumPy leaves room in the header for the first number of the shape to grow.
            self._file.seek(0)
            self._write_header()
            self._file.close()
        return mapped(self.path)

    def _write_header(self) -> None:
        description = npy.dtype_to_descr(self.dtype)
        shape = (self.rows, *self.shape)
        header = {"descr": description, "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(self._file, header)


def mapped(path: Path) -> NDArray[Any]:
    """Map an .npy file: a plain array over the map. Raises ValueError for what is unsound."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def expect_room(folder: Path, needed: int) -> None:
    """Raise DiskFull where the disk has no room for what will be unpacked."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFull(
            f"unpacking takes {needed:,} bytes in {folder}, and {free:,} are free: free some "
            "space, or set HANDCAR_HOME to a folder on a larger disk"
        )
