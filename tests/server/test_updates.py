import io
import uuid
from datetime import timedelta

import pytest

from handcar.protocol import limits
from handcar.server import blobs
from handcar.server.catalog.models import TrainingModel
from handcar.server.rounds import leases, services
from handcar.server.rounds.models import Update, Version
from server_api import announcement, later, update_frame, work


@pytest.fixture
def model(server):
    return server.model()


@pytest.fixture
def ann(server):
    return server.join()


def test_an_update_is_announced_sent_and_acknowledged(server, model, ann):
    frame = update_frame(model)
    facts = announcement(frame)
    status = server.announce(ann, facts).json()
    assert (status["state"], status["offset"]) == ("announced", 0)
    reply = server.send(status["upload_url"], frame, 0, ann.token)
    assert reply.status_code == 200
    assert reply.json()["state"] == "received"
    assert blobs.read(facts["sha256"]) == frame


def test_announcing_it_again_is_harmless(server, model, ann):
    facts = announcement(update_frame(model))
    first = server.announce(ann, facts)
    assert server.announce(ann, facts).json() == first.json()
    assert Update.objects.count() == 1


def test_another_update_under_the_same_id_is_a_conflict(server, model, ann):
    facts = announcement(update_frame(model))
    server.announce(ann, facts)
    assert server.announce(ann, {**facts, "steps": 99}).status_code == 409
    assert server.announce(server.join("bob"), facts).status_code == 409


def test_sending_it_again_after_it_came_answers_with_its_state(server, model, ann):
    frame = update_frame(model)
    update = server.deliver(ann, frame)
    url = f"/updates/{update.pk}/bytes"
    for offset in (0, len(frame)):
        reply = server.send(url, frame, offset, ann.token)
        assert (reply.status_code, reply.json()["state"]) == (200, "received")
    head = server.ask("HEAD", url, token=ann.token)
    assert head["Upload-Offset"] == head["Upload-Length"] == str(len(frame))


def test_another_volunteers_update_does_not_exist(server, model, ann):
    update = server.deliver(ann, update_frame(model))
    bob = server.join("bob")
    url = f"/updates/{update.pk}"
    assert server.ask("GET", url, token=bob.token).status_code == 404
    assert server.ask("HEAD", url + "/bytes", token=bob.token).status_code == 404
    assert server.send(url + "/bytes", b"x", 0, bob.token).status_code == 404
    assert server.ask("GET", f"/updates/{uuid.uuid4()}", token=ann.token).status_code == 404
    assert server.ask("GET", url, token=ann.token).json()["state"] == "received"


def test_a_wrong_offset_is_answered_with_the_true_one(server, model, ann):
    frame = update_frame(model)
    url = server.announce(ann, announcement(frame)).json()["upload_url"]
    assert server.send(url, frame[:10], 0, ann.token).json()["offset"] == 10
    reply = server.send(url, frame[20:], 20, ann.token)
    assert reply.status_code == 409
    assert reply.json()["type"] == "/problems/wrong-offset"
    assert reply["Upload-Offset"] == "10"
    assert server.send(url, frame[10:], 10, ann.token).json()["state"] == "received"


def test_an_offset_must_be_said(server, model, ann):
    url = server.announce(ann, announcement(update_frame(model))).json()["upload_url"]
    for headers in ({}, {"Upload-Offset": "-1"}, {"Upload-Offset": "x"}):
        reply = server.ask("PATCH", url, b"x", token=ann.token, headers=headers)
        assert reply.status_code == 400


def test_wrong_bytes_are_thrown_away_and_sent_again_from_the_start(server, model, ann):
    frame = update_frame(model)
    facts = announcement(frame)
    url = server.announce(ann, facts).json()["upload_url"]
    reply = server.send(url, b"x" * len(frame), 0, ann.token)
    assert reply.status_code == 460
    assert reply["Upload-Offset"] == "0"
    assert server.ask("HEAD", url, token=ann.token)["Upload-Offset"] == "0"
    assert Update.objects.get().state == "announced"
    assert server.send(url, frame, 0, ann.token).json()["state"] == "received"


