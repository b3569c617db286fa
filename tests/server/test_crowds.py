"""What a crowd costs: the same for two and for many, and once for all where that is right."""

from __future__ import annotations

import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext

from handcar.server import memory
from handcar.server.accounts.models import Volunteer
from handcar.server.catalog.models import Chunk, Dataset, TrainingModel
from handcar.server.memory import Kept
from handcar.server.rounds import heartbeats, merges, participation, rollback, services
from handcar.server.rounds.models import (
    CHECKED,
    MERGED,
    RECEIVED,
    REFUSED,
    Participation,
    Update,
    Version,
)
from server_api import Api, later, newest, prepare, update_frame, work

NOW = datetime.now(UTC)


@pytest.fixture
def remembering(server: Api, monkeypatch: pytest.MonkeyPatch) -> Api:
    """A server whose process remembers, as it does outside of tests."""
    monkeypatch.setattr(memory, "LONGEST_S", float("inf"))
    monkeypatch.setattr(participation, "WRITE_EVERY_S", 3600.0)
    memory.forget()
    return server


def beat(server: Api, who: Any, **changes: Any) -> Any:
    body = {"model_id": "digits", "version": 0, "step": 5, "records": 50, **changes}
    reply = server.ask("POST", "/heartbeat", body, token=who.token)
    assert reply.status_code == 200, reply.content
    return reply.json()


def queries(server: Api, path: str, token: str | None = None) -> int:
    memory.forget()
    with CaptureQueriesContext(connection) as captured:
        reply = server.ask("GET", path, token=token)
    assert reply.status_code == 200, reply.content
    return len(captured)


def add_models(server: Api, first: int, count: int) -> None:
    """Make models like the first, each with a version and a volunteer."""
    like = TrainingModel.objects.get(id="digits")
    for number in range(first, first + count):
        dataset = Dataset.objects.create(name=f"d{number}", owner_id=like.owner_id, size=1)
        like.pk, like.dataset = f"m{number}", dataset
        like.save(force_insert=True)
        Chunk.objects.create(
            dataset=dataset,
            index=0,
            split="train",
            digest=f"sha256:{number:064d}",
            size=1,
            records=1,
            file_name="c",
            codec="raw",
            on_server=True,
        )
        add_versions(like.pk, 1)
        add_volunteers(like.pk, 1)


def add_versions(model_id: str, count: int) -> None:
    first = Version.objects.filter(model_id=model_id).count()
    Version.objects.bulk_create(
        Version(
            model_id=model_id,
            number=number,
            weights_sha256="sha256:" + "0" * 64,
            keyframe_digest="sha256:" + "0" * 64,
            keyframe_size=1,
            loss=0.5,
            published_at=NOW,
        )
        for number in range(first, first + count)
    )


def add_volunteers(model_id: str, count: int, **facts: Any) -> list[Volunteer]:
    ids = [uuid.uuid4() for _ in range(count)]
    first = Participation.objects.filter(model_id=model_id).count()
    who = Volunteer.objects.bulk_create(Volunteer(id=i, name="x", token_hash=i.hex) for i in ids)
    Participation.objects.bulk_create(
        Participation(
            volunteer=one,
            model_id=model_id,
            number=first + n,
            heard_at=NOW + timedelta(minutes=5),
            activity="training",
            updates_merged=1,
            last_steps=100,
            **facts,
        )
        for n, one in enumerate(who)
    )
    return who


def add_updates(model_id: str, who: list[Volunteer]) -> None:
    version = Version.objects.filter(model_id=model_id).first()
    states = [(REFUSED, None), (CHECKED, None), (MERGED, version)]
    Update.objects.bulk_create(
        Update(
            volunteer=one,
            model_id=model_id,
            base_version=0,
            seed=1,
            steps=100,
            records=1000,
            seconds=20.0,
            size=10,
            sha256="sha256:" + uuid.uuid4().hex * 2,
            state=states[n % 3][0],
            version=states[n % 3][1],
            announced_at=NOW,
            received_at=NOW,
            examined_at=NOW,
            checked_at=NOW,
        )
        for n, one in enumerate(who)
    )


