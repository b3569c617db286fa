"""The first batch that another library's loader gives; run by first_step.py with its own Python.

    python first_step_peers.py LIBRARY write FOLDER RECORDS.npz
    python first_step_peers.py LIBRARY read ADDRESS CACHE

`write` keeps pictures and labels as the library does by default, in shards of 64 MB (WebDataset:
one tar). `read` prints the seconds from the made loader's first request to its first batch of 32,
the library loaded already; it asks at ADDRESS, of a server of files that looks like S3 to it.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32
BUFFER = 1000
"""What the libraries shuffle among."""
SHARD = 64 * 2**20


def _png(array: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def _write_webdataset(records: Iterator[tuple[Any, int]], folder: Path) -> None:
    import webdataset

    with webdataset.TarWriter(str(folder / "records.tar")) as writer:
        for number, (x, y) in enumerate(records):
            writer.write({"__key__": f"{number:08}", "png": _png(x), "cls": str(y).encode()})


def _read_webdataset(address: str, cache: Path) -> Iterator[Any]:
    import webdataset

    data = webdataset.WebDataset(f"{address}/bucket/records.tar", shardshuffle=False)
    for x, _ in data.shuffle(BUFFER).decode("rgb8").to_tuple("png", "cls"):
        yield x


def _write_mds(records: Iterator[tuple[Any, int]], folder: Path) -> None:
    import streaming
    from PIL import Image

    columns = {"x": "png", "y": "int"}
    with streaming.MDSWriter(out=str(folder), columns=columns, size_limit=SHARD) as writer:
        for x, y in records:
            writer.write({"x": Image.fromarray(x), "y": y})


def _read_mds(address: str, cache: Path) -> Iterator[Any]:
    import streaming

    os.environ["S3_ENDPOINT_URL"] = address
    data = streaming.StreamingDataset(
        remote="s3://bucket", local=str(cache), batch_size=BATCH, shuffle=True
    )
    for one in data:
        yield np.asarray(one["x"])


def _write_litdata(records: Iterator[tuple[Any, int]], folder: Path) -> None:
    from litdata.streaming.writer import BinaryWriter
    from PIL import Image

    writer = BinaryWriter(str(folder), chunk_bytes="64MB")
    for number, (x, y) in enumerate(records):
        picture = Image.open(io.BytesIO(_png(x)))  # as a PNG file, as it keeps pictures
        writer.add_item(number, {"x": picture, "y": y})
    writer.done()
    writer.merge()


def _read_litdata(address: str, cache: Path) -> Iterator[Any]:
    import litdata
    from litdata.streaming import downloader

    # One of its two ways to S3 insists on https.
    downloader._OBSTORE_AVAILABLE = False
    data = litdata.StreamingDataset(
        "s3://bucket",
        cache_dir=str(cache),
        shuffle=True,
        storage_options={"endpoint_url": address},
    )
    for one in data:
        yield np.asarray(one["x"])


PEERS = {
    "webdataset": (_write_webdataset, _read_webdataset),
    "streaming": (_write_mds, _read_mds),
    "litdata": (_write_litdata, _read_litdata),
}


def main() -> None:
    """Write or read."""
    library, doing, place, other = sys.argv[1:]
    write, read = PEERS[library]
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1"}
    __import__(library)
    with redirect_stdout(sys.stderr):
        if doing == "write":
            data = np.load(other)
            pairs = zip(data["x"], (int(y) for y in data["y"]), strict=True)
            write(pairs, Path(place))
            return
        began = time.monotonic()
        batches = read(place, Path(other))
        for _ in range(BATCH):
            next(batches)
        seconds = time.monotonic() - began
    print(seconds)
    sys.stdout.flush()
    os._exit(0)  # some leave threads that go on downloading


if __name__ == "__main__":
    main()
