"""From an owner's records to chunks: shuffle, choose the coding, cut.

The first chunks are small and the later ones large: a volunteer trains as soon as it has one,
and many small ones would cost requests. Each is a random sample of all records.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from handcar import files
from handcar.data import chunks
from handcar.data.spec import DECODED_BYTES
from handcar.errors import DataError
from handcar.files import KB, MB
from handcar.protocol import limits

FIRST_BYTES = 256 * KB
"""The first chunks, coded: a quarter of a second at 8 Mbit/s."""
CHUNK_BYTES = 4 * MB
"""Most chunks, coded: four seconds at 8 Mbit/s, and 2,500 of them for 10 GB."""
A_SIZE = 4
"""So many chunks of a size before the next ones are twice as large."""
CHUNK_DECODED_BYTES = 32 * MB
"""Decoded, and so a volunteer's memory while it decodes, and what one open block may page in."""
LEAST_CHUNKS = 8
"""Enough for volunteers to start on different ones; given up below 16 records a chunk."""
LEAST_CHUNK_RECORDS = 16
SAMPLE_BYTES = 2 * MB
"""Decoded bytes of a random sample, from which coding and sizes are chosen for all."""

Split = Literal["train", "validation"]
Rows = NDArray[np.int64]


class Cuttable(Protocol):
    """A column that gives its records by their numbers, sorted."""

    def rows(self, numbers: Rows) -> chunks.Column:
        """Return these records, as `chunks.encode` takes them."""

    @property
    def record_bytes(self) -> int:
        """How many bytes one record takes, decoded."""

    @property
    def survey(self) -> Any:
        """What there is to know of the column: `records` among it."""


Part = Mapping[str, Cuttable]


class Cuttables(Protocol):
    """What is cut: the parts of a data set."""

    @property
    def train(self) -> Part:
        """The records to train on."""

    @property
    def test(self) -> Part | None:
        """Records to measure on, where the data set brings its own."""


@dataclass(frozen=True, slots=True)
class CutChunk:
    """One chunk as a file, and what a manifest says of it."""

    path: Path
    digest: str
    size: int
    records: int
    split: Split
    codec: str
    decoded: int
    """Bytes once decoded."""

    @property
    def file_name(self) -> str:
        """The name that people see."""
        return self.path.name


