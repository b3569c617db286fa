"""What an update must be to count."""

import numpy as np
import pytest

from handcar.merging.filters import Seen, examine
from handcar.merging.sketch import sketch
from handcar.wire.layout import Layout, TensorSpec

LAYOUT = Layout((TensorSpec("w", (16,)), TensorSpec("mean", (2,), "statistic")))
USUAL = [1.0] * 20


def update(size: float, statistic: float = 0.0) -> np.ndarray:
    return np.array([size / 4] * 16 + [statistic] * 2, np.float32)  # its norm is `size`


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 17])
def test_a_number_that_is_not_finite_is_refused(bad, place):
    change = update(1.0)
    change[place] = bad
    assert "not finite" in examine(change, LAYOUT, steps=1, seen=Seen()).reason


def test_an_update_that_changes_no_weight_is_refused():
    assert "changes nothing" in examine(update(0.0, 3.0), LAYOUT, steps=1, seen=Seen()).reason


def test_a_usual_update_passes_unchanged():
    verdict = examine(update(1.2), LAYOUT, steps=1, seen=Seen(USUAL))
    assert verdict.reason is None
    assert verdict.factor == 1.0


def test_a_long_update_is_shortened_and_a_very_long_one_refused():
    assert examine(update(2.0), LAYOUT, steps=1, seen=Seen(USUAL)).factor == pytest.approx(0.75)
    assert "3.5 times as long" in examine(update(3.5), LAYOUT, steps=1, seen=Seen(USUAL)).reason


def test_more_steps_may_go_further():
    assert examine(update(8.0), LAYOUT, steps=64, seen=Seen(USUAL)).factor == 1.0


def test_large_statistics_are_not_held_against_the_length():
    assert examine(update(1.0, 1000.0), LAYOUT, steps=1, seen=Seen(USUAL)).norm == pytest.approx(
        1.0
    )


def test_the_first_updates_have_nothing_to_be_compared_with():
    assert examine(update(1e6), LAYOUT, steps=1, seen=Seen([1.0] * 4)).reason is None


def test_an_update_of_almost_nothing_is_refused():
    assert "next to nothing" in examine(update(0.05), LAYOUT, steps=1, seen=Seen(USUAL)).reason


def test_numbers_too_large_to_add_up_are_refused():
    assert "too large" in examine(update(1e30), LAYOUT, steps=1).reason


def changes(count: int, *, alike: float = 0.0) -> np.ndarray:
    """Updates of 16 weights; `alike` is how much of each is the same in all."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(count, 18)) + alike * rng.normal(size=18)
    return drawn.astype(np.float32)


def seen(given: np.ndarray) -> Seen:
    return Seen(sketches=np.array([sketch(one, LAYOUT, b"key") for one in given]), key=b"key")


def test_a_copy_is_refused_whoever_sends_it_and_however_long_it_is_made():
    given = changes(10)
    copy = 2.5 * given[3] + 0.01
    assert "nearly the same" in examine(copy, LAYOUT, steps=9, seen=seen(given)).reason


def test_honest_updates_that_are_all_much_alike_are_no_copies():
    given = changes(11, alike=20.0)
    cosines = np.corrcoef(given)
    assert np.median(cosines) > 0.97
    assert examine(given[10], LAYOUT, steps=1, seen=seen(given[:10])).reason is None


def test_the_cosine_leaves_the_statistics_out():
    known = Seen(others=sketch(update(1.0), LAYOUT, b"key"), key=b"key")
    assert examine(update(3.0, 1e3), LAYOUT, steps=1, seen=known).cosine == pytest.approx(1.0)
    assert examine(-update(3.0, 1e3), LAYOUT, steps=1, seen=known).cosine == pytest.approx(-1.0)
    assert examine(update(3.0), LAYOUT, steps=1).cosine is None
