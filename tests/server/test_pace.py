"""Rounds as long as the worker needs them, and no longer."""

import time
from datetime import timedelta

import pytest
from django.utils import timezone

from handcar.protocol import limits
from handcar.server import memory
from handcar.server.rounds import pace
from handcar.server.rounds.models import MERGED, Update, Version
from server_api import update_frame


@pytest.fixture
def model(server):
    return server.model()


def merged(server, model, *, waited_s: float, each_s: float, count: int = 8) -> None:
    """So many updates that were each checked `each_s` after the last, having `waited_s`."""
    who, began = server.join(), timezone.now()
    version = Version.objects.get(model=model)
    for number in range(count):
        update = server.deliver(who, update_frame(model, seed=number))
        checked = began + timedelta(seconds=each_s * number)
        Update.objects.filter(id=update.pk).update(
            state=MERGED,
            version=version,
            received_at=checked - timedelta(seconds=waited_s),
            checked_at=checked,
            examined_at=checked,
        )


def test_a_worker_that_waits_for_work_asks_for_nothing(server, model):
    merged(server, model, waited_s=0.3, each_s=20)
    assert pace.min_seconds(model, timezone.now()) == 0


def test_a_busy_worker_asks_for_rounds_that_take_half_its_time(server, model):
    merged(server, model, waited_s=60, each_s=2)
    for name in ("bob", "carl"):
        server.ask("GET", "/default", token=server.join(name).token)
    assert pace.seconds_an_update(model) == pytest.approx(2)
    assert pace.min_seconds(model, timezone.now()) == pytest.approx(3 * 2 / pace.LOAD)
    body = server.ask("GET", "/default", token=server.join("dora").token).json()
    assert body["round"]["min_seconds"] == pytest.approx(4 * 2 / pace.LOAD)


def test_rounds_of_a_short_training_are_short_enough_for_fifty_once_there_are_others(server):
    model = server.model(epochs=10)  # of 300 records, ten a step: 300 steps in all
    alone = server.ask("GET", "/default", token=server.join("ada").token).json()["round"]
    assert (alone["max_steps"], alone["longest_steps"]) == (model.round_steps, None)
    memory.forget()
    other = server.ask("GET", "/default", token=server.join("bob").token).json()["round"]
    assert (other["max_steps"], other["longest_steps"]) == (6, 6)


def test_who_came_last_is_seen_within_a_second_while_volunteers_are_few(server, monkeypatch):
    monkeypatch.setattr(memory, "LONGEST_S", float("inf"))
    model = server.model(epochs=10)
    first = server.join("ada")
    server.ask("GET", "/default", token=first.token)
    server.ask("GET", "/default", token=server.join("bob").token)
    time.sleep(pace.FEW_KEPT_S)
    asked = server.ask("GET", "/model?model_id=digits", token=first.token).json()["round"]
    assert asked["longest_steps"] == pace.longest_steps(model)


def test_rounds_of_a_training_without_an_end_are_as_long_as_its_owner_says(server, model):
    server.ask("GET", "/default", token=server.join("ada").token)
    asked = server.ask("GET", "/default", token=server.join("bob").token).json()["round"]
    assert (asked["max_steps"], asked["longest_steps"]) == (model.round_steps, None)


def test_it_never_asks_for_more_than_the_longest_round(server, model):
    merged(server, model, waited_s=1e5, each_s=4000)
    assert pace.min_seconds(model, timezone.now()) == limits.ROUND_S
