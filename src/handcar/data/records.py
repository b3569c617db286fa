"""Records that a program makes, one after the other, however many there are.

    save_records(((picture(row), row.label) for row in rows), Path("mine"))

and then `handcar publish model.json mine`; or, to go on in Python,

    with from_records(records) as source:
        chunks = cut(source, folder)

A record is a pair (x, y) or a mapping with the keys x and y. x is a number, a list or an array,
of one shape in all records; y too, or a text that names a class.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar import files
from handcar.data.readers import npy
from handcar.data.reading import Arrays, Found
from handcar.data.sources import Source, source_of
from handcar.data.spool import Spool
from handcar.data.survey import pieces
from handcar.errors import DataError

Records = Iterable[tuple[Any, Any] | Mapping[str, Any]]


def from_records(
    records: Records, *, test: Records | None = None, folder: Path | None = None
) -> Source:
    """Read records, and optional ones to measure on.

    They are kept in a temporary folder in `folder` until the source is closed. Raises DataError,
    DiskFull.
    """
    kept = Path(tempfile.mkdtemp(prefix="handcar-", dir=folder))
    try:
        return source_of("records", kept, _found(records, test, kept))
    except BaseException:
        shutil.rmtree(kept, ignore_errors=True)
        raise


def save_records(records: Records, folder: Path, *, test: Records | None = None) -> None:
    """Write records to a folder that `handcar publish` takes. Raises DataError, DiskFull."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("x_test.npy", "y_test.npy", npy.CLASSES):  # of records that were saved before
        (folder / name).unlink(missing_ok=True)
    found = _found(records, test, folder)
    if found.class_names:
        files.write(folder / npy.CLASSES, "\n".join(found.class_names).encode())


def _found(records: Records, test: Records | None, folder: Path) -> Found:
    classes = _Classes()
    train = _spooled(records, folder, "", classes)
    classes.closed = True
    tested = None if test is None else _spooled(test, folder, "_test", classes)
    return Found(train, tested, class_names=tuple(classes.numbers))


class _Classes:
    """Numbers texts in the order in which they come."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.closed = False

    def number(self, where: str, name: str) -> int:
        if self.closed and name not in self.numbers:
            known = ", ".join(list(self.numbers)[:20])
            raise DataError(f"{where}: the class {name} is not among those to train on: {known}")
        if "\n" in name:
            raise DataError(f"{where}: expected the name of a class in one line, got {name!r}")
        return self.numbers.setdefault(name, len(self.numbers))


def _spooled(records: Records, folder: Path, ending: str, classes: _Classes) -> Arrays:
    x, y = (_Growing(folder, f"{name}{ending}") for name in "xy")
    try:
        for number, record in enumerate(records):
            where = f"record {number}"
            values = _pair(where, record)
            label = values[1]
            x.append(where, values[0])
            y.append(where, classes.number(where, label) if isinstance(label, str) else label)
        return {"x": x.mapped(), "y": y.mapped()}
    finally:
        x.close()
        y.close()


def _pair(where: str, record: Any) -> tuple[Any, Any]:
    if isinstance(record, Mapping) and {"x", "y"} <= record.keys():
        return record["x"], record["y"]
    if isinstance(record, tuple | list) and len(record) == 2:
        return record[0], record[1]
    raise DataError(
        f"{where}: expected a pair (x, y) or a mapping with x and y, got {type(record).__name__}"
    )


class _Growing:
    """A column whose shape and type the records tell, written as they come."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.npy"
        self._name = name
        self._spool: Spool | None = None

    def append(self, where: str, value: Any) -> None:
        """Write one value. Raises DataError for another shape than before, DiskFull."""
        array = self._as_array(where, value)
        spool = self._spool
        if spool is None:
            spool = self._spool = Spool(self._path, array.shape, array.dtype)
        if array.shape != spool.shape:
            raise DataError(
                f"{where}: expected {self._name} of the shape {spool.shape} as before, got "
                f"{array.shape}"
            )
        common = np.result_type(spool.dtype, array.dtype)
        if common != spool.dtype:
            spool = self._spool = self._widened(spool, common)
        spool.append(array[None])

    def _as_array(self, where: str, value: Any) -> NDArray[Any]:
        try:
            array = np.asarray(value)
        except ValueError as fault:
            raise DataError(f"{where}: {self._name} is uneven: {fault}") from fault
        if array.dtype.kind not in "biuf":
            raise DataError(f"{where}: expected numbers in {self._name}, got {array.dtype}")
        return array

    def _widened(self, narrow: Spool, dtype: np.dtype[Any]) -> Spool:
        """Copy what was written so far, as a wider type."""
        part = self._path.with_suffix(".part")
        wide = Spool(part, narrow.shape, dtype)
        for _, piece in pieces(narrow.mapped()):
            wide.append(piece)
        wide.rename(self._path)
        return wide

    def mapped(self) -> NDArray[Any]:
        """Return all values, mapped from disk."""
        if self._spool is None:
            raise DataError("expected records, got none")
        return self._spool.mapped()

    def close(self) -> None:
        """Close the file."""
        if self._spool is not None:
            self._spool.close()
