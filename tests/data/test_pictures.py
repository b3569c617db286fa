"""Pictures: bit for bit as JPEG XL, byte for byte as JPEG files, and nothing else let in."""

from __future__ import annotations

import sys
import tracemalloc

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from handcar.data import chunks, pictures
from handcar.data.pictures import JpegColumn, Jpegs
from handcar.data.spec import Spec
from handcar.errors import ChunkError, MissingLibrary
from handcar.wire import container

JXL = {"x": chunks.Choice("jxl")}


def smooth(records: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Slopes with a little noise, as photographs have."""
    rng = np.random.default_rng(seed)
    slopes = np.add.outer(np.arange(shape[0]) * 6, np.arange(shape[1]) * 5)
    slopes = slopes.reshape(*slopes.shape, *([1] * (len(shape) - 2)))
    noise = rng.integers(0, 80, (records, *([1] * len(shape)))) + rng.integers(
        0, 3, (records, *shape)
    )
    return (slopes + noise).astype(np.uint8)


def files_of(array: np.ndarray, **how: object) -> Jpegs:
    files = [imagecodecs.jpeg8_encode(one, **how) for one in array]
    lengths = np.array(list(map(len, files)))
    shape = (*array.shape[1:], 1)[:3]
    return Jpegs(np.frombuffer(b"".join(files), np.uint8), lengths, shape)


# -- JPEG XL ---------------------------------------------------------------------------------

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 40), st.sampled_from([(), (1,), (3,)])).map(
    lambda sides: (sides[0], sides[1], *sides[2])
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), SHAPES, st.data())
def test_any_pictures_come_back_bit_for_bit(records, shape, data):
    x = data.draw(hnp.arrays(np.uint8, (records, *shape)))
    got = chunks.decode(chunks.encode({"x": x}, JXL))["x"]
    np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize("shape", [(28, 28), (32, 32, 3), (20, 30, 1), (300, 200, 3)])
def test_pictures_of_many_strips_come_back_bit_for_bit(shape):
    x = smooth(300 if shape[0] < 100 else 20, *shape)
    data = chunks.encode({"x": x}, JXL)
    assert len(container.unpack(data)[1]) > 1
    np.testing.assert_array_equal(chunks.decode(data)["x"], x)


def test_photographs_are_chosen_to_travel_as_pictures():
    rng = np.random.default_rng(0)
    slopes = (
        rng.uniform(-6, 6, (2, 200, 1, 1, 1)) * np.stack(np.mgrid[:16, :16])[:, None, ..., None]
    )
    x = (
        128
        + slopes.sum(axis=0)
        + rng.normal(0, 2, (200, 16, 16, 1))
        + rng.normal(0, 1, (200, 16, 16, 3))
    )
    x = x.clip(0, 255).astype(np.uint8)
    assert chunks.choose({"x": x})["x"].form == "jxl"
    assert len(chunks.encode({"x": x})) < 0.5 * x.nbytes


@pytest.mark.parametrize("shape", [(7, 5), (8, 8), (8, 16), (28, 28), (600, 8), (1, 9000), (8, 6)])
def test_the_header_tells_size_and_channels(shape):
    grey = imagecodecs.jpegxl_encode(np.zeros(shape, np.uint8), lossless=True, usecontainer=False)
    colour = imagecodecs.jpegxl_encode(
        np.zeros((*shape, 3), np.uint8), lossless=True, usecontainer=False
    )
    assert pictures.jxl_header(grey) == (*shape, 1)
    assert pictures.jxl_header(colour) == (*shape, 3)


NOT_OURS = {
    "lossy": lambda: imagecodecs.jpegxl_encode(smooth(1, 16, 16, 3)[0], distance=1.0),
    "sixteen bits": lambda: imagecodecs.jpegxl_encode(np.zeros((16, 16), np.uint16), lossless=True),
    "floats": lambda: imagecodecs.jpegxl_encode(np.zeros((16, 16), np.float32), lossless=True),
    "alpha": lambda: imagecodecs.jpegxl_encode(smooth(1, 16, 16, 4)[0], lossless=True),
    "animation": lambda: imagecodecs.jpegxl_encode(smooth(4, 16, 16, 3), lossless=True),
    "a box around": lambda: imagecodecs.jpegxl_encode(
        smooth(1, 16, 16, 3)[0], lossless=True, usecontainer=True
    ),
    "JPEG": lambda: imagecodecs.jpeg8_encode(smooth(1, 16, 16, 3)[0]),
    "nothing": lambda: b"",
    "the magic alone": lambda: b"\xff\x0a",
}


@pytest.mark.parametrize("name", NOT_OURS)
def test_other_kinds_of_picture_never_reach_the_decoder(name, monkeypatch):
    made = NOT_OURS[name]()
    monkeypatch.setattr(imagecodecs, "jpegxl_decode", None)
    header = {
        "kind": "chunk",
        "records": 1,
        "columns": [{"name": "x", "dtype": "u1", "shape": [16, 16, 3], "form": "jxl", "strip": 1}],
    }
    with pytest.raises(ChunkError):
        chunks.decode(container.pack(header, [made]))


@pytest.mark.parametrize("side", [8000, 15, 17])
def test_a_picture_that_is_larger_or_smaller_than_promised_is_refused_before_decoding(
    side, monkeypatch
):
    bomb = imagecodecs.jpegxl_encode(np.zeros((side, 16), np.uint8), lossless=True)
    monkeypatch.setattr(imagecodecs, "jpegxl_decode", None)
    tracemalloc.start()
    try:
        with pytest.raises(ChunkError, match="expected a picture of"):
            pictures.from_jxl([bomb], Spec("x", "u1", (16, 16)), 1, 1)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# -- JPEG files ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 24, 3), (16, 24)])
def test_jpeg_files_come_back_byte_for_byte_and_decode_to_their_pixels(shape):
    jpegs = files_of(smooth(30, *shape))
    header, sections = container.unpack(chunks.encode({"x": jpegs}))
    (column,) = header["columns"]
    spec = Spec("x", "u1", tuple(column["shape"]))
    files = pictures.jpeg_files(sections, spec, 30, column["heads"])
    assert files == [bytes(file) for file in jpegs.each()]
    got = chunks.decode(container.pack(header, [bytes(one) for one in sections]))["x"]
    expected = np.stack([imagecodecs.jpeg8_decode(file) for file in files])
    np.testing.assert_array_equal(got, expected.reshape(got.shape))


def test_jpeg_files_take_no_more_bytes_than_they_did():
    jpegs = files_of(smooth(500, 16, 24, 3))
    assert len(chunks.encode({"x": jpegs})) < 0.6 * len(jpegs.files)


def test_even_files_without_a_common_head_grow_by_less_than_a_hundredth():
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (40, 48, 48, 3), dtype=np.uint8)
    jpegs = files_of(array, optimize=True)
    assert len(chunks.encode({"x": jpegs})) < 1.01 * len(jpegs.files)


def test_a_column_of_files_gives_the_records_asked_for():
    jpegs = files_of(smooth(10, 16, 24, 3))
    column = JpegColumn(jpegs.files, np.cumsum([0, *jpegs.lengths]), (16, 24, 3))
    some = column.rows(np.array([2, 7]))
    assert [bytes(file) for file in some.each()] == [bytes(list(jpegs.each())[n]) for n in (2, 7)]
    facts = column.survey
    assert (facts.records, facts.shape, facts.lowest, facts.highest) == (10, (16, 24, 3), 0, 255)
    assert column.record_bytes == 16 * 24 * 3
    assert column.dtype == facts.dtype == np.uint8


def test_files_of_another_size_are_not_encoded():
    jpegs = files_of(smooth(3, 16, 24, 3))
    with pytest.raises(ChunkError, match="expected"):
        chunks.encode({"x": Jpegs(jpegs.files, jpegs.lengths, (24, 16, 3))})


def chunk_of_files(files: list[bytes], shape: list[int]) -> bytes:
    """What a stranger might send: files that say what they like, in a sound chunk."""
    zstd = pictures.squeeze.CODERS["zstd"].squeeze
    planes = np.array([[1] * len(files), [len(file) - 1 for file in files]], "<u4")
    flat = planes.reshape(-1).view(np.uint8).reshape(-1, 4).T.tobytes()
    heads = b"".join(file[:1] for file in files)
    column = {"name": "x", "dtype": "u1", "shape": shape, "form": "jpeg", "heads": len(heads)}
    header = {"kind": "chunk", "records": len(files), "columns": [column]}
    return container.pack(header, [zstd(flat), zstd(heads), b"".join(file[1:] for file in files)])


def test_a_sound_file_of_a_stranger_is_read():
    file = imagecodecs.jpeg8_encode(smooth(1, 16, 24, 3)[0])
    assert chunks.decode(chunk_of_files([file], [16, 24, 3]))["x"].shape == (1, 16, 24, 3)


BAD_FILES = {
    "too large": lambda: imagecodecs.jpeg8_encode(np.zeros((6000, 24, 3), np.uint8)),
    "grey": lambda: imagecodecs.jpeg8_encode(smooth(1, 16, 24)[0]),
    "no file": lambda: b"\xff",
    "PNG": lambda: imagecodecs.png_encode(smooth(1, 16, 24, 3)[0]),
    "cut in its head": lambda: imagecodecs.jpeg8_encode(smooth(1, 16, 24, 3)[0])[:100],
    "two frames": lambda: _with(b"\xff\xc0\x00\x11\x08\x00\x10\x00\x18\x03" + bytes(9)),
    "arithmetic": lambda: _with(b"\xff\xc9\x00\x11\x08\x00\x10\x00\x18\x03" + bytes(9)),
    "many scans": lambda: imagecodecs.jpeg8_encode(smooth(1, 16, 24, 3)[0]) + b"\xff\xda" * 64,
}


def _with(segment: bytes) -> bytes:
    file = imagecodecs.jpeg8_encode(smooth(1, 16, 24, 3)[0])
    return file[:2] + segment + file[2:]


@pytest.mark.parametrize("name", BAD_FILES)
def test_other_files_never_reach_the_decoder(name, monkeypatch):
    data = chunk_of_files([BAD_FILES[name]()], [16, 24, 3])
    monkeypatch.setattr(imagecodecs, "jpeg8_decode", None)
    with pytest.raises(ChunkError):
        chunks.decode(data)


@pytest.mark.parametrize("heads", [0, -1, 2**40, True, None, "1", 7])
def test_heads_that_do_not_add_up_are_refused(heads):
    file = imagecodecs.jpeg8_encode(smooth(1, 16, 24, 3)[0])
    header, sections = container.unpack(chunk_of_files([file], [16, 24, 3]))
    header["columns"][0]["heads"] = heads
    with pytest.raises(ChunkError):
        chunks.decode(container.pack(header, [bytes(one) for one in sections]))


# -- with loss -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 24, 3), (16, 24, 1), (16, 24)])
def test_with_loss_pictures_keep_their_shape_and_nearly_their_values(shape):
    x = smooth(50, *shape)
    choices = chunks.choose({"x": x}, lossy_quality=95)
    got = chunks.decode(chunks.encode({"x": x}, choices))["x"]
    assert got.shape == x.shape
    assert np.abs(got.astype(int) - x).mean() < 4


def test_nothing_is_lost_unless_it_is_asked_for():
    x = smooth(50, 16, 24, 3)
    assert all(choice.quality is None for choice in chunks.choose({"x": x}).values())


@pytest.mark.parametrize("quality", [0, 101, -5])
def test_a_quality_out_of_range_is_refused(quality):
    with pytest.raises(ChunkError, match="1 to 100"):
        pictures.as_jpegs(smooth(2, 16, 24), quality)


# -- hostile bytes, and no decoder -----------------------------------------------------------

VALID = {
    "jxl": chunks.encode({"x": smooth(40, 16, 24, 3)}, JXL),
    "jpeg": chunks.encode({"x": files_of(smooth(40, 16, 24, 3))}),
}


@pytest.mark.parametrize("form", VALID)
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_pictures_signed_anew_decode_to_the_right_shape_or_are_refused(form, data):
    header, sections = container.unpack(VALID[form])
    mutated = [bytearray(section) for section in sections]
    victim = data.draw(st.sampled_from(mutated))
    for _ in range(data.draw(st.integers(1, 3))):
        victim[data.draw(st.integers(0, len(victim) - 1))] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del victim[data.draw(st.integers(0, len(victim))) :]
    try:
        got = chunks.decode(container.pack(header, [bytes(one) for one in mutated]))["x"]
    except ChunkError:
        return
    assert (got.shape, got.dtype) == ((40, 16, 24, 3), np.uint8)


@pytest.mark.parametrize("form", VALID)
def test_without_the_package_a_volunteer_is_told_what_to_install(form, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(MissingLibrary, match="pip install imagecodecs"):
        chunks.decode(VALID[form])


def test_without_the_package_an_owner_cuts_all_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    x = smooth(100, 16, 16, 3)
    np.testing.assert_array_equal(chunks.decode(chunks.encode({"x": x}))["x"], x)
