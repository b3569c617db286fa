"""A volunteer's rounds follow what it measures, and the person hears of what matters."""

from pathlib import Path

from test_state import assignment

from handcar.protocol.messages import RoundLimits
from handcar.volunteer.budget import SHORTEST_S, Allowance
from handcar.volunteer.line import Line
from handcar.volunteer.pacing import Pacing


def paced(path: Path, sizes: tuple[int, ...] = (), **allowed: float) -> Pacing:
    line = Line(Allowance(**allowed), path / "line.json")
    return Pacing(assignment(), line, sizes)


def test_nothing_is_told_before_anything_is_known(tmp_path: Path):
    pacing = paced(tmp_path)
    assert pacing.renew() is None
    pacing.made(1000)
    assert pacing.renew() is None
    assert pacing.budget.max_seconds == SHORTEST_S


def test_it_is_told_once_and_again_when_it_changes(tmp_path: Path):
    pacing = paced(tmp_path, up_bytes_per_s=125_000.0)
    pacing.made(2_500_000)
    assert pacing.renew() == (
        "You allow 1 Mbit/s up. An update of 2.5 MB takes 20 s, so a round lasts about 3 minutes."
    )
    assert pacing.renew() is None
    pacing.ask(RoundLimits(min_seconds=900))
    assert "the server asks for rounds of about 15 minutes" in pacing.renew()


def test_an_update_that_half_an_hour_cannot_carry_is_coded_coarsely_and_stays_so(tmp_path: Path):
    pacing = paced(tmp_path, up_bytes_per_s=1000.0)
    pacing.made(2_500_000)
    assert "more coarsely" in pacing.renew()
    for _ in range(5):
        assert pacing.budget.update_step == 4.0
        pacing.made(900_000)  # small enough, but only because it is coarse
        pacing.renew()
    assert pacing.budget.update_bytes == 900_000


def test_a_restart_knows_the_sizes_of_before(tmp_path: Path):
    pacing = paced(tmp_path, (2_500_000,), up_bytes_per_s=125_000.0)
    pacing.renew()
    assert pacing.budget.min_seconds == 200


def test_rounds_follow_what_versions_and_the_time_between_rounds_take(tmp_path: Path):
    pacing = paced(tmp_path, down_bytes_per_s=10_000.0)
    pacing.took_up(20_000)
    pacing.renew()
    assert pacing.budget.min_seconds == 10
    pacing.was_between(1.0)
    pacing.renew()
    assert (pacing.budget.min_seconds, pacing.budget.max_seconds) == (10, 20)
