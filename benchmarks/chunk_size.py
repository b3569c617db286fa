"""How few bytes records take as chunks, and how quickly they are made and read.

Real pictures, JPEG files, audio, a table, text and tokens from the folder in HANDCAR_DATA,
cut as `handcar publish` cuts them, beside other formats of the same records. `share` is bytes
over those of `np.savez_compressed`, or of the JPEG files themselves. MB/s are of decoded
records and one core's time.

HANDCAR_PEERS names a Python that has webdataset, mosaicml-streaming, pyarrow and litdata;
without it these are left out. So they are with --quick, as is text, which only takes long.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from common import Bar, arguments, report
from handcar.data import chunks
from handcar.data.cut import cut
from handcar.data.importers import Column
from handcar.data.pictures import JpegColumn
from handcar.data.survey import survey, travel_type

TEXT_PART = 20
"""One of so many records is written as text; the rest is reckoned."""
CLIP = 8000
"""Samples of a spoken digit: a second."""
WINDOW = 64
"""Characters or tokens of a record of text."""
JPEG_FILES = 10_000
PEERS = Path(__file__).with_name("chunk_size_peers.py")

Row = tuple[object, ...]


@dataclass(frozen=True)
class Data:
    """One data set: its arrays, and its JPEG files where it has any."""

    name: str
    arrays: dict[str, np.ndarray]
    files: JpegColumn | None = None

    @property
    def raw(self) -> int:
        """Bytes of all records, decoded."""
        return sum(array.nbytes for array in self.arrays.values())


# -- the data --------------------------------------------------------------------------------


def data_sets(folder: Path) -> Iterator[Data]:
    """Return the data sets that are there, one by one."""
    cifar = np.load(folder / "cifar10_lossless" / "cifar10_lossless_4k.npz")
    yield Data("cifar", {"x": cifar["x"][:4000], "y": cifar["y"][:4000]})
    flowers = np.load(folder / "cifar10_lossless" / "cifar100_flowers_lossless_3k.npz")["x"]
    yield Data("flowers", {"x": flowers, "y": np.zeros(len(flowers), np.uint8)})
    mnist = np.load(folder / "mnist" / "mnist_63k.npz")
    yield Data("mnist", {"x": mnist["x"][:10_000], "y": mnist["y"][:10_000]})
    yield _jpeg(folder / "cifar10_jpeg" / "cifar10_jpeg_test10k.npz")
    yield _audio(folder / "fsdd" / "fsdd_1440.npz")
    yield _table(folder / "adult" / "adult-train.csv")
    text = (folder / "tinyshakespeare" / "input.txt").read_text()
    yield _windows("text", list(text), np.uint8)
    yield _windows("tokens", re.findall(r"\w+|\W", text), np.uint16)


def _jpeg(path: Path) -> Data:
    import imagecodecs

    data = np.load(path)
    offsets = data["offsets"][: JPEG_FILES + 1].astype(np.int64)
    column = JpegColumn(data["jpeg"], offsets, (32, 32, 3))
    files = column.rows(np.arange(len(offsets) - 1)).each()
    pixels = np.stack([imagecodecs.jpeg8_decode(bytes(file)) for file in files])
    return Data("jpeg", {"x": pixels, "y": data["y"][: len(pixels)]}, column)


def _audio(path: Path) -> Data:
    data = np.load(path)
    offsets, pcm = data["offsets"], data["pcm"]
    clips = np.zeros((len(offsets) - 1, CLIP, 1), np.int16)
    for clip, start, end in zip(clips, offsets, offsets[1:], strict=False):
        part = pcm[start:end][:CLIP]
        clip[: len(part), 0] = part
    return Data("audio", {"x": clips, "y": data["y"]})


def _table(path: Path) -> Data:
    rows = [row for row in csv.reader(path.open(), skipinitialspace=True) if len(row) == 15]
    *features, label = zip(*rows, strict=True)
    x = np.stack([_numbers(feature) for feature in features], axis=1)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return Data("table", {"x": x.astype(np.float32), "y": np.unique(label, return_inverse=True)[1]})


def _numbers(feature: tuple[str, ...]) -> np.ndarray:
    try:
        return np.array(feature, float)
    except ValueError:
        return np.unique(feature, return_inverse=True)[1].astype(float)


def _windows(name: str, pieces: list[str], dtype: type) -> Data:
    numbers = np.unique(pieces, return_inverse=True)[1].astype(dtype)
    count = (len(numbers) - 1) // WINDOW
    x = numbers[: count * WINDOW].reshape(count, WINDOW)
    return Data(name, {"x": x, "y": numbers[1 : count * WINDOW + 1].reshape(count, WINDOW)})


# -- formats ---------------------------------------------------------------------------------


def best(work: Callable[[], Any], times: int) -> tuple[float, Any]:
    """Return the processor seconds of one call, and what it returned."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        result = work()
        taken.append(time.process_time() - start)
    return min(taken), result


