"""From an owner's data to records, whatever kind of data it is.

    with read(path, Options(label="income")) as source:
        print(source.describe())
        chunks = cut.cut(source, folder)

Nothing is ever wholly in memory, so the data set may be larger than it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from handcar.data.readers import audio, mat, npy, npz, pictures, table, text, tree
from handcar.data.reading import Found, Options, Progress, Reading, silent
from handcar.data.sources import Column, Part, Source, source_of
from handcar.errors import DataError

__all__ = ["Column", "Options", "Part", "Source", "read", "read_npz"]

Reader = Callable[[Path, Reading], Found]

READERS: dict[str, Reader] = {
    ".npz": npz.read,
    ".npy": npy.read,
    ".mat": mat.read,
    ".csv": table.read_csv,
    ".tsv": table.read_csv,
    ".data": table.read_csv,
    ".parquet": table.read_parquet,
    ".txt": text.read,
}
WHAT_CAN_BE_READ = (
    ".npz, .npy, .mat, .csv, .tsv, .parquet or .txt, or a folder or .zip of pictures or of WAV "
    "files by class"
)


# -- reading ---------------------------------------------------------------------------------


def read(
    path: Path,
    options: Options | None = None,
    *,
    folder: Path | None = None,
    on_progress: Progress = silent,
) -> Source:
    """Read data of any kind that we know.

    What has to be unpacked goes to a temporary folder in `folder`, until the source is closed.
    Raises DataError, DiskFull.
    """
    options = options or Options()
    if options.test is not None and not options.test.exists():
        raise DataError(f"--test {options.test}: there is no such file or folder")
    return _opened(path, reader_of(path), options, folder, on_progress)


def read_npz(path: Path, *, folder: Path | None = None) -> Source:
    """Read an .npz file with x and y, and optional x_test and y_test. Raises DataError."""
    return _opened(path, npz.read, Options(), folder, silent)


def _opened(
    path: Path, reader: Reader, options: Options, folder: Path | None, on_progress: Progress
) -> Source:
    unpacked = Path(tempfile.mkdtemp(prefix="handcar-", dir=folder))
    try:
        found = reader(path, Reading(unpacked, options, on_progress))
        return source_of(path.resolve().name, unpacked, found, on_progress)
    except BaseException:
        shutil.rmtree(unpacked, ignore_errors=True)
        raise


def reader_of(path: Path) -> Reader:
    """Return what reads a path, by its name and, in a folder or .zip, by what is in it."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if path.is_dir():
        return _reader_of_folder(path)
    if path.suffix.lower() == ".zip":
        return _reader_of_tree(path)
    try:
        return READERS[path.suffix.lower()]
    except KeyError:
        raise DataError(f"{path}: expected {WHAT_CAN_BE_READ}") from None


def _reader_of_folder(path: Path) -> Reader:
    for suffix in (".npy", ".mat"):
        if any(path.glob(f"*{suffix}")):
            return READERS[suffix]
    return _reader_of_tree(path)


def _reader_of_tree(path: Path) -> Reader:
    """Return what reads most of the files."""
    counts = tree.suffixes(path)
    pictured = sum(counts[suffix] for suffix in pictures.SUFFIXES)
    if counts[".wav"] > pictured:
        return audio.read
    if pictured:
        return pictures.read
    common = ", ".join(suffix or "without a suffix" for suffix, _ in counts.most_common(5))
    raise DataError(
        f"{path}: expected pictures or WAV files in a folder a class, found "
        f"{common or 'no files'}. What can be read: {WHAT_CAN_BE_READ}"
    )
