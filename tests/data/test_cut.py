"""Cutting: every record in one chunk, each chunk a fair sample, the same chunks each time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcar import files
from handcar.data import chunks
from handcar.data import cut as cut_module
from handcar.data.cut import CutChunk, cut
from handcar.data.importers import Column, Source, read_npz
from handcar.data.pictures import JpegColumn
from handcar.data.survey import survey
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


def jpegs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Some files of 16 x 24 pixels end to end, and where each begins."""
    rng = np.random.default_rng(0)
    shades = rng.integers(0, 200, (count, 1, 1, 3), dtype=np.uint8)
    pixels = shades + rng.integers(0, 40, (count, 16, 24, 3), dtype=np.uint8)
    files = [imagecodecs.jpeg8_encode(one) for one in pixels]
    return np.frombuffer(b"".join(files), np.uint8), np.cumsum([0, *map(len, files)])


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


@pytest.fixture
def noise(tmp_path):
    """Return a source whose records take just 100 bytes, coded or not, and a label."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (4000, 100), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", x=x, y=np.zeros(4000, np.uint8))
    with read_npz(tmp_path / "noise.npz") as source:
        yield source


def test_chunks_take_the_bytes_asked_for_once_coded(noise, tmp_path):
    made = cut(noise, tmp_path, chunk_bytes=20_000, validation=0)
    assert 19 <= len(made) <= 21
    assert all(19_000 < chunk.size <= 20_400 for chunk in made[:-1])
    assert made[-1].size < 30_500


def test_the_first_chunks_are_small_and_the_later_ones_large(noise, tmp_path, monkeypatch):
    monkeypatch.setattr(cut_module, "FIRST_BYTES", 5_000)
    sizes = [chunk.size for chunk in cut(noise, tmp_path, chunk_bytes=40_000, validation=0)]
    assert all(4_000 < size < 6_000 for size in sizes[:4])
    assert all(8_000 < size < 12_000 for size in sizes[4:8])
    assert all(35_000 < size <= 40_400 for size in sizes[12:-1])


def test_chunks_of_what_codes_well_are_bounded_by_what_they_decode_to(tmp_path, monkeypatch):
    monkeypatch.setattr(cut_module, "CHUNK_DECODED_BYTES", 10_000)
    np.savez(tmp_path / "z.npz", x=np.zeros((1000, 99), np.uint8), y=np.zeros(1000, np.uint8))
    with read_npz(tmp_path / "z.npz") as source:
        made = cut(source, tmp_path, validation=0)
    assert [chunk.decoded for chunk in made] == [10_000] * 10


@given(st.integers(0, 100_000), st.integers(1, 1000), st.integers(1, 10**7), st.integers(1, 500))
def test_sizes_add_up_to_all_records_and_never_to_too_many_chunks(records, a_kb, most, free):
    def records_of(size: int) -> int:
        return max(1, size * a_kb // 1024)

    sizes = cut_module.graded_sizes(records, records_of, most, free)
    assert sum(sizes) == records
    assert min(sizes, default=1) >= 1
    assert len(sizes) <= max(free, cut_module.LEAST_CHUNKS)
    # The last takes in what would be a small chunk of its own.
    assert sizes[:-2] == sorted(sizes[:-2]) or max(sizes) - min(sizes) <= 1


def test_pictures_can_be_cut_with_loss_and_the_codec_says_so(tmp_path):
    slopes = np.add.outer(np.arange(16) * 6, np.arange(16) * 5).astype(np.uint8)
    x = slopes + np.arange(60, dtype=np.uint8)[:, None, None]
    np.savez(tmp_path / "p.npz", x=x, y=np.zeros(60, np.uint8))
    with read_npz(tmp_path / "p.npz") as source:
        (exact,) = cut(source, tmp_path, validation=0)
        (lossy,) = cut(source, tmp_path, validation=0, lossy_quality=80)
    assert "lossy" not in exact.codec
    assert lossy.codec == "columns+jpeg+lossy80"
    got = chunks.decode(lossy.path.read_bytes())["x"].astype(int)
    assert got.shape == x.shape
    assert np.abs(got - np.sort(x, axis=0)).mean() < 8


def test_jpeg_files_are_cut_without_being_decoded(tmp_path):
    made_up = jpegs(40)
    column = JpegColumn(*made_up, shape=(16, 24, 3))
    labels = Column(survey("y", np.arange(40)), np.dtype("u1"))
    source = SimpleNamespace(train={"x": column, "y": labels}, test=None)
    (chunk,) = cut(source, tmp_path, validation=0)
    assert chunk.codec == "columns+jpeg"
    columns = chunks.decode(chunk.path.read_bytes())
    assert columns["x"].shape == (40, 16, 24, 3)
    decoded = [imagecodecs.jpeg8_decode(bytes(file)) for file in column.rows(np.arange(40)).each()]
    np.testing.assert_array_equal(columns["x"], np.stack(decoded)[columns["y"]])


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
    monkeypatch.setattr(cut_module, "DECODED_BYTES", 1000)
    with pytest.raises(DataError, match="make the records smaller"):
        cut(source_of(tmp_path, 20, width=1200), tmp_path, chunk_bytes=1)
    monkeypatch.setattr(limits, "CHUNK_BYTES", 100)
    with pytest.raises(DataError, match="may take 100"):
        cut(source_of(tmp_path, 20, width=100), tmp_path, chunk_bytes=1)