PATHS = ["/list", "/default", "/model?model_id=digits", "/models/digits", "/series/digits"]
PAGES = ["http://testserver/", "http://testserver/models/digits/"]


@pytest.mark.parametrize("path", [*PATHS, *PAGES, "http://testserver/metrics"])
def test_a_request_takes_as_many_queries_with_50_of_everything_as_with_2(server, path):
    if path.endswith("metrics"):
        pytest.importorskip("prometheus_client")
    model = server.model()
    token = server.join().token if path in PATHS[1:3] else None
    if token:
        server.ask("GET", path, token=token)  # the first time it is given a number
    counts = []
    for have, more in ((0, 2), (2, 48)):
        add_models(server, have, more)
        add_versions(model.pk, more)
        add_updates(model.pk, add_volunteers(model.pk, more))
        counts.append(queries(server, path, token))
    assert counts[0] == counts[1]


def test_planning_a_merge_takes_as_many_queries_with_50_volunteers_as_with_2(server):
    model = server.model()
    counts = []
    for more in (2, 48):
        add_updates(model.pk, add_volunteers(model.pk, more))
        with CaptureQueriesContext(connection) as captured:
            merges.plan(model, datetime.now(UTC))
        counts.append(len(captured))
    assert counts[0] == counts[1]


# -- pages of the list -----------------------------------------------------------------------


def test_the_list_comes_in_pages_that_lead_to_the_next(server):
    server.model()
    add_models(server, 0, 6)
    ids: list[str] = []
    path = "/list?limit=3"
    for _ in range(3):
        reply = server.ask("GET", path)
        ids += [row["id"] for row in reply.json()]
        path = reply.headers.get("Link", "").removeprefix("<").partition(">")[0]
    assert ids == ["digits", "m0", "m1", "m2", "m3", "m4", "m5"]
    assert path == ""


def test_a_client_that_knows_no_pages_gets_the_list_as_ever(server):
    server.model()
    reply = server.ask("GET", "/list")
    assert [row["id"] for row in reply.json()] == ["digits"]
    assert "Link" not in reply.headers


@pytest.mark.parametrize(
    ("query", "status"), [("limit=501", 400), ("limit=x", 400), ("after=none", 404)]
)
def test_a_page_that_is_none_is_refused(server, query, status):
    assert server.ask("GET", f"/list?{query}").status_code == status


def test_what_the_list_says_of_a_model_is_what_was_counted_before(server):
    model = server.model()
    for number in range(3):
        server.deliver(server.join(), update_frame(model, seed=number))
    work()
    row = server.ask("GET", "/list").json()[0]
    versions = Version.objects.filter(model=model)
    assert row["updates_merged"] == sum(v.updates for v in versions) > 0
    frames = server.ask("GET", "/series/digits").json()
    keyframe = frames["keyframe"]
    after = [one["size"] for one in frames["deltas"] if one["version"] > keyframe["version"]]
    chunk = server.ask("GET", "/default", token=server.join().token).json()["dataset"][0]["size"]
    assert row["begin_bytes"] == keyframe["size"] + sum(after) + model.model_file_size + chunk


# -- heartbeats ------------------------------------------------------------------------------


def test_a_heartbeat_of_one_who_is_known_asks_the_database_nothing(remembering):
    remembering.model()
    ann = remembering.join()
    beat(remembering, ann)
    with CaptureQueriesContext(connection) as captured:
        beat(remembering, ann, step=6)
    assert len(captured) == 0