def test_more_bytes_than_announced_are_never_taken(server, model, ann):
    frame = update_frame(model)
    url = server.announce(ann, announcement(frame)).json()["upload_url"]
    reply = server.send(url, frame + b"x", 0, ann.token)
    assert reply.status_code == 413
    assert not any(path.stat().st_size > len(frame) for path in server.home.uploads.iterdir())


def test_a_client_that_vanishes_leaves_what_arrived(server, model, ann):
    frame = update_frame(model)
    url = server.announce(ann, announcement(frame)).json()["upload_url"]
    reply = server.client.generic(
        "PATCH",
        url,
        headers={"Authorization": f"Bearer {ann.token}", "Upload-Offset": "0"},
        **{"wsgi.input": io.BytesIO(frame[:100]), "CONTENT_LENGTH": str(len(frame))},
    )
    assert reply.json()["offset"] == 100
    assert server.send(url, frame[100:], 100, ann.token).json()["state"] == "received"


def test_a_crash_between_the_bytes_and_the_row_is_mended_by_asking(server, model, ann, monkeypatch):
    frame = update_frame(model)
    facts = announcement(frame)
    url = server.announce(ann, facts).json()["upload_url"]
    with monkeypatch.context() as broken:
        broken.setattr(services, "receive", lambda update, now: (_ for _ in ()).throw(KeyError))
        with pytest.raises(KeyError):
            server.send(url, frame, 0, ann.token)
    assert Update.objects.get().state == "announced"
    assert server.announce(ann, facts).json()["state"] == "received"


def test_a_crash_before_the_bytes_are_moved_is_mended_by_an_empty_patch(
    server, model, ann, monkeypatch
):
    frame = update_frame(model)
    url = server.announce(ann, announcement(frame)).json()["upload_url"]
    with monkeypatch.context() as broken:
        broken.setattr(blobs, "adopt", lambda part, digest: (_ for _ in ()).throw(KeyError))
        with pytest.raises(KeyError):
            server.send(url, frame, 0, ann.token)
    assert server.ask("HEAD", url, token=ann.token)["Upload-Offset"] == str(len(frame))
    assert server.send(url, b"", len(frame), ann.token).json()["state"] == "received"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"model_id": "none"}, 404),
        ({"base_version": 7}, 409),
        ({"size": 5 * 15 + 64 * 1024 + 1}, 413),
        ({"steps": 1000, "seconds": 0.001}, 400),
        ({"records": 1001}, 400),
        ({"seconds": -1}, 400),
    ],
)
def test_what_can_not_be_is_refused_before_the_bytes(server, model, ann, changes, status):
    reply = server.announce(ann, announcement(update_frame(model), **changes))
    assert reply.status_code == status
    assert Update.objects.count() == 0


def test_a_model_that_is_finished_takes_no_updates(server, model, ann):
    TrainingModel.objects.update(state="finished")
    reply = server.announce(ann, announcement(update_frame(model)))
    assert reply.status_code == 410
    assert "finished" in reply.json()["detail"]


def test_what_was_trained_before_a_pause_is_still_taken(server, model, ann):
    TrainingModel.objects.update(state="paused")
    assert server.announce(ann, announcement(update_frame(model))).status_code == 200


def test_too_many_unmerged_updates_have_to_wait(server, model, ann):
    frame = update_frame(model)
    for _ in range(limits.PENDING_UPDATES):
        assert server.announce(ann, announcement(frame)).status_code == 200
    reply = server.announce(ann, announcement(frame))
    assert reply.status_code == 429
    assert int(reply["Retry-After"]) > 0
    assert server.announce(server.join("bob"), announcement(frame)).status_code == 200


def test_a_server_short_of_disk_says_so_before_the_bytes(server, model, ann, monkeypatch):
    monkeypatch.setattr(blobs, "RESERVE_BYTES", 2**62)
    assert server.announce(ann, announcement(update_frame(model))).status_code == 507


