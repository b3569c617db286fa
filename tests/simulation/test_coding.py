"""What the simulator takes for coding is what coding does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcar.simulation.coding import Meter, rounded
from handcar.wire import frames
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Layout, TensorSpec

LAYOUT = Layout(
    (TensorSpec("a", (7, 5)), TensorSpec("b", (3,), "statistic"), TensorSpec("c", (11,)))
)
FACTS = FrameFacts("update", "m", 0)


@given(seed=st.integers(0, 1000), k=st.sampled_from([0.5, 1.4, 2.0, 3.0, 4.0]))
def test_rounded_is_what_a_frame_brings(seed, k):
    rng = np.random.default_rng(seed)
    change = rng.standard_t(2, LAYOUT.size).astype(np.float32)
    frame = frames.encode_difference(FACTS, change, LAYOUT, k=k)
    arrived = frames.decode_difference(frame, LAYOUT)[1]
    assert np.array_equal(rounded(change, LAYOUT, k), arrived)


def test_no_step_changes_nothing():
    change = np.arange(LAYOUT.size, dtype=np.float32)
    assert np.array_equal(rounded(change, LAYOUT, None), change)


def test_a_meter_tells_a_frames_size():
    change = np.random.default_rng(0).normal(size=LAYOUT.size).astype(np.float32)
    frame = frames.encode_difference(FACTS, change, LAYOUT, k=2.0)
    assert Meter(FACTS, LAYOUT, 2.0).size(change) == len(frame)
    assert Meter(FACTS, LAYOUT, None).size(change) == 4 * LAYOUT.size


def test_what_is_not_finite_arrives_for_the_server_to_see():
    change = np.full(LAYOUT.size, np.nan, np.float32)
    assert np.isnan(rounded(change, LAYOUT, 3.0)).all()


@pytest.mark.parametrize("k", [1.4, 3.0])
def test_statistics_travel_exactly(k):
    change = np.random.default_rng(1).normal(size=LAYOUT.size).astype(np.float32)
    place = LAYOUT.statistic_slices[0]
    assert np.array_equal(rounded(change, LAYOUT, k)[place], change[place])