def test_a_heartbeat_with_updates_asks_twice(remembering):
    model = remembering.model()
    ann = remembering.join()
    update = remembering.deliver(ann, update_frame(model))
    beat(remembering, ann)
    with CaptureQueriesContext(connection) as captured:
        reply = beat(remembering, ann, pending=[str(update.pk)])
    assert reply["updates"][0]["state"] == "received"
    assert len(captured) == 2


def test_what_heartbeats_told_is_written_together_and_the_last_of_each(remembering):
    remembering.model()
    who = [remembering.join(str(number)) for number in range(5)]
    for step in (7, 8):
        for one in who:
            beat(remembering, one, step=step, version=10**30)
    assert set(Participation.objects.values_list("step", flat=True)) == {0}
    with CaptureQueriesContext(connection) as captured:
        participation.waiting.write()
    assert sum("BEGIN" in query["sql"] for query in captured) <= 1
    assert set(Participation.objects.values_list("step", "version")) == {(8, 2**31 - 1)}


def test_what_was_heard_late_does_not_make_it_seem_longer_ago(remembering):
    remembering.model()
    ann = remembering.join()
    beat(remembering, ann)
    Participation.objects.update(heard_at=later(100))
    participation.waiting.write()
    assert Participation.objects.get().heard_at > later(90)


def test_what_could_not_be_written_is_written_the_next_time(remembering, monkeypatch):
    remembering.model()
    beat(remembering, remembering.join(), step=9)
    with monkeypatch.context() as broken:
        broken.setattr(participation, "_statement", lambda: "UPDATE none SET x = 1")
        with pytest.raises(DatabaseError):
            participation.waiting.write()
    participation.waiting.write()
    assert Participation.objects.get().step == 9


def test_a_row_that_another_transaction_holds_is_left_for_the_next_time(remembering):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no rows to hold")
    remembering.model()
    beat(remembering, remembering.join(), step=9)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        from django.db import transaction

        with transaction.atomic():
            list(Participation.objects.select_for_update())
            held.set()
            done.wait(20)
        connection.close()

    other = threading.Thread(target=hold)
    other.start()
    held.wait(20)
    participation.waiting.write()
    assert Participation.objects.get().step == 0
    done.set()
    other.join()
    participation.waiting.write()
    assert Participation.objects.get().step == 9


def test_a_version_taken_back_between_newest_and_states_is_noticed(remembering):
    model = remembering.model()
    ann = remembering.join()
    update = remembering.deliver(ann, update_frame(model))
    work()
    pending = [str(update.pk)]
    first = beat(remembering, ann, pending=pending)
    assert (first["newest"], first["updates"][0]["state"]) == (1, "merged")
    rollback.ask(model, 0)
    assert rollback.roll_back_one(datetime.now(UTC))
    second = beat(remembering, ann, pending=pending)
    # Version 1 is remembered, and holds the update; to call it received would count it twice.
    assert (second["newest"], second["updates"][0]["state"]) == (2, "received")


def test_an_update_merged_in_a_version_that_is_not_known_yet_is_told_with_that_version(remembering):
    model = remembering.model()
    ann = remembering.join()
    update = remembering.deliver(ann, update_frame(model))
    beat(remembering, ann)
    work()
    reply = beat(remembering, ann, pending=[str(update.pk)])
    assert reply["newest"] == 0
    assert reply["updates"][0]["version"] == 1 == newest(model).number


def test_a_message_reaches_who_is_remembered_within_a_moment(remembering, monkeypatch):
    remembering.model()
    ann = remembering.join()
    beat(remembering, ann)
    remembering.ask("POST", "/messages", {"text": "hi"}, token=remembering.owner)
    heartbeats._moments.clear()  # a second later
    [message] = beat(remembering, ann)["messages"]
    beat(remembering, ann, seen_messages=[message["id"]])
    with CaptureQueriesContext(connection) as captured:
        assert beat(remembering, ann)["messages"] == []
    assert len(captured) == 0


