"""Cutting: every record in one chunk, each chunk a fair sample, the same chunks each time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from handcar import files
from handcar.data import chunks
from handcar.data.importers import CutChunk, Source, cut, read_npz
from handcar.errors import DataError
from handcar.protocol import limits
from handcar.protocol.messages import ChunkEntry


def source_of(folder: Path, records: int, *, tested: int = 0, width: int = 2) -> Source:
    """Records whose x and y tell their number, sorted by label as files often are."""
    number = np.arange(records + tested)
    x = np.repeat(number[:, None], width, axis=1)
    arrays = {"x": x[:records], "y": number[:records] * 10 // records}
    if tested:
        arrays |= {"x_test": x[records:], "y_test": number[:tested] % 10}
    np.savez(folder / "data.npz", **arrays)
    return read_npz(folder / "data.npz")


def numbers(cut_chunks: list[CutChunk]) -> list[int]:
    found = [chunks.decode(chunk.path.read_bytes())["x"][:, 0] for chunk in cut_chunks]
    return np.concatenate(found).tolist() if found else []


def split(cut_chunks: list[CutChunk], name: str) -> list[CutChunk]:
    return [chunk for chunk in cut_chunks if chunk.split == name]


def test_every_record_is_in_exactly_one_chunk(tmp_path):
    made = cut(source_of(tmp_path, 1003), tmp_path)
    assert Counter(numbers(made)) == Counter(range(1003))


def test_records_keep_their_labels(tmp_path):
    for chunk in cut(source_of(tmp_path, 500), tmp_path):
        columns = chunks.decode(chunk.path.read_bytes())
        np.testing.assert_array_equal(columns["y"], columns["x"][:, 0].astype(int) * 10 // 500)


def test_each_chunk_is_a_fair_sample_of_a_file_that_is_sorted_by_label(tmp_path):
    for chunk in split(cut(source_of(tmp_path, 4000), tmp_path), "train"):
        labels = chunks.decode(chunk.path.read_bytes())["y"]
        assert np.bincount(labels, minlength=10).min() > 0.05 * len(labels)


def test_a_share_is_held_back_for_validation_and_is_random(tmp_path):
    made = cut(source_of(tmp_path, 1000), tmp_path, validation=0.2)
    held_back = numbers(split(made, "validation"))
    assert len(held_back) == 200
    assert 400 < np.mean(held_back) < 600


def test_no_share_makes_no_validation_chunk(tmp_path):
    made = cut(source_of(tmp_path, 200), tmp_path, validation=0)
    assert split(made, "validation") == []
    assert len(numbers(made)) == 200


def test_test_records_of_the_file_become_the_validation_chunks(tmp_path):
    made = cut(source_of(tmp_path, 300, tested=50), tmp_path, validation=0.2)
    assert sorted(numbers(split(made, "validation"))) == list(range(300, 350))
    assert sorted(numbers(split(made, "train"))) == list(range(300))


@pytest.mark.parametrize(("records", "expected"), [(128, 8), (127, 1), (20, 1)])
def test_there_are_eight_chunks_as_soon_as_that_leaves_sixteen_records_each(
    tmp_path, records, expected
):
    assert len(cut(source_of(tmp_path, records), tmp_path, validation=0)) == expected


def test_chunks_hold_about_the_bytes_asked_for(tmp_path):
    made = cut(source_of(tmp_path, 4000, width=50), tmp_path, chunk_bytes=20_000, validation=0)
    # 4000 records of 50 two-byte numbers and a label: 101 bytes.
    assert len(made) == 21
    assert max(chunk.records for chunk in made) - min(chunk.records for chunk in made) <= 1


def test_the_same_seed_gives_the_same_chunks_and_another_one_others(tmp_path):
    source = source_of(tmp_path, 300)
    for name in "abc":
        (tmp_path / name).mkdir()
    first, again = (cut(source, tmp_path / name) for name in "ab")
    other = cut(source, tmp_path / "c", seed=1)
    assert [chunk.digest for chunk in first] == [chunk.digest for chunk in again]
    assert {chunk.digest for chunk in first}.isdisjoint(chunk.digest for chunk in other)


def test_what_is_told_of_a_chunk_is_so_and_fits_the_manifest(tmp_path):
    for chunk in cut(source_of(tmp_path, 300), tmp_path):
        data = chunk.path.read_bytes()
        assert (chunk.digest, chunk.size) == (files.digest(data), len(data))
        assert chunk.records == len(chunks.decode(data)["x"])
        ChunkEntry(
            sha256=chunk.digest,
            size=chunk.size,
            records=chunk.records,
            file_name=chunk.file_name,
            codec=chunk.codec,
            split=chunk.split,
        )


def test_labels_travel_small(tmp_path):
    columns = chunks.decode(cut(source_of(tmp_path, 300), tmp_path)[0].path.read_bytes())
    assert (columns["x"].dtype, columns["y"].dtype) == (np.uint16, np.uint8)


def test_a_huge_data_set_has_no_more_chunks_than_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CHUNKS_A_DATA_SET", 12)
    made = cut(source_of(tmp_path, 2000), tmp_path, chunk_bytes=100)
    assert len(made) <= 12
    assert len(numbers(made)) == 2000


def test_records_too_large_for_a_chunk_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "DECODED_BYTES", 1000)
    with pytest.raises(DataError, match="make the records smaller"):
        cut(source_of(tmp_path, 20, width=1200), tmp_path, chunk_bytes=1)
    monkeypatch.setattr(limits, "CHUNK_BYTES", 100)
    with pytest.raises(DataError, match="may take 100"):
        cut(source_of(tmp_path, 20, width=100), tmp_path, chunk_bytes=1)
