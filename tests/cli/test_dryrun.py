"""What a dry run tells."""

import numpy as np
import pytest

from handcar.cli import dryrun
from handcar.cli.dryrun import Sizes
from handcar.wire import frames
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import weights_digest

SIZES = Sizes(
    model_file=1_000,
    weights=1_000_000,
    train=(1_000_000, 2_000_000, 1_500_000),
    validation=500_000,
    decoded=20_000_000,
    stores=2,
)


def test_sizes_are_sums_of_what_is_said_of_them():
    assert SIZES.begin == 1_000 + SIZES.keyframe + 1_500_000  # of the small chunks the largest
    assert SIZES.all == 1_000 + SIZES.keyframe + 4_500_000
    assert SIZES.up == 2 * 4_500_000 + 500_000
    assert SIZES.disk > SIZES.decoded


@pytest.mark.parametrize("spread", [0.01, 0.05, 1.0])
def test_a_keyframe_of_fresh_weights_is_about_as_large_as_told(spread):
    rng = np.random.default_rng(0)
    for weights in (rng.normal(size=400_000), rng.uniform(-1, 1, 400_000)):
        flat = frames.round_keyframe(weights.astype(np.float32) * np.float32(spread))
        facts = FrameFacts("keyframe", "m", 0, weights_digest(flat))
        size = len(frames.encode_keyframe(facts, flat))
        assert size == pytest.approx(400_000 * dryrun.KEYFRAME_BYTES_A_WEIGHT, rel=0.06)


def test_a_line_of_twice_the_speed_takes_half_the_time():
    two, eight, *_ = dryrun.lines(SIZES)
    assert two.first_step_s == pytest.approx(4 * eight.first_step_s, rel=0.01)
    assert two.all_s > two.first_step_s


@pytest.mark.parametrize(
    ("count", "told"), [(10**5, "s"), (3 * 10**8, "min"), (10**10, "hours"), (10**12, "days")]
)
def test_times_are_told_in_units_that_people_think_in(count, told):
    sizes = Sizes(model_file=0, weights=0, train=(count,), validation=0, decoded=0)
    row = dryrun.text(sizes).splitlines()[5]
    assert "8 Mbit/s" in row
    assert f" {told}" in row