def test_a_crowd_that_comes_within_seconds_is_spread_over_the_models(remembering):
    remembering.model()
    remembering.publish(name="letters", validation=False)
    prepare("letters")
    given = [
        remembering.ask("GET", "/default", token=remembering.join().token).json()["id"]
        for _ in range(6)
    ]
    assert given.count("digits") == given.count("letters") == 3


def test_a_frame_of_a_version_that_a_heartbeat_named_is_in_the_list(remembering):
    model = remembering.model()
    ann = remembering.join()
    assert remembering.ask("GET", "/series/digits").json()["newest"] == 0
    remembering.deliver(ann, update_frame(model))
    work()
    assert remembering.ask("GET", "/series/digits").json()["newest"] == 1


# -- counted as they come --------------------------------------------------------------------


def test_what_is_counted_as_it_comes_is_what_counting_anew_gives(server):
    model = server.model()
    for number in range(4):
        server.deliver(server.join(), update_frame(model, seed=number))
    services.refuse(Update.objects.first(), "no", datetime.now(UTC))
    work()
    server.deliver(server.join(), update_frame(model, seed=9))
    services.finish(model.pk, datetime.now(UTC))
    model.refresh_from_db()
    updates = Update.objects.filter(model=model, received_at__isnull=False)
    assert model.updates_received == updates.count() == 5
    assert model.bytes_received == sum(updates.values_list("size", flat=True))
    assert model.updates_refused == updates.filter(state=REFUSED).count() > 1


def test_looking_in_vain_for_what_to_merge_is_not_repeated_at_once_where_it_is_dear(
    server, monkeypatch
):
    model = server.model()
    add_updates(model.pk, add_volunteers(model.pk, 3))
    looked = []
    monkeypatch.setattr(merges, "DEAR_S", 0.0)
    monkeypatch.setattr(merges, "PLANNING", 1e-4)
    monkeypatch.setattr(merges, "plan", lambda *_: looked.append(1))
    for _ in range(3):
        merges.merge_one(datetime.now(UTC))
    assert len(looked) == 1


def test_while_updates_wait_to_be_checked_looking_in_vain_is_not_repeated_at_once(
    server, monkeypatch
):
    model = server.model()
    add_updates(model.pk, add_volunteers(model.pk, 6))
    looked = []
    monkeypatch.setattr(merges, "PLANNING", 1e-9)
    monkeypatch.setattr(merges, "plan", lambda *_: looked.append(1))
    waiting = Update.objects.filter(state=CHECKED)[0]
    Update.objects.filter(id=waiting.pk).update(state=RECEIVED, examined_at=None)
    for _ in range(3):
        merges.merge_one(datetime.now(UTC))
    assert len(looked) == 1
    Update.objects.filter(id=waiting.pk).update(state=CHECKED)
    merges.merge_one(datetime.now(UTC))
    assert len(looked) == 2  # nothing else is left to do


# -- what is remembered ----------------------------------------------------------------------


def test_one_thread_makes_a_value_while_the_others_go_on_with_the_last():
    kept: Kept[int] = Kept(0.05)
    assert kept.get("a", lambda: 1) == 1
    time.sleep(0.06)
    began, goes_on = threading.Event(), threading.Event()

    def slowly() -> int:
        began.set()
        goes_on.wait(10)
        return 2

    other = threading.Thread(target=lambda: kept.get("a", slowly))
    other.start()
    began.wait(10)
    assert kept.get("a", lambda: 3) == 1
    goes_on.set()
    other.join()
    assert kept.get("a", lambda: 3) == 2


def test_no_more_is_remembered_than_it_may():
    kept: Kept[int] = Kept(60, most=10)
    for number in range(100):
        kept.put(number, number)
    assert kept.find(99) == 99
    assert len(kept._values) <= 10


def test_a_failure_is_not_remembered():
    kept: Kept[int] = Kept(60)
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: 1 // 0)
    assert not kept._making
    assert kept.get("a", lambda: 1) == 1