def ours(data: Data, times: int, **how: Any) -> tuple[int, float, float, str]:
    """Return bytes, seconds to write and to read, and the forms that were chosen."""
    columns: dict[str, Any] = {}
    for name, array in data.arrays.items():
        found = survey(name, array)
        columns[name] = Column(found, travel_type([found]))
    if data.files is not None:
        columns["x"] = data.files
    source = SimpleNamespace(train=columns, test=None)
    with tempfile.TemporaryDirectory() as folder:
        encode_s, made = best(lambda: cut(source, Path(folder), validation=0, **how), times)
        read = [chunk.path.read_bytes() for chunk in made]
    decode_s, _ = best(lambda: [chunks.decode(one) for one in read], times)
    return sum(map(len, read)), encode_s, decode_s, _forms(read[0])


def _forms(chunk: bytes) -> str:
    from handcar.wire import container

    told = container.unpack(chunk)[0]["columns"]
    return ", ".join(" ".join([one["form"], one.get("coder", "")]).strip() for one in told)


def _savez(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _from_npz(data: bytes) -> None:
    with np.load(BytesIO(data)) as found:
        for name in found.files:
            found[name].sum()


def _save(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = BytesIO()
    for array in arrays.values():
        np.save(buffer, array)
    return buffer.getvalue()


def _from_npy(data: bytes) -> None:
    buffer = BytesIO(data)
    while buffer.tell() < len(data):
        np.load(buffer)


def _mat(arrays: dict[str, np.ndarray]) -> bytes:
    from scipy import io

    buffer = BytesIO()
    io.savemat(buffer, arrays, do_compression=True)
    return buffer.getvalue()


def _from_mat(data: bytes) -> None:
    from scipy import io

    io.loadmat(BytesIO(data))


NUMPY = {
    ".mat, compressed": (_mat, _from_mat),
    "np.save": (_save, _from_npy),
    "np.savez_compressed": (_savez, _from_npz),
}


def _text(data: Data) -> tuple[float, float, float]:
    rows = np.concatenate([a.reshape(len(a), -1) for a in data.arrays.values()], axis=1)
    part = rows[::TEXT_PART]
    buffer = BytesIO()
    encode_s, _ = best(lambda: np.savetxt(buffer, part, fmt="%.7g"), 1)
    decode_s, _ = best(lambda: np.loadtxt(BytesIO(buffer.getvalue())), 1)
    times = len(rows) / len(part)
    return buffer.tell() * times, encode_s * times, decode_s * times


def peers(data: Data, python: str) -> dict[str, Any]:
    """Return what other libraries make of the same records."""
    given = dict(data.arrays)
    if data.files is not None:
        rows = data.files.rows(np.arange(len(given["y"])))
        given = {"files": rows.files, "lengths": rows.lengths, "y": given["y"]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.npz"
        np.savez(path, **given)
        done = subprocess.run([python, PEERS, path], capture_output=True, check=False)
    if done.returncode:
        return {"peers": f"failed: {done.stderr.decode()[-200:]}"}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# -- report ----------------------------------------------------------------------------------


class Report:
    """The lines of the table, and the bars."""

    def __init__(self, quick: bool, python: str | None) -> None:
        self.times = 1 if quick else 3
        self.quick = quick
        self.python = None if quick else python
        self.rows: list[Row] = []
        self.bars: list[Bar] = []

    def add(self, data: Data) -> None:
        """Measure one data set with everything."""
        whole = self._base(data)
        found = ours(data, self.times)
        self._row(data, f"ours: {found[3]}", whole, found[:3])
        if data.name in ("cifar", "flowers", "mnist", "jpeg"):
            self.bars.append(Bar(f"chunk.{data.name}", found[0] / whole, "x"))
        if data.name == "cifar":
            lossy = ours(data, self.times, lossy_quality=90)
            self._row(data, "ours, lossy, quality 90", whole, lossy[:3])
        for name, (write, read) in NUMPY.items():
            encode_s, made = best(lambda write=write: write(data.arrays), 1)
            decode_s, _ = best(lambda read=read, made=made: read(made), self.times)
            self._row(data, name, whole, (len(made), encode_s, decode_s))
        if not self.quick:
            self._row(data, "np.savetxt", whole, _text(data))
        for name, figures in (peers(data, self.python) if self.python else {}).items():
            self._row(data, name, whole, figures)

    def _base(self, data: Data) -> int:
        if data.files is not None:
            return int(data.files.offsets[-1])
        return len(_savez(data.arrays))

    def _row(self, data: Data, name: str, whole: int, figures: Any) -> None:
        if isinstance(figures, str):
            self.rows.append((data.name, name, figures, "", "", ""))
            return
        size, encode_s, decode_s = figures
        speeds = [data.raw / 1e6 / max(seconds, 1e-6) for seconds in (encode_s, decode_s)]
        self.rows.append((data.name, name, size / 1e6, size / whole, *speeds))


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    folder = os.environ.get("HANDCAR_DATA")
    found = Report(wanted.quick, os.environ.get("HANDCAR_PEERS"))
    title = "Chunks beside other formats"
    if folder:
        for data in data_sets(Path(folder)):
            found.add(data)
    else:
        title = "Nothing was measured: HANDCAR_DATA names no folder of data sets"
    if folder and not found.python:
        title += "; HANDCAR_PEERS names no Python with the other libraries, or --quick was given"
    columns = ("data", "format", "MB", "share", "encode MB/s", "decode MB/s")
    report(wanted, title, columns, found.rows, found.bars)


if __name__ == "__main__":
    main()
