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
from handcar.data.numbers import FORMS
from handcar.data.spec import DTYPES as SHORT
from handcar.data.squeeze import CODERS
from handcar.errors import ChunkError
from handcar.wire import container

DTYPES = st.sampled_from(SHORT).map(lambda short: np.dtype(short).newbyteorder("<"))


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


SOUND = {
    "kind": "chunk",
    "records": 4,
    "columns": [{"name": "x", "dtype": "u1", "shape": [2], "form": "plain", "coder": "zstd"}],
}
OF_CHUNK = ("kind", "records", "columns")


def hostile(**changes):
    column = SOUND["columns"][0]
    of_chunk = {key: changes.pop(key) for key in OF_CHUNK if key in changes}
    return {**SOUND, "columns": [{**column, **changes}], **of_chunk}


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
    hostile(dtype="f4", shape=[1], form="differences"),
    hostile(dtype="f2", shape=[1], form="differences"),
    hostile(form="pickle"),
    hostile(form=None),
    hostile(form=["plain"]),
    hostile(coder="lzw"),
    hostile(coder=None),
    hostile(coder={}),
    hostile(form="dictionary"),
    hostile(form="dictionary", values=0, width=1),
    hostile(form="dictionary", values=2**39, width=1),
    hostile(form="dictionary", values=1, width=2),
    hostile(form="dictionary", values=True, width=True),
    hostile(form="dictionary", values=2, width=1, shape=[8192]),
    hostile(form="shifted"),
    hostile(form="shifted", of="x", by=0),
    hostile(form="shifted", of="x", by=1),
    hostile(form="shifted", of="y", by=-1),
    hostile(form="shifted", of=["x"], by=10**9),
    hostile(form="jxl"),
    hostile(form="jxl", shape=[2, 1], strip=0),
    hostile(form="jxl", shape=[2, 1], strip=True),
    hostile(form="jxl", shape=[2, 1], strip="1"),
    hostile(form="jxl", shape=[2, 1], strip=4),
    hostile(form="jxl", shape=[2, 1, 4], strip=4),
    hostile(form="jxl", shape=[2, 1], dtype="u2", strip=4),
    hostile(form="jpeg", heads=1),
    hostile(form="jpeg", shape=[2, 1], heads=1),
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


# -- every form and coder --------------------------------------------------------------------

CHOICES = [chunks.Choice(form, coder) for form in FORMS for coder in CODERS]


@settings(max_examples=200, deadline=None)
@given(columns(), st.sampled_from(CHOICES))
def test_every_form_and_coder_gives_back_the_same_bits(given_columns, choice):
    got = chunks.decode(chunks.encode(given_columns, dict.fromkeys(given_columns, choice)))
    for name, column in given_columns.items():
        assert got[name].dtype == column.dtype
        assert got[name].shape == column.shape
        assert got[name].tobytes() == column.tobytes()


def told_and_sections(given_columns, choice):
    data = chunks.encode(given_columns, dict.fromkeys(given_columns, choice))
    return container.unpack(data)


@settings(max_examples=300, deadline=None)
@given(columns(), st.sampled_from(CHOICES), st.data())
def test_what_a_stranger_changes_and_signs_anew_decodes_to_the_right_shape_or_is_refused(
    given_columns, choice, data
):
    header, sections = told_and_sections(given_columns, choice)
    mutated = [bytearray(section) for section in sections]
    victim = data.draw(st.sampled_from(mutated))
    if victim:
        place = data.draw(st.integers(0, len(victim) - 1))
        if data.draw(st.booleans()):
            del victim[place:]
        else:
            victim[place] ^= data.draw(st.integers(1, 255))
    try:
        got = chunks.decode(container.pack(header, [bytes(one) for one in mutated]))
    except ChunkError:
        return
    for name, column in given_columns.items():
        assert (got[name].shape, got[name].dtype) == (column.shape, column.dtype)


HEADER_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**41),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.integers(-1, 2**40), max_size=9),
    st.sampled_from([*FORMS, *CODERS, "jxl", "jpeg"]),
)


