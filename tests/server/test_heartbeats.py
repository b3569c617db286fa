import uuid

import pytest

from handcar.server import front
from handcar.server.catalog.models import MessageReceipt, TrainingModel
from handcar.server.rounds import heartbeats, pressure, services
from handcar.server.rounds.models import Participation
from server_api import later, prepare, update_frame, work


@pytest.fixture
def model(server):
    return server.model()


@pytest.fixture
def ann(server):
    return server.join()


def beat(server, who, **changes):
    body = {"model_id": "digits", "version": 0, "step": 5, "records": 50, **changes}
    reply = server.ask("POST", "/heartbeat", body, token=who.token)
    assert reply.status_code == 200, reply.content
    return reply.json()


def test_a_heartbeat_is_noted_and_answered(server, model, ann):
    reply = beat(server, ann, steps_per_second=2.5, loss=0.7, activity="training")
    assert (reply["newest"], reply["model_state"], reply["order"]) == (0, "pending", "carry on")
    row = Participation.objects.get()
    assert (row.step, row.steps_per_second, row.loss) == (5, 2.5, 0.7)


def test_who_was_heard_from_before_the_clock_was_set_back_is_heard_now(server, model, ann):
    beat(server, ann)
    row = Participation.objects
    row.update(heard_at=(soon := later(5)))
    beat(server, ann)
    assert row.get().heard_at == soon, "another process heard it a moment later"
    row.update(heard_at=later(3600))
    beat(server, ann)
    assert row.get().heard_at < later(0)


def test_a_host_that_gave_wrong_bytes_is_logged_for_whoever_runs_the_server(
    server, model, ann, caplog
):
    beat(server, ann, liars=["data.example.org:8443"])
    assert "got wrong bytes from data.example.org:8443" in caplog.text
    body = {"model_id": "digits", "version": 0, "step": 1, "records": 1, "liars": ["a\nb"]}
    assert server.ask("POST", "/heartbeat", body, token=ann.token).status_code == 400


def test_a_heartbeat_of_an_unknown_model_is_404(server, ann):
    body = {"model_id": "none", "version": 0, "step": 1, "records": 1}
    assert server.ask("POST", "/heartbeat", body, token=ann.token).status_code == 404


def test_pending_updates_are_told_of_and_unknown_ones_are_not(server, model, ann):
    update = server.deliver(ann, update_frame(model))
    other = server.deliver(server.join("bob"), update_frame(model, seed=2))
    pending = [str(update.pk), str(other.pk), str(uuid.uuid4())]
    assert [u["state"] for u in beat(server, ann, pending=pending)["updates"]] == ["received"]
    work()
    merged = beat(server, ann, pending=pending)
    assert merged["updates"][0]["state"] == "merged"
    assert merged["updates"][0]["version"] <= merged["newest"]


def test_the_newest_version_is_read_before_the_states(server, model, ann, monkeypatch):
    update = server.deliver(ann, update_frame(model))

    def merge_first(*args):
        work()
        return statuses(*args)

    statuses = heartbeats._statuses
    monkeypatch.setattr(heartbeats, "_statuses", merge_first)
    reply = beat(server, ann, pending=[str(update.pk)])
    assert (reply["newest"], reply["updates"][0]["version"]) == (0, 1)


def test_a_message_is_shown_until_it_was_seen(server, model, ann):
    text = {"text": "We move tonight", "level": "warning", "link": "https://example.org"}
    server.ask("POST", "/messages", text, token=server.owner)
    first = beat(server, ann)["messages"]
    assert [message["text"] for message in first] == ["We move tonight"]
    seen = [first[0]["id"], 99, 2**60]
    assert beat(server, ann, seen_messages=seen)["messages"] == []
    assert beat(server, ann, seen_messages=seen)["messages"] == []
    assert MessageReceipt.objects.count() == 1


def test_a_message_is_for_those_who_train_its_model_and_joined_before_it(server, model, ann):
    server.publish(name="letters", validation=False)
    prepare("letters")
    body = {"text": "hi", "model_id": "letters"}
    server.ask("POST", "/messages", body, token=server.owner)
    assert beat(server, ann)["messages"] == []
    assert len(beat(server, ann, model_id="letters")["messages"]) == 1
    bob = server.join("bob")
    assert beat(server, bob, model_id="letters")["messages"] == []


def test_an_order_in_a_message_is_an_order(server, model, ann):
    body = {"text": "Please stop.", "order": "stop"}
    server.ask("POST", "/messages", body, token=server.owner)
    reply = beat(server, ann)
    assert (reply["order"], reply["reason"]) == ("stop", "Please stop.")
    seen = [reply["messages"][0]["id"]]
    assert beat(server, ann, seen_messages=seen)["order"] == "carry on"


def test_a_pause_holds_until_a_newer_message(server, model, ann):
    server.ask("POST", "/messages", {"text": "wait", "order": "pause"}, token=server.owner)
    seen = [beat(server, ann)["messages"][0]["id"]]
    assert beat(server, ann, seen_messages=seen)["order"] == "pause"
    server.ask("POST", "/messages", {"text": "go on"}, token=server.owner)
    assert beat(server, ann)["order"] == "carry on"


def test_the_models_state_gives_the_order(server, model, ann):
    TrainingModel.objects.update(state="paused")
    assert beat(server, ann)["order"] == "pause"
    TrainingModel.objects.update(state="finished")
    assert beat(server, ann)["order"] == "stop"
    server.publish(name="letters", validation=False)
    prepare("letters")
    assert beat(server, ann)["order"] == "switch"


def test_another_protocol_is_told_to_upgrade_and_still_heard(server, model, ann):
    reply = beat(server, ann, protocol_version="2.0")
    assert reply["order"] == "upgrade"
    assert "pip install" in reply["reason"]
    assert Participation.objects.count() == 1


def test_numbers_beyond_the_database_are_no_fault(server, model, ann):
    beat(server, ann, version=10**30, step=2**53)
    beat(server, ann, version=-(10**30))


def test_who_leaves_does_not_count_as_training(server, model, ann):
    beat(server, ann)
    assert server.ask("GET", "/list").json()[0]["volunteers"] == 1
    beat(server, ann, activity="leaving")
    assert server.ask("GET", "/list").json()[0]["volunteers"] == 0


def test_what_is_left_when_training_ends_is_refused_with_the_reason(server, model, ann):
    update = server.deliver(ann, update_frame(model))
    server.ask("PATCH", "/models/digits", {"state": "finished"}, token=server.owner)
    reply = beat(server, ann, pending=[str(update.pk)])
    assert reply["updates"][0]["state"] == "refused"
    assert reply["updates"][0]["reason"] == services.TRAINING_OVER


# -- a crowd -----------------------------------------------------------------------------------


def test_in_a_crowd_a_newer_version_is_told_later(server, model, ann, monkeypatch):
    server.deliver(ann, update_frame(model))
    work()
    assert beat(server, ann, version=0)["newest"] == 1
    monkeypatch.setattr(front, "_under_way", pressure.CROWDED + 1)
    assert beat(server, ann, version=0)["newest"] == 0
    assert beat(server, ann, version=1)["newest"] == 1
    assert beat(server, ann, version=-1)["newest"] == 1, "who has none needs one"
    assert beat(server, ann, version=7)["newest"] == 1, "of what there is"
    monkeypatch.setattr(front, "_under_way", pressure.CROWDED)
    assert beat(server, ann, version=0)["newest"] == 1