def cut(
    source: Cuttables,
    folder: Path,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    validation: float = 0.1,
    seed: int = 0,
    lossy_quality: int | None = None,
) -> list[CutChunk]:
    """Write the chunks of a source to `folder`: shuffled, so each is a fair sample.

    The source's own test records become validation chunks, else the share `validation` of
    all. `chunk_bytes` is what most chunks take at most, coded. With `lossy_quality`, from 1 to
    100, pictures are coded as JPEG files of that quality, not exactly. The same seed and
    libraries give the same chunks, so whoever was interrupted cuts again. Raises DataError
    when records are too large.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(_records(source.train))
    if source.test is not None:
        held_back, kept = source.test, rng.permutation(_records(source.test))
    else:
        count = round(len(order) * validation)
        held_back, kept, order = source.train, order[:count], order[count:]
    sample = _sampled(source.train, rng, lossy_quality)
    cutter = _Cutter(folder, sample, chunk_bytes)
    checking = even_sizes(len(kept), cutter.records_of(chunk_bytes))
    free = limits.CHUNKS_A_DATA_SET - len(checking)
    training = graded_sizes(len(order), cutter.records_of, chunk_bytes, free)
    return [
        *cutter.cut("train", source.train, order, training),
        *cutter.cut("validation", held_back, kept, checking),
    ]


def _records(part: Part) -> int:
    return int(next(iter(part.values())).survey.records)


# -- how many records a chunk has ------------------------------------------------------------


RecordsOf = Callable[[int], int]
"""How many records fill a chunk of so many bytes, coded."""


def even_sizes(records: int, most: int, least: int = 1) -> list[int]:
    """Return the records of each chunk: about equal, at most `most`, at least `least` chunks."""
    if not records:
        return []
    count = min(max(math.ceil(records / most), least), records)
    each, larger = divmod(records, count)
    return [each + 1] * larger + [each] * (count - larger)


def graded_sizes(records: int, records_of: RecordsOf, chunk_bytes: int, free: int) -> list[int]:
    """Return the records of each chunk, small ones first, in at most `free` chunks."""
    few = LEAST_CHUNKS if records >= LEAST_CHUNKS * LEAST_CHUNK_RECORDS else 1
    sizes = list(_graded(records, records_of, chunk_bytes))
    if len(sizes) < few:
        return even_sizes(records, records, few)
    if len(sizes) > free:
        return even_sizes(records, math.ceil(records / free))
    return sizes


def _graded(records: int, records_of: RecordsOf, chunk_bytes: int) -> Iterator[int]:
    left, size, number = records, min(FIRST_BYTES, chunk_bytes), 0
    while left:
        wanted = records_of(size)
        # What would be a small last chunk goes with the one before it.
        taken = left if left < 1.5 * wanted else wanted
        yield taken
        left, number = left - taken, number + 1
        if number % A_SIZE == 0:
            size = min(2 * size, chunk_bytes)


# -- what a record takes ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sample:
    choices: Mapping[str, chunks.Choice]
    coded_record: float
    decoded_record: int


def _sampled(part: Part, rng: np.random.Generator, lossy_quality: int | None) -> _Sample:
    """Choose the coding on a random sample, and measure what a record takes with it."""
    decoded_record = sum(column.record_bytes for column in part.values())
    _expect_small(1, decoded_record)
    records = _records(part)
    count = min(records, max(1, SAMPLE_BYTES // decoded_record))
    numbers = np.sort(rng.choice(records, count, replace=False))
    columns = {name: column.rows(numbers) for name, column in part.items()}
    choices = chunks.choose(columns, lossy_quality=lossy_quality)
    coded = len(chunks.encode(columns, choices))
    return _Sample(choices, coded / count, decoded_record)


def _expect_small(records: int, decoded_record: int) -> None:
    decoded = records * decoded_record
    if decoded > DECODED_BYTES:
        raise DataError(
            f"{records} records of a chunk take {decoded:,} bytes, and may take "
            f"{DECODED_BYTES:,}: make the records smaller"
        )


# -- cutting ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cutter:
    folder: Path
    sample: _Sample
    chunk_bytes: int

    def records_of(self, coded_bytes: int) -> int:
        """Return how many records fill a chunk, coded, without becoming too large decoded."""
        by_coded = coded_bytes / self.sample.coded_record
        return max(1, int(min(by_coded, CHUNK_DECODED_BYTES / self.sample.decoded_record)))

    def cut(self, split: Split, part: Part, order: Rows, sizes: list[int]) -> list[CutChunk]:
        """Write the records of `order` as chunks of these sizes."""
        pieces = np.split(order, np.cumsum(sizes)[:-1]) if sizes else []

        def write(number: int) -> CutChunk:
            return self._write(split, number, part, np.sort(pieces[number]))

        # Every coder lets go of Python's lock.
        with ThreadPoolExecutor(os.cpu_count() or 1, "cut") as pool:
            return list(pool.map(write, range(len(pieces))))

    def _write(self, split: Split, number: int, part: Part, numbers: Rows) -> CutChunk:
        _expect_small(len(numbers), self.sample.decoded_record)
        columns = {name: column.rows(numbers) for name, column in part.items()}
        data = chunks.encode(columns, self.sample.choices)
        if len(data) > limits.CHUNK_BYTES:
            raise DataError(
                f"a chunk of {len(numbers)} records takes {len(data):,} bytes, and may take "
                f"{limits.CHUNK_BYTES:,}: make the records smaller"
            )
        path = self.folder / f"{split}-{number:05}.chunk"
        files.write(path, data)
        return CutChunk(
            path=path,
            digest=files.digest(data),
            size=len(data),
            records=len(numbers),
            split=split,
            codec=chunks.codec_name(self.sample.choices),
            decoded=len(numbers) * self.sample.decoded_record,
        )
