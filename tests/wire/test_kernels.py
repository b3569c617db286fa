"""The compiled loops give the bits that NumPy gives, and are as safe against damaged bytes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_entropy import matrices_of

from handcar.errors import FrameError
from handcar.merging.sketch import sketch
from handcar.wire import codecs, coded, compiled, entropy, frames
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Flat, Layout, TensorSpec
from handcar.wire.zstd import squeeze

pytest.importorskip("numba", reason="needs numba: pip install 'handcar[fast]'")

UPDATE = FrameFacts("update", "digits", 3)
LAYOUT = Layout(
    (
        TensorSpec("dense/kernel", (300, 270)),
        TensorSpec("norm/moving_variance", (30,), "statistic"),
        TensorSpec("dense/bias", (270,)),
    )
)
SHAPES = st.lists(st.tuples(st.integers(0, 90), st.integers(1, 90)), min_size=0, max_size=4)
NEVER = 1 << 62


@pytest.fixture(autouse=True)
def usual():
    """Leave the threshold as it was."""
    before = compiled.FROM
    yield
    compiled.FROM = before


def both(work):
    """Return what comes out with the compiled loops and without."""
    found = []
    for compiled.FROM in (0, NEVER):
        try:
            found.append(work())
        except FrameError as error:
            found.append(type(error))
    return found


def change_of(seed: int, layout: Layout = LAYOUT) -> Flat:
    """Return a difference, some of its rows and columns all zero."""
    rng = np.random.default_rng(seed)
    change = rng.laplace(scale=0.01, size=layout.size).astype(np.float32)
    change *= rng.random(layout.size, dtype=np.float32) < 0.3
    layout.views(change)[0][rng.integers(0, 2, 300) == 0] = 0
    return change


@settings(deadline=None)
@given(shapes=SHAPES, seed=st.integers(0, 100), spread=st.sampled_from([0.0, 0.3, 1.0, 9.0, 90.0]))
def test_both_ways_write_and_read_the_same_bytes(shapes, seed, spread):
    matrices = matrices_of(shapes, seed, spread)
    stage = entropy.STAGES["context"]
    one, other = both(lambda: stage.encode(matrices))
    assert one == other
    numbers = [np.empty(0, np.int8), *(matrix.reshape(-1) for matrix in matrices)]
    expected = np.concatenate(numbers).tobytes()
    for decoded in both(lambda: stage.decode(one, shapes)):
        assert decoded.tobytes() == expected


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_both_ways_refuse_the_same_damage_or_read_the_same_from_it(data):
    shapes = [(90, 60), (1, 30), (40, 70)]
    matrices = matrices_of(shapes, 4, 1.0)
    sections = [bytearray(one) for one in entropy.STAGES["context"].encode(matrices)]
    for _ in range(data.draw(st.integers(1, 4))):
        section = data.draw(st.sampled_from([one for one in sections if one]))
        section[data.draw(st.integers(0, len(section) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([0, 0, 2, 64]))
    given = [bytes(one) for one in sections]
    given[3] = given[3][: len(given[3]) - cut]
    one, other = both(lambda: entropy.decode("context", given, shapes).tobytes())
    assert one == other


@settings(deadline=None)
@given(st.data())
def test_any_table_states_and_words_are_read_alike(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    shapes = [(2, 1_500), (1, 0), (500, 4)]
    table = rng.multinomial(4096, rng.dirichlet(np.full(8, 0.3)), 123).astype(np.uint16)
    table[rng.random(123) < 0.2] = 0  # contexts without frequencies, used all the same
    levels = rng.integers(0, 256, sum(map(sum, shapes))).astype(np.uint8)
    live = np.split(levels, np.cumsum([one for shape in shapes for one in shape])[:-1])
    size = sum(
        np.count_nonzero(rows) * np.count_nonzero(columns)
        for rows, columns in zip(live[::2], live[1::2], strict=True)
    )
    states = rng.integers(0, 2**32, entropy.ans.lanes_for(size), dtype=np.uint32)
    words = rng.integers(0, 2**16, data.draw(st.sampled_from([0, 1, 50_000]))).astype(np.uint16)
    given = [
        squeeze(levels.tobytes()),
        squeeze(table.tobytes()),
        states.tobytes(),
        words.tobytes(),
        squeeze(bytes(data.draw(st.integers(0, 5)))),
    ]
    one, other = both(lambda: entropy.decode("context", given, shapes).tobytes())
    assert one == other


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.5, 40.0])
def test_the_same_is_found_whatever_share_is_zero_and_however_many_lanes(spread):
    rng = np.random.default_rng(3)
    matrices = [
        np.rint(rng.laplace(scale=spread, size=shape)).clip(-127, 127).astype(np.int8)
        for shape in ((700, 900), (3, 7), (1, 40), (90, 1100))
    ]
    matrices[0][::3] = 0
    matrices[3][:, ::7] = 0
    shapes = [matrix.shape for matrix in matrices]
    sections = entropy.STAGES["context"].encode(matrices)

    def read():
        found = entropy.decode_sparse("context", sections, shapes)
        return [(one.counts.tolist(), one.places.tobytes(), one.numbers.tobytes()) for one in found]

    one, other = both(read)
    assert one == other
    expected = b"".join(matrix.tobytes() for matrix in matrices)
    for numbers in both(lambda: entropy.decode("context", sections, shapes).tobytes()):
        assert numbers == expected


def test_a_number_that_travels_apart_and_is_0_is_none():
    """No encoder of ours writes one."""
    matrix = np.full((40, 50), 9, np.int8)
    sections = entropy.STAGES["context"].encode([matrix])
    apart = np.full(2_000, 9, np.int8)
    apart[[0, 7, 1_999]] = 0
    sections[4] = squeeze(apart.tobytes())
    for one in both(lambda: entropy.decode_sparse("context", sections, [matrix.shape])[0]):
        assert (one.numbers.size, one.places[:2].tolist()) == (1_997, [1, 2])


@pytest.mark.parametrize("k", [0.05, 1.4, 3.0])
def test_a_frame_is_the_same_bytes_and_leads_to_the_same_bits(k):
    change = change_of(1)
    one, other = both(lambda: frames.encode_difference(UPDATE, change, LAYOUT, k=k))
    assert one == other
    decoded, again = both(lambda: frames.decode_difference(one, LAYOUT)[1])
    assert decoded.tobytes() == again.tobytes()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), k=st.sampled_from([0.1, 2.0]), times=st.floats(-2, 2, width=32))
def test_what_is_not_zero_is_found_added_and_imaged_alike(seed, k, times):
    frame = frames.encode_difference(UPDATE, change_of(seed), LAYOUT, k=k)

    def looked_at():
        decoded = frames.decode_coded(frame, LAYOUT)[1]
        total = np.ones(coded.trainable_size(LAYOUT), np.float32)
        coded.add(total, [(decoded, np.float32(times)), (decoded, np.float32(0.3))])
        image = sketch(decoded, LAYOUT, b"key")
        return total.tobytes(), image.tobytes(), coded.dense(decoded, LAYOUT).tobytes()

    one, other = both(looked_at)
    assert one == other
    assert one[2] == frames.decode_difference(frame, LAYOUT)[1].tobytes()


@settings(deadline=None, max_examples=200)
@given(size=st.integers(1, 5_000), seed=st.integers(0, 1000))
def test_a_step_is_the_same_number(size, seed):
    values = np.random.default_rng(seed).laplace(size=size).astype(np.float32)
    one, other = both(lambda: codecs.step_scale(values, 1.7))
    assert one == other


def test_nothing_is_compiled_for_small_models():
    code = (
        "import sys; from handcar.wire import frames, compiled; "
        "assert compiled.kernels(compiled.FROM - 1) is None; assert 'numba' not in sys.modules; "
        "assert compiled.kernels(compiled.FROM) is not None; assert 'numba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603


def test_without_numba_numpy_does_it():
    code = (
        "import sys; sys.modules['numba'] = None; from handcar.wire import compiled; "
        "assert compiled.kernels(1 << 62) is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603
