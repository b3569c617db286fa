"""Frames keep what they promise, and refuse what is not theirs."""

import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcar.errors import FrameError
from handcar.wire import codecs, container, frames, zstd
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Layout, TensorSpec, weights_digest
from strategies import layouts_with

KEY = FrameFacts("keyframe", "digits", 3, "sha256:" + "0" * 64)
UPDATE = FrameFacts("update", "digits", 3)
LAYOUT = Layout(
    (
        TensorSpec("dense/kernel", (40, 30)),
        TensorSpec("norm/moving_variance", (30,), "statistic"),
        TensorSpec("dense/bias", (30,)),
    )
)


def some_change(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).laplace(scale=0.01, size=LAYOUT.size).astype(np.float32)


@given(layouts_with(1))
def test_a_keyframe_holds_the_weights_bit_for_bit(drawn):
    layout, (weights,) = drawn
    facts, decoded = frames.decode_keyframe(frames.encode_keyframe(KEY, weights), layout)
    assert facts == KEY
    assert decoded.tobytes() == weights.tobytes()


@given(layouts_with(1))
def test_a_keyframe_of_rounded_weights_holds_them_bit_for_bit(drawn):
    layout, (weights,) = drawn
    rounded = frames.round_keyframe(weights)
    _, decoded = frames.decode_keyframe(frames.encode_keyframe(KEY, rounded), layout)
    assert decoded.tobytes() == rounded.tobytes()
    assert (np.abs(rounded - weights) <= np.abs(weights) * 2.0**-8 + 1e-38).all()


def test_a_keyframe_is_rounded_as_bfloat16_is():
    given = np.array([1.0, 1.00390625, 1.01171875, -0.1, 3.4e38, 1e-40, 0.0], np.float32)
    bits = [0x3F80, 0x3F80, 0x3F82, 0xBDCD, 0x7F80, 0x0001, 0x0000]
    expected = (np.array(bits, np.uint32) << np.uint32(16)).view(np.float32)
    assert frames.round_keyframe(given).tobytes() == expected.tobytes()


def test_a_delta_that_says_so_leads_to_rounded_weights():
    base = some_change(1)
    facts = FrameFacts("delta", "m", 1, rounded=True)
    data = frames.encode_difference(facts, some_change(2), LAYOUT, k=1.0)
    plain = frames.apply(frames.decode_difference(data, LAYOUT)[1], base, LAYOUT)
    said, weights = frames.lead(data, base, LAYOUT)
    assert said == facts
    assert weights.tobytes() == frames.round_keyframe(plain).tobytes() != plain.tobytes()


@given(layouts_with(1), st.floats(0.25, 8))
def test_a_difference_is_off_by_at_most_half_a_step_unless_clipped(drawn, k):
    layout, (change,) = drawn
    _, decoded = frames.decode_difference(
        frames.encode_difference(UPDATE, change, layout, k=k), layout
    )
    for tensor, place in zip(layout.tensors, layout.slices, strict=True):
        if tensor.kind == "statistic":
            assert decoded[place].tobytes() == change[place].tobytes()
            continue
        step = codecs.step_scale(change[place], k)
        inside = np.abs(change[place]) <= codecs.LARGEST * step
        error = np.abs(decoded[place] - change[place])[inside]
        assert (error <= step * 0.5001 + 1e-30).all()


@given(layouts_with(2))
def test_applying_a_difference_to_its_base_gives_the_statistics_exactly(drawn):
    layout, (new, base) = drawn
    result = frames.apply(frames.difference(new, base, layout), base, layout)
    for place in layout.statistic_slices:
        assert result[place].tobytes() == new[place].tobytes()
    assert np.allclose(result, new, rtol=1e-5, atol=1e-2)


def test_two_holders_who_apply_the_same_delta_hold_the_same_bits():
    base = some_change(1)
    data = frames.encode_difference(FrameFacts("delta", "m", 1), some_change(2), LAYOUT, k=1.0)
    ends = [frames.lead(bytes(data), base.copy(), LAYOUT)[1] for _ in range(2)]
    assert weights_digest(ends[0]) == weights_digest(ends[1])


def test_an_update_is_far_smaller_than_the_weights():
    layout = Layout((TensorSpec("kernel", (500, 400)),))
    change = np.random.default_rng(0).laplace(size=layout.size).astype(np.float32)
    data = frames.encode_difference(UPDATE, change, layout, k=2.0)
    assert len(data) * 15 < layout.size * 4


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_noticed(position, bit):
    data = bytearray(frames.encode_difference(UPDATE, some_change(), LAYOUT, k=2.0))
    data[position % len(data)] ^= 1 << bit
    with pytest.raises(FrameError):
        frames.decode_difference(bytes(data), LAYOUT)


@given(st.integers(0, 10_000))
def test_a_frame_cut_anywhere_is_refused(length):
    data = frames.encode_difference(UPDATE, some_change(), LAYOUT, k=2.0)
    with pytest.raises(FrameError):
        frames.decode_difference(data[: length % len(data)], LAYOUT)


@given(st.binary(max_size=400))
def test_bytes_that_are_no_frame_are_refused(data):
    with pytest.raises(FrameError):
        frames.decode_difference(data, LAYOUT)


def test_a_frame_of_another_model_s_shape_is_refused():
    data = frames.encode_difference(UPDATE, some_change(), LAYOUT, k=2.0)
    other = Layout((TensorSpec("dense/kernel", (7, 3)),))
    with pytest.raises(FrameError, match="scales"):
        frames.decode_difference(data, other)


def test_a_keyframe_is_not_taken_for_an_update():
    with pytest.raises(FrameError, match="expected a frame of kind"):
        frames.decode_difference(frames.encode_keyframe(KEY, some_change()), LAYOUT)


def test_a_bomb_is_refused_before_it_is_unpacked():
    bomb = zstd.squeeze(bytes(100_000_000))
    assert len(bomb) < 20_000
    header = {"kind": "update", "model": "m", "version": 0, "codec": "step", "scales": [1.0, 1.0]}
    statistics = codecs.encode_planes(np.zeros(30, np.float32))
    data = container.pack(header | {"entropy": "packed"}, [bomb, zstd.squeeze(b""), statistics])
    with pytest.raises(FrameError, match="declares 100000000"):
        frames.decode_difference(data, LAYOUT)


@pytest.mark.parametrize("scale", [float("inf"), -1.0, 1e31, "1", None, True, [1.0]])
def test_a_scale_that_is_no_sane_number_is_refused(scale):
    data = frames.encode_difference(UPDATE, some_change(), LAYOUT, k=2.0)
    header, sections = container.unpack(data)
    header["scales"] = [scale, 1.0]
    with pytest.raises(FrameError):
        frames.decode_difference(container.pack(header, [bytes(s) for s in sections]), LAYOUT)


def test_a_header_that_nests_without_end_is_refused():
    text = b'{"sections":[],"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    data = container.FIXED.pack(container.MAGIC, len(text), zlib.crc32(text)) + text
    with pytest.raises(FrameError):
        container.unpack(data)


@pytest.mark.parametrize(
    "table", [None, 3, [[1]], [[-1, 0]], [[2**50, 0]], [["1", 0]], [[True, 0]]]
)
def test_an_unsound_table_of_sections_is_refused(table):
    text = json.dumps({"sections": table}).encode()
    data = container.FIXED.pack(container.MAGIC, len(text), zlib.crc32(text)) + text
    with pytest.raises(FrameError):
        container.unpack(data)
