"""No reader takes more memory for more data: each runs within a limit below its file's size."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

MB = 1 << 20
ROOM = 160 * MB
"""For pieces in flight, on top of what the process has when it begins."""
PROGRAM = """
import resource, sys
from pathlib import Path
import h5py, numpy, pyarrow.parquet, PIL.Image
from handcar.data.importers import read
from handcar.data.reading import Options

status = Path("/proc/self/status").read_text()
now = int(status.split("VmData:")[1].split()[0]) * 1024
limit = now + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
with read(Path(sys.argv[1]), folder=Path(sys.argv[1]).parent) as source:
    print(source.records)
"""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux limits the memory of a process so"
)


def limited(path: Path, room: int = ROOM) -> int:
    """Read in a process that may take `room` bytes more than an idle one; return the records."""
    command = [sys.executable, "-c", PROGRAM, str(path), str(room)]
    # Arrow's own allocators set aside much more than they use.
    environment = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


def sparse_npy(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Write an array of zeros that takes no disk."""
    with path.open("wb") as file:
        header = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
        npy.write_array_header_1_0(file, {**header, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)) * np.dtype(dtype).itemsize)


def test_the_limit_bites(tmp_path):
    sparse_npy(tmp_path / "x.npy", (1_000_000, 400), "u1")
    program = PROGRAM.replace("print(source.records)", "bytearray(400 << 20)")
    command = [sys.executable, "-c", program, str(tmp_path / "x.npy"), str(ROOM)]
    sparse_npy(tmp_path / "y.npy", (1_000_000,), "u1")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "MemoryError" in done.stderr


def test_npy(tmp_path):
    sparse_npy(tmp_path / "x.npy", (1_000_000, 800), "u1")
    sparse_npy(tmp_path / "y.npy", (1_000_000,), "u1")
    assert limited(tmp_path) == 1_000_000


def test_npz_that_is_compressed(tmp_path):
    sparse_npy(tmp_path / "x.npy", (300_000, 800), "u1")
    sparse_npy(tmp_path / "y.npy", (300_000,), "u1")
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in "xy":
            archive.write(tmp_path / f"{name}.npy", f"{name}.npy")
    assert limited(tmp_path / "d.npz") == 300_000


def test_a_packed_variable_of_a_mat_file(tmp_path):
    import zlib

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    def variable(name: str, shape: tuple[int, ...]) -> bytes:
        head = element(6, struct.pack("<II", 9, 0))
        head += element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name.encode())
        count = int(np.prod(shape))
        total = len(head) + 8 + count + -count % 8
        pack = zlib.compressobj(1)
        packed = pack.compress(struct.pack("<II", 14, total) + head + struct.pack("<II", 2, count))
        for _ in range(count // MB):
            packed += pack.compress(bytes(MB))
        packed += pack.compress(bytes(count % MB + -count % 8)) + pack.flush()
        return struct.pack("<II", 15, len(packed)) + packed

    records = 120_000
    body = variable("X", (32, 32, 3, records)) + variable("y", (records, 1))
    (tmp_path / "d.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + body)
    assert limited(tmp_path / "d.mat") == records


def test_a_mat_file_of_version_73(tmp_path):
    import h5py

    with h5py.File(tmp_path / "d.mat", "w", userblock_size=512) as file:
        shape, chunks = (400_000, 3, 16, 16), (100, 3, 16, 16)
        file.create_dataset("X", shape, "u1", chunks=chunks, compression="gzip")
        file["y"] = np.zeros((1, 400_000))
    with (tmp_path / "d.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124))
    assert limited(tmp_path / "d.mat") == 400_000


def test_text(tmp_path):
    line = b"It takes no more memory than a few pieces of it, however long it is.\n"
    with (tmp_path / "d.txt").open("wb") as file:
        for _ in range(220):
            file.write(line * (MB // len(line)))
    assert limited(tmp_path / "d.txt") > 3_000_000


def test_csv(tmp_path):
    """A table is read more slowly, so the limit is closer instead of the file larger."""
    numbers = np.random.default_rng(0).integers(0, 100_000, (150_000, 8)) / 8
    np.savetxt(tmp_path / "d.csv", numbers, delimiter=",", fmt="%.3f")
    # As Python's texts all of it would take 70 MB and more.
    assert limited(tmp_path / "d.csv", 48 * MB) == 150_000


def test_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    schema = pa.schema({"prose": pa.string(), "a": pa.float64(), "label": pa.int8()})
    path = tmp_path / "d.parquet"
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        for first in range(0, 200_000, 2000):
            prose = [f"{first + at}".zfill(2000) for at in range(2000)]
            columns = [prose, rng.normal(size=2000), rng.integers(0, 9, 2000, dtype=np.int8)]
            arrays = [
                pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)
            ]
            file.write_batch(pa.record_batch(arrays, schema=schema))
    assert path.stat().st_size > 350 * MB
    assert limited(path) == 200_000
