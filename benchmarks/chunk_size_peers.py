"""What other libraries make of the same records; run by chunk_size.py with their own Python.

    python chunk_size_peers.py RECORDS.npz

`x` and `y` are in the file, and for JPEG files `files` and `lengths` in place of `x`. Prints
one JSON object: format -> [bytes, seconds to write, seconds to read], or why there is none.
Seconds are the processor's, of this process alone.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np


class Records:
    """The records, one by one, as each library would like them."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as data:
            self.columns = {name: data[name] for name in data.files}
        self.y = self.columns["y"]
        self.jpeg = "files" in self.columns
        x = self.columns.get("x")
        self.pictures = x is not None and x.dtype == np.uint8 and x.shape[2:] in ((28,), (32, 3))

    def __len__(self) -> int:
        return len(self.y)

    def each(self) -> Iterator[tuple[Any, Any]]:
        """Return (x, y) of each record: bytes of a JPEG file, or an array."""
        xs = self._files() if self.jpeg else iter(self.columns["x"])
        return zip(xs, self.y, strict=True)

    def _files(self) -> Iterator[bytes]:
        ends = np.cumsum(self.columns["lengths"])
        whole = self.columns["files"].tobytes()
        for length, end in zip(self.columns["lengths"], ends, strict=True):
            yield whole[end - length : end]

    @property
    def kind(self) -> str:
        """How libraries that know pictures keep x."""
        return "jpeg" if self.jpeg else "png" if self.pictures else "npy"


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _png(array: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _webdataset(records: Records, folder: Path) -> tuple[int, Callable[[], None]]:
    import webdataset

    tar = folder / "records.tar"
    ending = {"jpeg": "jpg", "png": "png", "npy": "npy"}[records.kind]
    encode = {"jpeg": bytes, "png": _png, "npy": _npy}[records.kind]
    with webdataset.TarWriter(str(tar)) as writer:
        for number, (x, y) in enumerate(records.each()):
            sample = {"__key__": f"{number:08}", ending: encode(x)}
            y_part = {"cls": str(int(y)).encode()} if y.ndim == 0 else {"y.npy": _npy(y)}
            writer.write(sample | y_part)

    def read() -> None:
        data = webdataset.WebDataset(str(tar), shardshuffle=False).decode("rgb8")
        assert sum(1 for _ in data) == len(records)

    return tar.stat().st_size, read


def _mds(records: Records, folder: Path) -> tuple[int, Callable[[], None]]:
    import streaming
    from PIL import Image

    kind = {"jpeg": "bytes", "png": "png", "npy": "ndarray"}[records.kind]
    columns = {"x": kind, "y": "ndarray"}
    remote, local = folder / "remote", folder / "local"
    with streaming.MDSWriter(out=str(remote), columns=columns, compression="zstd:9") as writer:
        for x, y in records.each():
            given = Image.fromarray(x) if kind == "png" else x
            writer.write({"x": given, "y": np.atleast_1d(y)})

    def read() -> None:
        data = streaming.StreamingDataset(
            remote=str(remote), local=str(local), batch_size=1, shuffle=False
        )
        for one in data:
            picture = Image.open(io.BytesIO(one["x"])) if records.jpeg else one["x"]
            np.asarray(picture)

    return _folder_bytes(remote), read


def _parquet(records: Records, folder: Path) -> tuple[int, Callable[[], None]]:
    import pyarrow as pa
    from PIL import Image
    from pyarrow import parquet

    path = folder / "records.parquet"
    xs, ys = zip(*records.each(), strict=True)
    if records.kind == "npy":
        flat = records.columns["x"].reshape(len(records), -1)
        # A table has a column a feature; longer records are lists.
        if flat.shape[1] <= 64 and flat.dtype.kind == "f":
            table = {f"x{number}": column for number, column in enumerate(flat.T)}
        else:
            table = {"x": pa.FixedSizeListArray.from_arrays(flat.reshape(-1), flat.shape[1])}
    else:
        table = {"x": pa.array([_png(x) if records.kind == "png" else x for x in xs])}
    y = np.stack(ys).reshape(len(records), -1)
    table["y"] = pa.FixedSizeListArray.from_arrays(y.reshape(-1), y.shape[1])
    parquet.write_table(pa.table(table), path, compression="zstd", compression_level=9)

    def read() -> None:
        found = parquet.read_table(path)
        for one in found["x"].to_pylist() if records.kind != "npy" else ():
            np.asarray(Image.open(io.BytesIO(one)))

    return path.stat().st_size, read


def _litdata(records: Records, folder: Path) -> tuple[int, Callable[[], None]]:
    import litdata
    from litdata.streaming.writer import BinaryWriter
    from PIL import Image

    writer = BinaryWriter(str(folder), chunk_bytes="4MB", compression="zstd")
    for number, (x, y) in enumerate(records.each()):
        writer.add_item(number, {"x": x, "y": np.atleast_1d(y)})
    writer.done()
    writer.merge()

    def read() -> None:
        for one in litdata.StreamingDataset(str(folder)):
            picture = Image.open(io.BytesIO(one["x"])) if records.jpeg else one["x"]
            np.asarray(picture)

    return _folder_bytes(folder), read


PEERS = {
    "WebDataset tar": ("webdataset", _webdataset),
    "MosaicML MDS zstd": ("streaming", _mds),
    "Parquet zstd": ("pyarrow", _parquet),
    "LitData zstd": ("litdata", _litdata),
}


def measured(needs: str, write: Callable[..., Any], records: Records) -> list[float] | str:
    """Return bytes and seconds of one format, or why there are none."""
    try:
        importlib.import_module(needs)
    except ImportError as fault:
        return f"not installed: {fault}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            size, read = write(records, Path(folder))
            written = time.process_time()
            read()
            return [size, written - start, time.process_time() - written]
    except Exception as fault:  # one peer's trouble must not hide the others' figures
        return f"failed: {type(fault).__name__}: {fault}"[:200]


def main() -> None:
    """Measure all of them."""
    records = Records(Path(sys.argv[1]))
    with redirect_stdout(sys.stderr):
        found = {name: measured(*how, records) for name, how in PEERS.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
