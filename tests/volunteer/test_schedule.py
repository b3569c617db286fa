"""A round is in the schedule where the weights are that it starts from."""

import pytest

from handcar.protocol.messages import RatePlan, RoundLimits
from handcar.volunteer.schedule import KEPT, Own, Schedule


def test_records_of_the_version_and_of_what_is_carried_count():
    schedule = Schedule(batch_size=10)
    schedule.hear(3, RoundLimits(records_done=1000))
    schedule.hear(4, RoundLimits(records_done=1600, rate_factor=2.0))
    assert schedule.plan(Own(3, carried_records=200)) == RatePlan(first=120, factor=2.0)
    assert schedule.plan(Own(4)) == RatePlan(first=160, factor=2.0)


def test_what_others_train_meanwhile_moves_it_on():
    schedule = Schedule(batch_size=10)
    schedule.hear(0, RoundLimits(records_done=0, others_records_per_second=300))
    assert schedule.plan(Own(0, records_per_second=100)).pace == 4
    assert schedule.plan(Own(0)).pace == 1, "before anything was measured"


def test_alone_it_moves_with_the_own_steps_exactly():
    schedule = Schedule(batch_size=10)
    schedule.hear(0, RoundLimits(records_done=0))
    assert schedule.plan(Own(0, carried_records=70, records_per_second=3.3)) == RatePlan(first=7)


def test_a_roll_back_leads_back():
    schedule = Schedule(batch_size=10)
    for version, done in enumerate((0, 1000, 2000, 1000)):
        schedule.hear(version, RoundLimits(records_done=done))
    assert schedule.plan(Own(3)).first == 100


def test_a_server_that_does_not_say_leaves_it_to_the_own_steps():
    schedule = Schedule(batch_size=10)
    schedule.hear(5, RoundLimits())
    assert schedule.plan(Own(5, steps=321)) == RatePlan(first=321)


@pytest.mark.parametrize("version", [0, 10**6])
def test_a_version_that_was_not_told_of_is_taken_for_the_nearest(version: int):
    schedule = Schedule(batch_size=1)
    for told in range(1, 100):
        schedule.hear(told, RoundLimits(records_done=told))
    assert schedule.plan(Own(version)).first == (99 if version else 100 - KEPT)
