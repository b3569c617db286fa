"""What an update must be to count."""

import numpy as np
import pytest

from handcar.merging.filters import examine
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
    assert "not finite" in examine(change, LAYOUT, steps=1, norms=[]).reason


def test_an_update_that_changes_no_weight_is_refused():
    assert "changes nothing" in examine(update(0.0, 3.0), LAYOUT, steps=1, norms=[]).reason


def test_a_usual_update_passes_unchanged():
    verdict = examine(update(1.2), LAYOUT, steps=1, norms=USUAL)
    assert verdict.reason is None
    assert verdict.factor == 1.0


def test_a_long_update_is_shortened_and_a_very_long_one_refused():
    assert examine(update(2.0), LAYOUT, steps=1, norms=USUAL).factor == pytest.approx(0.75)
    assert "3.5 times as long" in examine(update(3.5), LAYOUT, steps=1, norms=USUAL).reason


def test_more_steps_may_go_further():
    assert examine(update(8.0), LAYOUT, steps=64, norms=USUAL).factor == 1.0


def test_large_statistics_are_not_held_against_the_length():
    assert examine(update(1.0, 1000.0), LAYOUT, steps=1, norms=USUAL).norm == pytest.approx(1.0)


def test_the_first_updates_have_nothing_to_be_compared_with():
    assert examine(update(1e6), LAYOUT, steps=1, norms=[1.0] * 4).reason is None