def test_an_update_that_comes_far_too_late_is_not_wanted(server, model, ann):
    server.deliver(ann, update_frame(model))
    work()
    frame = update_frame(model, seed=2)
    facts = services.UpdateAnnouncement.model_validate(announcement(frame))
    volunteer = services.Volunteer.objects.get()
    with pytest.raises(services.Refusal, match="too late"):
        services.announce(volunteer, facts, later(20.0 * 13))
    services.announce(volunteer, facts, later(20.0 * 11))


def test_a_thin_line_that_sends_for_minutes_is_not_late(server, model, ann):
    server.deliver(ann, update_frame(model))
    work()
    volunteer = services.Volunteer.objects.get()
    for number, (seconds, came_s, state) in enumerate(
        [(1800.0, 20.0 * 13, "kept"), (1800.0, 1800 * 1.3, "late"), (1e6, 1800 * 1.3, "late")]
    ):
        told = announcement(update_frame(model, seed=2 + number), seconds=seconds)
        facts = services.UpdateAnnouncement.model_validate(told)
        if state == "kept":
            services.announce(volunteer, facts, later(came_s))
        else:
            with pytest.raises(services.Refusal, match="too late"):
                services.announce(volunteer, facts, later(came_s))


def begun_at(version):
    """Return the recipe of a round that began at one version and went on from a newer one."""
    chunk = {"chunk": "0" * 16, "opening": 0, "draw": 0}
    drawn = {"seed": 1, "draw": 0, "pieces": [[1, 1]], "chunks": [chunk], "steps": 100}
    earlier = {"base_version": version, "steps": 10}
    return {"backend": "jax", "drawn": [drawn], "earlier_starts": [earlier]}


def test_a_round_that_went_on_from_a_newer_version_is_as_late_as_that(server, model, ann):
    for seed in (1, 2):
        server.deliver(ann, update_frame(model, seed=seed))
        work(later(20.0 * seed))
    told = announcement(update_frame(model, seed=3, base=2), base_version=2, recipe=begun_at(0))
    facts = services.UpdateAnnouncement.model_validate(told)
    volunteer = services.Volunteer.objects.get()
    assert services.announce(volunteer, facts, later(20.0 * 60)).announcement() == facts


def test_a_round_can_not_have_begun_where_there_was_nothing(server, model, ann):
    reply = server.announce(ann, announcement(update_frame(model), recipe=begun_at(7)))
    assert reply.status_code == 409
    assert "version 7" in reply.json()["detail"]


def test_a_round_that_began_where_nobody_can_look_any_more_does_not_count(server, model, ann):
    server.deliver(ann, update_frame(model))
    work(later(20.0))
    Version.objects.filter(number=0).update(published_digest=None, keyframe_digest=None)
    told = announcement(update_frame(model, seed=2, base=1), base_version=1, recipe=begun_at(0))
    reply = server.announce(ann, told)
    assert reply.status_code == 410
    assert "no longer kept" in reply.json()["detail"]


def test_an_update_whose_bytes_never_come_expires(server, model, ann):
    frame = update_frame(model)
    status = server.announce(ann, announcement(frame)).json()
    server.send(status["upload_url"], frame[:10], 0, ann.token)
    work(later(limits.UPLOAD_EXPIRES_S - 60))
    assert Update.objects.get().state == "announced"
    work(later(limits.UPLOAD_EXPIRES_S + 60))
    reply = server.ask("GET", f"/updates/{status['id']}", token=ann.token).json()
    assert reply["state"] == "expired"
    assert "48 hours" in reply["reason"]
    assert list(server.home.uploads.iterdir()) == []


def test_leases_let_nobody_else_check_the_same_update(server, model, ann):
    server.deliver(ann, update_frame(model))
    now = later(0)
    assert services.claim_received(now) is not None
    assert services.claim_received(now) is None
    assert services.claim_received(now + leases.LEASE + timedelta(seconds=1)) is not None
