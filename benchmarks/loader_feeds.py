"""One loader in a process of its own; run by loader.py.

    python loader_feeds.py NAME

Reads lines `FOLDER BATCH SECONDS` and answers each with records per second. A folder holds the
same records in each loader's own form, made of blocks by `loader_feeds.py write FOLDER`. Every
loader shuffles, has one worker (a thread or a process, as it does best), and is a fresh one
per line. The time starts with its second batch: starting up is no part of it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["GRPC_VERBOSITY"] = "ERROR"

import numpy as np

SHARDS = 4
SHUFFLE = 16_384
"""Records in tf.data's shuffle buffer; ours, and the others, shuffle over more."""
AT_ONCE = 100
"""Batches that are drawn between two looks at the clock, where Python does not see each."""


def kind(folder: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return a record's shape and its numbers' type."""
    x = np.load(folder / "x.npy", mmap_mode="r")
    return x.shape[1:], x.dtype


def count_each(batches: Iterator[Any], batch: int, seconds: float) -> float:
    """Return records per second of batches that Python sees one by one.

    Below nought, `seconds` are batches, all of which are counted, the first too.
    """
    start = time.perf_counter()
    if seconds > 0:
        next(batches)
        start = time.perf_counter()
    for count, _ in enumerate(batches, 1):
        passed = time.perf_counter() - start
        if passed >= seconds > 0 or count == -seconds:
            return count * batch / passed
    raise ValueError("the data set has too few records")


def count_tensors(
    dataset: Any, batch: int, seconds: float, use: Callable[[int], None] | None = None
) -> float:
    """Return the same of a tf.data.Dataset drawn in a graph, as Keras does it.

    `use` is told how many batches were drawn, each time that Python sees it.
    """
    import tensorflow as tf

    iterator = iter(dataset)

    @tf.function
    def some() -> None:
        for _ in tf.range(AT_ONCE):
            next(iterator)

    start, count = time.perf_counter(), 0
    if seconds > 0:
        some()
        start = time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds or count < -seconds:
        some()
        count += AT_ONCE
        if use is not None:
            use(AT_ONCE)
    return count * batch / passed


# -- the loaders -----------------------------------------------------------------------------


def ours(folder: Path, batch: int, seconds: float) -> float:
    """Handcar, as JAX and PyTorch take it."""
    os.environ["KERAS_BACKEND"] = "jax"
    feed = _feed(folder, batch)
    try:
        return count_each(_each(feed), batch, seconds)
    finally:
        feed.close()


def ours_in_process(folder: Path, batch: int, seconds: float) -> float:
    """Handcar's sampler without the thread: nothing is ahead."""
    from handcar.volunteer.feed import at_once

    sampler = _sampler(folder, batch)
    one = sampler.draw(1)
    count = at_once(one.x.nbytes + one.y.nbytes)

    def batches() -> Iterator[Any]:
        while True:
            piece = sampler.draw(count)
            yield from zip(piece.x, piece.y, strict=True)

    return count_each(batches(), batch, seconds)


def ours_tensorflow(folder: Path, batch: int, seconds: float) -> float:
    """Handcar, as TensorFlow takes it."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    feed = _feed(folder, batch)
    try:
        return count_tensors(feed.batches(10**9), batch, seconds, feed.use)
    finally:
        feed.close()


def _each(feed: Any) -> Iterator[Any]:
    for batch in feed.batches(10**9):
        yield batch
        feed.use()


def _feed(folder: Path, batch: int) -> Any:
    from handcar.volunteer.feed import Feed

    return Feed(_sampler(folder, batch))


def _sampler(folder: Path, batch: int) -> Any:
    from handcar.data.blocks import BlockStore
    from handcar.data.order import Sampler

    store = BlockStore(folder / "blocks")
    sampler = Sampler(store.open, batch_size=batch, seed=0)
    for digest in store.digests():
        sampler.add(digest)
    return sampler


class Gather:
    """Whole batches by their records' numbers, from memory-mapped arrays."""

    def __init__(self, folder: Path) -> None:
        self.x = np.load(folder / "x.npy", mmap_mode="r")
        self.y = np.load(folder / "y.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> tuple[Any, Any]:
        return self.x[rows], self.y[rows]


def dataloader(folder: Path, batch: int, seconds: float, workers: int = 1) -> float:
    """PyTorch's, with whole batches gathered, as its documentation advises for bulk reading."""
    from torch.utils import data

    records = Gather(folder)
    rows = data.BatchSampler(data.RandomSampler(records), batch, drop_last=True)
    loader = data.DataLoader(records, sampler=rows, batch_size=None, num_workers=workers)
    return count_each(_again(lambda: loader), batch, seconds)


def dataloader_in_process(folder: Path, batch: int, seconds: float) -> float:
    """The same without a worker: nothing is copied between processes, nothing is ahead."""
    return dataloader(folder, batch, seconds, workers=0)


def dataloader_records(folder: Path, batch: int, seconds: float) -> float:
    """PyTorch's as it is used most: record by record."""
    from torch.utils import data

    loader = data.DataLoader(Gather(folder), batch, shuffle=True, num_workers=1, drop_last=True)
    return count_each(_again(lambda: loader), batch, seconds)


def grain(folder: Path, batch: int, seconds: float) -> float:
    """Grain, with whole batches gathered."""
    import grain.python as grain

    records = Gather(folder)
    rows = grain.MapDataset.range(len(records)).seed(0).shuffle().repeat()
    batches = rows.batch(batch, drop_remainder=True).map(lambda some: records[np.asarray(some)])
    made = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=16))
    return count_each(iter(made), batch, seconds)


