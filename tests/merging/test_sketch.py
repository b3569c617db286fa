"""Short images of updates."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from handcar.merging import sketch as sketches
from handcar.merging.sketch import BLOCK, SIZE, sketch
from handcar.wire.layout import Layout, TensorSpec
from strategies import layouts_with

LARGE = Layout((TensorSpec("w", (BLOCK + 5000,)), TensorSpec("mean", (300,), "statistic")))


@given(layouts_with(2), st.floats(-10, 10))
def test_sketches_are_linear_and_leave_statistics_out(drawn, times):
    layout, (one, other) = drawn
    for place in layout.statistic_slices:
        one[place] = np.float32(1e4)
    images = [sketch(change, layout, b"key") for change in (one, other)]
    both = sketch(one + np.float32(times) * other, layout, b"key")
    size = 1 + np.abs(one).sum() + abs(times) * np.abs(other).sum()
    assert np.allclose(both, images[0] + np.float32(times) * images[1], atol=1e-5 * size)
    assert np.linalg.norm(images[0]) <= np.abs(one).sum() + 1


def test_products_and_lengths_come_out_within_a_thirtieth():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, LARGE.size)).astype(np.float32)
    other = 0.6 * one + 0.8 * other
    one[-300:] = other[-300:] = 0
    images = [sketch(change, LARGE, b"key") for change in (one, other)]
    for a, b in ((0, 0), (0, 1), (1, 1)):
        exact = float(np.dot([one, other][a], [one, other][b]))
        room = 4 * float(np.linalg.norm(one) * np.linalg.norm(other)) / np.sqrt(SIZE)
        assert abs(float(images[a] @ images[b]) - exact) < room


def test_without_the_key_nobody_can_tell_what_an_update_looks_like():
    rng = np.random.default_rng(0)
    change = rng.normal(size=LARGE.size).astype(np.float32)
    mine, theirs = (sketch(change, LARGE, key) for key in (b"key", b"another"))
    assert abs(mine @ theirs) < 0.2 * np.linalg.norm(mine) * np.linalg.norm(theirs)


def test_blocks_take_their_signs_from_different_places():
    assert len(set(sketches._turns(b"key", 80))) == 80
