"""Both entropy stages give back what they were given, and refuse what they did not make."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcar.errors import FrameError
from handcar.wire import ans, entropy

SHAPES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=0, max_size=4)


def matrices_of(shapes: list[tuple[int, int]], seed: int, spread: float) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    made = []
    for shape in shapes:
        busy = rng.exponential(size=(shape[0], 1)) * rng.exponential(size=(1, shape[1]))
        numbers = np.rint(rng.laplace(scale=spread, size=shape) * busy)
        made.append(np.clip(numbers, -127, 127).astype(np.int8))
    return made


@pytest.mark.parametrize("name", list(entropy.STAGES))
@given(shapes=SHAPES, seed=st.integers(0, 100), spread=st.sampled_from([0.0, 0.3, 1.0, 9.0, 90.0]))
def test_a_stage_gives_back_what_it_was_given(name, shapes, seed, spread):
    matrices = matrices_of(shapes, seed, spread)
    sections = entropy.STAGES[name].encode(matrices)
    decoded = entropy.decode(name, sections, shapes)
    expected = [np.empty(0, np.int8), *(matrix.reshape(-1) for matrix in matrices)]
    assert decoded.tobytes() == np.concatenate(expected).tobytes()


@pytest.mark.parametrize("shape", [(700, 900), (1, 300_000), (300_000, 1)])
def test_many_lanes_give_back_what_they_were_given(shape):
    (matrix,) = matrices_of([shape], 1, 1.0)
    name, sections = entropy.encode([matrix])
    assert name == "context"
    assert entropy.decode(name, sections, [shape]).tobytes() == matrix.tobytes()


def test_the_encoder_keeps_the_smaller():
    for shape in [(3, 3), (300, 300)]:
        (matrix,) = matrices_of([shape], 2, 1.0)
        sizes = {
            name: sum(map(len, stage.encode([matrix]))) for name, stage in entropy.STAGES.items()
        }
        name, sections = entropy.encode([matrix])
        assert sum(map(len, sections)) == min(sizes.values()) == sizes[name]


def test_rows_and_columns_of_different_activity_cost_fewer_bytes_in_context():
    (matrix,) = matrices_of([(400, 500)], 3, 0.7)
    name, _ = entropy.encode([matrix])
    assert name == "context"
    sizes = [sum(map(len, stage.encode([matrix]))) for stage in entropy.STAGES.values()]
    assert sizes[1] < 0.9 * sizes[0]


@given(st.data())
def test_damaged_sections_are_refused_or_give_other_numbers_but_never_crash(data):
    shapes = [(30, 20), (1, 30)]
    sections = [bytearray(s) for s in entropy.STAGES["context"].encode(matrices_of(shapes, 4, 2.0))]
    section = data.draw(st.sampled_from([s for s in sections if s]))
    place = data.draw(st.integers(0, len(section) - 1))
    section[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decoded = entropy.decode("context", [bytes(s) for s in sections], shapes)
    except FrameError:
        return
    assert decoded.shape == (630,)


@pytest.mark.parametrize(
    ("name", "count"), [("context", 2), ("packed", 5), ("none", 2), (None, 2), (["packed"], 2)]
)
def test_an_unknown_stage_is_refused(name, count):
    with pytest.raises(FrameError, match="unknown entropy stage"):
        entropy.decode(name, [b""] * count, [(1, 1)])


def test_frequencies_that_do_not_add_up_are_refused():
    table = np.zeros((3, ans.SYMBOLS), np.uint16)
    table[1, :2] = 2048
    assert ans.checked(table) is table
    table[2, 0] = 4095
    with pytest.raises(FrameError, match="add up"):
        ans.checked(table)


@given(st.lists(st.integers(0, 10**9), min_size=8, max_size=8))
def test_frequencies_add_up_and_leave_nothing_that_occurs_without_one(counts):
    (row,) = ans._frequencies(np.array([counts], np.int64))
    assert row.sum() == (ans.TOTAL if any(counts) else 0)
    assert ((row > 0) == (np.array(counts) > 0)).all()