def grain_records(folder: Path, batch: int, seconds: float) -> float:
    """Grain as its documentation shows it: record by record."""
    import grain.python as grain

    rows = grain.MapDataset.source(Gather(folder)).seed(0).shuffle().repeat()
    made = rows.batch(batch, drop_remainder=True).to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=16)
    )
    return count_each(iter(made), batch, seconds)


def tf_data(folder: Path, batch: int, seconds: float) -> float:
    """tf.data over files of records of fixed length, decoded a batch at a time."""
    import tensorflow as tf

    shape, dtype = kind(folder)
    x_bytes = int(np.prod(shape)) * dtype.itemsize

    def decode(raw: Any) -> Any:
        x = tf.io.decode_raw(tf.strings.substr(raw, 0, x_bytes), tf.as_dtype(dtype))
        y = tf.io.decode_raw(tf.strings.substr(raw, x_bytes, 8), tf.int64)
        return tf.reshape(x, (-1, *shape)), y[:, 0]

    files = tf.data.Dataset.list_files(str(folder / "fixed" / "*"), shuffle=True)
    records = files.interleave(
        lambda name: tf.data.FixedLengthRecordDataset(name, x_bytes + 8), cycle_length=SHARDS
    )
    return _tf_count(
        records.shuffle(SHUFFLE).repeat().batch(batch, drop_remainder=True).map(decode),
        batch,
        seconds,
    )


def tf_data_slices(folder: Path, batch: int, seconds: float) -> float:
    """tf.data over tensors that hold all the data in memory."""
    import tensorflow as tf

    arrays = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    records = tf.data.Dataset.from_tensor_slices(arrays)
    return _tf_count(
        records.shuffle(SHUFFLE).repeat().batch(batch, drop_remainder=True), batch, seconds
    )


def _tf_count(dataset: Any, batch: int, seconds: float) -> float:
    import tensorflow as tf

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    return count_tensors(dataset.prefetch(2).with_options(options), batch, seconds)


def streaming(folder: Path, batch: int, seconds: float) -> float:
    """MosaicML streaming, from local MDS files that are not compressed."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    clean_stale_shared_memory()
    records = StreamingDataset(local=str(folder / "mds"), shuffle=True, batch_size=batch)
    loader = DataLoader(records, batch, num_workers=1, drop_last=True)
    return count_each(_again(lambda: loader), batch, seconds)


def _again(loader: Callable[[], Any]) -> Iterator[Any]:
    while True:
        yield from loader()


# -- the data --------------------------------------------------------------------------------


def write(folder: Path) -> None:
    """Write the records of the blocks again as the other loaders' users would."""
    for name in ("x", "y"):
        parts = sorted(folder.glob(f"blocks/*/{name}.npy"))
        np.save(folder / f"{name}.npy", np.concatenate([np.load(part) for part in parts]))
    x, y = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")
    (folder / "fixed").mkdir()
    shards = zip(np.array_split(x, SHARDS), np.array_split(y, SHARDS), strict=True)
    for number, (part, labels) in enumerate(shards):
        rows = [part.reshape(len(part), -1).view(np.uint8), labels[:, None].view(np.uint8)]
        np.concatenate(rows, axis=1).tofile(folder / "fixed" / str(number))
    try:
        from streaming import MDSWriter
    except ImportError:
        return
    form = f"ndarray:{x.dtype}:{','.join(map(str, x.shape[1:]))}"
    with MDSWriter(out=str(folder / "mds"), columns={"x": form, "y": "int"}) as out:
        for one, label in zip(x, y, strict=True):
            out.write({"x": np.asarray(one), "y": int(label)})


# -- memory ----------------------------------------------------------------------------------


def peak_memory(folder: Path, limit: int) -> dict[str, int]:
    """Return the peaks of this process, in bytes, over two passes of ours."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    records = sum(len(np.load(path, mmap_mode="r")) for path in folder.glob("blocks/*/y.npy"))
    feed, drawn, peaks = _feed(folder, 256), 0, {"anonymous": 0, "mapped": 0}
    while drawn < 2 * records:
        x, _ = next(feed.pieces(1))
        feed.use()
        drawn += len(x[0])
        lines = Path("/proc/self/status").read_text().splitlines()
        status = dict(line.split(":") for line in lines)
        for what, line in (("anonymous", "RssAnon"), ("mapped", "RssFile")):
            peaks[what] = max(peaks[what], 1024 * int(status[line].split()[0]))
    feed.close()
    return peaks


LOADERS: dict[str, Callable[[Path, int, float], float]] = {
    "ours": ours,
    "ours, no worker": ours_in_process,
    "ours, TensorFlow": ours_tensorflow,
    "DataLoader": dataloader,
    "DataLoader, no worker": dataloader_in_process,
    "DataLoader, by record": dataloader_records,
    "Grain": grain,
    "Grain, by record": grain_records,
    "tf.data": tf_data,
    "tf.data, in memory": tf_data_slices,
    "streaming": streaming,
}


def main() -> None:
    """Answer each line."""
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
        return
    if sys.argv[1] == "memory":
        print(json.dumps(peak_memory(Path(sys.argv[2]), int(sys.argv[3]))))
        return
    # The libraries may print there; only the answers are to be read.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        folder, batch, seconds = line.split()
        try:
            found: Any = LOADERS[sys.argv[1]](Path(folder), int(batch), float(seconds))
        except ImportError as error:
            found = f"not installed: {error.name}"
        except Exception as error:  # noqa: BLE001 - told in the table
            found = f"failed: {type(error).__name__}: {str(error)[:100]}"
        print(json.dumps(found), file=answers)


if __name__ == "__main__":
    main()