@settings(max_examples=400, deadline=None)
@given(columns(), st.sampled_from(CHOICES), st.data(), HEADER_VALUES)
def test_any_change_of_the_header_is_refused_or_harmless(given_columns, choice, data, value):
    header, sections = told_and_sections(given_columns, choice)
    victim = data.draw(st.sampled_from([header, *header["columns"]]))
    victim[data.draw(st.sampled_from(sorted({*victim, "of", "by", "strip", "heads"})))] = value
    try:
        got = chunks.decode(container.pack(header, [bytes(one) for one in sections]))
    except ChunkError:
        return
    assert sum(column.nbytes for column in got.values()) <= chunks.DECODED_BYTES


# -- what is chosen --------------------------------------------------------------------------


def forms(given_columns):
    return {name: choice.form for name, choice in chunks.choose(given_columns).items()}


def test_smooth_waves_travel_as_differences_and_noise_does_not():
    rng = np.random.default_rng(0)
    waves = (8000 * np.sin(np.arange(400) / 9 + rng.uniform(0, 6, (100, 1)))).astype(np.int16)
    noise = rng.integers(-(2**15), 2**15, (100, 400)).astype(np.int16)
    assert forms({"x": waves, "noise": noise}) == {"x": "differences", "noise": "plain"}


def test_a_table_travels_as_places_in_each_features_dictionary():
    rng = np.random.default_rng(0)
    ages, years = rng.normal(size=70).astype(np.float32), rng.normal(size=16).astype(np.float32)
    table = np.stack([rng.choice(ages, 4000), rng.choice(years, 4000)], axis=1)
    assert forms({"x": table}) == {"x": "dictionary"}
    size = len(chunks.encode({"x": table}))
    assert size < 0.25 * table.nbytes


def test_the_next_token_costs_next_to_nothing():
    rng = np.random.default_rng(0)
    text = rng.integers(0, 60, 64 * 500 + 1).astype(np.uint8)
    x, y = text[:-1].reshape(-1, 64), text[1:].reshape(-1, 64)
    assert forms({"x": x, "y": y})["y"] == "shifted"
    alone, both = len(chunks.encode({"x": x})), len(chunks.encode({"x": x, "y": y}))
    assert both < 1.04 * alone
    np.testing.assert_array_equal(chunks.decode(chunks.encode({"x": x, "y": y}))["y"], y)


def test_a_column_like_another_one_costs_nothing_and_is_an_array_of_its_own():
    x = np.arange(600, dtype=np.int16).reshape(20, 30)
    got = chunks.decode(chunks.encode({"x": x, "y": x}))
    got["x"][:] = 0
    np.testing.assert_array_equal(got["y"], x)


def test_a_choice_that_held_for_the_sample_only_is_given_up():
    x = np.arange(600, dtype=np.int16).reshape(20, 30)
    choices = chunks.choose({"x": x, "y": x})
    assert choices["y"].form == "shifted"
    other = {"x": x, "y": x + 1}
    np.testing.assert_array_equal(chunks.decode(chunks.encode(other, choices))["y"], x + 1)


def test_padding_at_the_end_of_clips_costs_next_to_nothing():
    rng = np.random.default_rng(0)
    clips = rng.integers(-500, 500, (100, 500)).astype(np.int16)
    padded = np.zeros((100, 5000), np.int16)
    padded[:, :500] = clips
    assert len(chunks.encode({"x": padded})) < 1.05 * len(chunks.encode({"x": clips}))


def test_the_codecs_name_says_what_is_needed_and_what_was_lost():
    lossy = {"x": chunks.Choice("jpeg", quality=80), "y": chunks.Choice("plain", "zstd")}
    assert chunks.codec_name(lossy) == "columns+jpeg+lossy80"
    assert chunks.codec_name({"x": chunks.Choice("jxl")}) == "columns+jxl"
    assert chunks.codec_name({"x": chunks.Choice("plain", "lzma")}) == "columns"
