"""What a volunteer uses of its line, with real processes behind a slow one."""

import signal
from urllib.parse import urlsplit

import pytest
from processes import Place, blobs_dataset, model_file

from handcar.simulation.network import ThrottledLink
from handcar.simulation.stage import Process

pytestmark = pytest.mark.system

WIDE = [
    {"layer": "Dense", "units": 2000, "activation": "relu"},
    {"layer": "Dense", "units": 10, "activation": "softmax"},
]
STEPS = 20


def join(here: Place, *options: str, url: str | None = None) -> Process:
    home = str(here.folder / "ada")
    told = ("join", url or here.url, "--home", home, "--name", "ada", "--json", *options)
    return here.start(*told, log="ada.log")


def rounds(here: Place) -> list[tuple[float, int]]:
    return here.rows("select seconds, steps from rounds_update order by announced_at")


def steps(here: Place) -> int:
    return here.shown("ada")["progress"]["steps"]


def test_on_a_thin_line_rounds_become_longer_than_the_model_asks(here: Place):
    blobs_dataset(here.folder)
    asked = {"max_steps": STEPS, "max_seconds": 20}
    here.publish(model_file(here.folder, layers=WIDE, batch_size=1000, round=asked))
    parts = urlsplit(here.url)
    with ThrottledLink(
        (parts.hostname, parts.port), up_bits_per_s=64e3, down_bits_per_s=8e6
    ) as link:
        join(here, url=link.url)
        here.until(lambda: "so a round lasts" in here.said("ada"), "the person is told")
        before = len(rounds(here))
        # Without the budget a round would go on only until the last update is gone: a second.
        here.until(
            lambda: [one for one in rounds(here)[before:] if one[0] > 4 and one[1] > STEPS],
            "a longer round was sent",
        )
        shown = here.shown("ada")
        assert shown["round_seconds"] > 4
        assert shown["up_bytes_per_s"] < 8000 * 1.1
        here.until(lambda: here.merged_updates_of("ada") > 0, "it counts")


def test_a_daily_limit_stops_the_sending_and_not_the_training(published: Place):
    ada = join(published, "--up-daily", "0.00002")
    published.until(lambda: "are used up" in published.said("ada"), "the person is told")
    sent, before = len(rounds(published)), steps(published)
    assert sent > 0
    assert "You allow at most 20.0 kB a day up." in published.said("ada")
    published.until(lambda: steps(published) > before + 300, "it trains on")
    ada.send_signal(signal.SIGINT)
    assert ada.wait(60) == 130, published.logs()
    join(published, "--up-daily", "0.00002")
    published.until(lambda: published.said("ada").count("are used up") == 2, "it remembers")
    before = steps(published)
    published.until(lambda: steps(published) > before + 300, "it trains on again")
    assert len(rounds(published)) == sent
