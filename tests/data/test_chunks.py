"""The chunk format: exact for what we write, closed to what a stranger may write."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from handcar.data import chunks
from handcar.errors import ChunkError
from handcar.wire import container

DTYPES = st.sampled_from(chunks.DTYPES).map(lambda short: np.dtype(short).newbyteorder("<"))


@st.composite
def columns(draw: st.DrawFn) -> dict[str, np.ndarray]:
    records = draw(st.integers(1, 12))
    names = draw(st.lists(st.sampled_from(["x", "y", "weight_2"]), min_size=1, unique=True))
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4)
    return {
        name: draw(hnp.arrays(draw(DTYPES), (records, *draw(shapes)), fill=st.nothing()))
        for name in names
    }


@settings(max_examples=150, deadline=None)
@given(columns())
def test_decoding_gives_back_the_same_bits(given_columns):
    got = chunks.decode(chunks.encode(given_columns))
    assert list(got) == list(given_columns)
    for name, column in given_columns.items():
        assert got[name].dtype == column.dtype
        assert got[name].shape == column.shape
        assert got[name].tobytes() == column.tobytes()


@settings(max_examples=150, deadline=None)
@given(columns(), st.data())
def test_a_truncated_chunk_is_refused(given_columns, data):
    whole = chunks.encode(given_columns)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ChunkError):
        chunks.decode(whole[:cut])


@settings(max_examples=150, deadline=None)
@given(columns(), st.data())
def test_a_chunk_with_a_flipped_bit_is_refused(given_columns, data):
    damaged = bytearray(chunks.encode(given_columns))
    bit = data.draw(st.integers(0, 8 * len(damaged) - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ChunkError):
        chunks.decode(bytes(damaged))


def test_a_chunk_with_bytes_behind_it_is_refused():
    whole = chunks.encode({"x": np.zeros((3, 2), np.uint8)})
    with pytest.raises(ChunkError):
        chunks.decode(whole + b"more")


SOUND = {"kind": "chunk", "records": 4, "columns": [{"name": "x", "dtype": "u1", "shape": [2]}]}


def hostile(**changes):
    column = SOUND["columns"][0]
    of_column = {key: changes.pop(key) for key in ("name", "dtype", "shape") if key in changes}
    of_column |= {"differences": changes.pop("differences")} if "differences" in changes else {}
    return {**SOUND, "columns": [{**column, **of_column}], **changes}


HOSTILE = [
    hostile(kind="keyframe"),
    hostile(records=0),
    hostile(records=-1),
    hostile(records=True),
    hostile(records=2.0),
    hostile(records=10**30),
    hostile(records=2**39),
    hostile(records="4"),
    hostile(records=None),
    hostile(columns=None),
    hostile(columns=[]),
    hostile(columns={"x": 1}),
    hostile(columns=["x"]),
    hostile(columns=SOUND["columns"] * 2),
    hostile(columns=[{**SOUND["columns"][0], "name": f"x{n}"} for n in range(17)]),
    hostile(name="../../etc/passwd"),
    hostile(name=".."),
    hostile(name="x.npy\n"),
    hostile(name="X"),
    hostile(name=""),
    hostile(name=7),
    hostile(dtype="O"),
    hostile(dtype="|O8"),
    hostile(dtype="c16"),
    hostile(dtype="U4"),
    hostile(dtype="u8"),
    hostile(dtype=["u1"]),
    hostile(dtype={"names": ["a"], "formats": ["O"]}),
    hostile(shape=[0]),
    hostile(shape=[-2]),
    hostile(shape=[2**39, 2**39, 2**39]),
    hostile(shape=[1] * 9),
    hostile(shape=[2.0]),
    hostile(shape=[True]),
    hostile(shape=2),
    hostile(shape=None),
    hostile(shape=[3]),
    hostile(dtype="f4", shape=[1], differences=True),
    hostile(differences="yes"),
]


@pytest.mark.parametrize("header", HOSTILE, ids=lambda header: json.dumps(header)[:60])
def test_a_hostile_header_is_refused_without_taking_memory(header):
    compress = zstandard.ZstdCompressor(write_content_size=True).compress
    sections = [compress(bytes(8))] * max(1, len(header["columns"] or ()))
    data = container.pack(header, sections)
    tracemalloc.start()
    try:
        with pytest.raises(ChunkError):
            chunks.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_header_that_the_hostile_ones_are_made_from_is_sound():
    compress = zstandard.ZstdCompressor(write_content_size=True).compress
    assert chunks.decode(container.pack(SOUND, [compress(bytes(8))]))["x"].shape == (4, 2)


@pytest.mark.parametrize("declared", [7, 9, 2**40])
def test_a_section_that_declares_another_size_is_refused(declared):
    compress = zstandard.ZstdCompressor(write_content_size=True).compress
    header = hostile(shape=[declared])
    with pytest.raises(ChunkError):
        chunks.decode(container.pack(header, [compress(bytes(8))]))


def test_a_bomb_is_refused_before_it_is_unpacked():
    size = chunks.DECODED_BYTES + 1
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(size))
    data = container.pack(hostile(records=1, shape=[size]), [bomb])
    assert len(data) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(ChunkError, match="decoded"):
            chunks.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_truth_value_of_seven_is_refused():
    compress = zstandard.ZstdCompressor(write_content_size=True).compress
    data = container.pack(hostile(dtype="b1"), [compress(bytes([0, 1, 7, 0, 1, 0, 1, 0]))])
    with pytest.raises(ChunkError, match="neither 0 nor 1"):
        chunks.decode(data)


def test_columns_of_unequal_length_are_not_encoded():
    with pytest.raises(ChunkError, match=r"\[2, 3\]"):
        chunks.encode({"x": np.zeros((3, 1)), "y": np.zeros(2)})


def test_a_type_that_is_not_allowed_is_not_encoded():
    with pytest.raises(ChunkError, match="c16"):
        chunks.encode({"x": np.zeros(3, np.complex128)})


def test_smooth_pictures_travel_as_differences():
    # Slopes with a little noise: neighbours are alike, values are spread.
    rng = np.random.default_rng(0)
    slopes = np.add.outer(np.arange(16) * 6, np.arange(16) * 5)
    pictures = slopes + rng.integers(0, 80, (200, 1, 1)) + rng.integers(0, 3, (200, 16, 16))
    pictures = pictures.astype(np.uint8)
    noise = rng.integers(0, 256, (200, 16, 16), dtype=np.uint8)
    header, _ = container.unpack(chunks.encode({"x": pictures, "noise": noise}))
    assert [column["differences"] for column in header["columns"]] == [True, False]
    assert len(chunks.encode({"x": pictures})) < 0.5 * pictures.nbytes
