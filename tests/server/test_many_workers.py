"""Several workers and web processes at once, as threads with connections of their own."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection, connections
from django.utils import timezone

from handcar.errors import StateConflict
from handcar.server import worker
from handcar.server.catalog.models import TrainingModel
from handcar.server.rounds import alerts, checks, evaluation, leases, merges, services
from handcar.server.rounds.models import WANTED, Alert, Participation, Update, Version
from server_api import announcement, later, newest, update_frame, work

CROWD = 6


def at_once(do, count=CROWD):
    """Call something in several threads at the same moment; return what each gave."""
    barrier = threading.Barrier(count)

    def one(number):
        try:
            connection.ensure_connection()
            barrier.wait(30)
            return do(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def deliver_some(server, model, count=3):
    return [
        server.deliver(server.join(f"v{seed}"), update_frame(model, seed=seed))
        for seed in range(count)
    ]


def checked(server, model, count=3):
    deliver_some(server, model, count)
    while checks.check_one(later(0)):
        pass
    assert Update.objects.filter(state="checked").count() == count


def test_newcomers_at_once_get_a_number_each(server):
    server.model()
    who = [server.join(f"v{number}") for number in range(CROWD)]
    beat = {"model_id": "digits", "version": 0, "step": 5, "records": 50}
    replies = at_once(
        lambda number: server.ask("POST", "/heartbeat", beat, token=who[number].token).status_code
    )
    assert replies == [200] * CROWD
    numbers = Participation.objects.order_by("number").values_list("number", flat=True)
    assert list(numbers) == list(range(CROWD))


def test_an_announcement_that_comes_in_twice_at_once_is_one(server):
    model = server.model()
    ann = server.join()
    told = announcement(update_frame(model))
    replies = at_once(lambda _: server.announce(ann, told))
    assert [reply.status_code for reply in replies] == [200] * CROWD
    assert len({reply.json()["id"] for reply in replies}) == 1
    assert Update.objects.count() == 1


def test_a_model_that_is_published_twice_at_once_is_one(server):
    server.publish(name="other")  # so that the chunks are here
    replies = at_once(lambda _: server.publish(dataset={"name": "new"}).status_code)
    assert sorted(replies) == [200] * (CROWD - 1) + [201]


def test_each_update_is_checked_by_one_of_several_workers(server, monkeypatch):
    model = server.model()
    deliver_some(server, model, count=5)
    real, examined = checks._examine, []

    def examine(update):
        examined.append(update.pk)
        return real(update)

    monkeypatch.setattr(checks, "_examine", examine)

    def run(_):
        while checks.check_one(later(0)):
            pass

    at_once(run)
    assert sorted(examined) == sorted(Update.objects.values_list("pk", flat=True))
    assert set(Update.objects.values_list("state", flat=True)) == {"checked"}


def test_several_workers_that_merge_at_once_count_each_update_once(server):
    model = server.model(epochs=1000)
    checked(server, model, count=4)

    def run(_):
        while merges.merge_one(later(60)):
            pass

    at_once(run)
    rows = Update.objects.all()
    assert {row.state for row in rows} == {"merged"}
    assert sum(row.updates for row in Version.objects.all()) == 4
    assert sum(row.updates_merged for row in Participation.objects.all()) == 4
    numbers = list(Version.objects.order_by("number").values_list("number", flat=True))
    assert numbers == list(range(len(numbers)))


def test_a_worker_that_lost_its_lease_can_not_commit(server, monkeypatch):
    model = server.model()
    checked(server, model)
    real = merges._commit

    def slept_too_long(lease, *rest):
        monkeypatch.setattr(merges, "_commit", real)
        assert merges.merge_one(later(120)), "another worker makes the version meanwhile"
        return real(lease, *rest)

    monkeypatch.setattr(merges, "_commit", slept_too_long)
    assert merges.merge_one(later(30))
    assert newest(model).number == 1
    merged = Update.objects.filter(state="merged").count()
    assert newest(model).updates == merged > 0
    assert sum(row.updates_merged for row in Participation.objects.all()) == merged


def test_who_lost_a_lease_does_not_release_that_of_another(server):
    model = server.model()
    first = leases.claim_merge(model, later(0))
    second = leases.claim_merge(model, later(60))
    leases.release_merge(first)
    first.keep(later(9999))
    assert not first.renew(later(61))
    assert leases.claim_merge(model, later(61)) is None
    with pytest.raises(StateConflict):
        first.expect()
    second.expect()


def test_a_lease_is_renewed_for_as_long_as_the_work_takes(server, monkeypatch):
    model = server.model()
    monkeypatch.setattr(leases, "RENEW_EVERY", timedelta(milliseconds=20))
    # Nearly over: only renewing keeps it.
    lease = leases.claim_merge(model, timezone.now() - leases.LEASE + timedelta(seconds=1))
    began = lease.until
    with lease.renewed():
        until = timezone.now() + timedelta(seconds=20)
        while lease.until == began and timezone.now() < until:
            threading.Event().wait(0.01)
        assert leases.claim_merge(model, began + timedelta(seconds=1)) is None
    leases.release_merge(lease)
    assert leases.claim_merge(model, timezone.now()) is not None


def test_nothing_is_merged_after_the_training_ended_in_the_midst_of_it(server, monkeypatch):
    model = server.model()
    checked(server, model)
    real = merges._commit

    def ends_first(*given):
        at_once(lambda _: services.finish(model.pk, later(0)), count=1)
        return real(*given)

    monkeypatch.setattr(merges, "_commit", ends_first)
    merges.merge_one(later(30))
    assert newest(model).number == 0
    assert set(Update.objects.values_list("state", flat=True)) == {"refused"}


def test_what_was_announced_while_the_training_ended_is_refused(server):
    model = server.model()
    services.finish(model.pk, later(0))
    TrainingModel.objects.update(state="pending")
    server.deliver(server.join(), update_frame(model))
    TrainingModel.objects.update(state="finished")
    work(later(0))
    assert (Update.objects.get().state, Update.objects.get().reason) == (
        "refused",
        services.TRAINING_OVER,
    )


def test_one_update_is_computed_again_by_one_process(server):
    model = server.model()
    deliver_some(server, model, count=1)
    Update.objects.update(examined_at=later(0), audit=WANTED)
    taken = at_once(lambda _: evaluation.claim(evaluation.to_audit(), timezone.now()))
    assert len([lease for lease in taken if lease is not None]) == 1
    assert not evaluation.waits()


def test_two_workers_that_see_the_same_alert_the_owner_once(server):
    model = server.model()
    at_once(lambda _: alerts.raise_(model.pk, alerts.MERGE, "look", later(0)))
    assert Alert.objects.count() == 1


def test_standing_counts_every_update_of_a_volunteer(server, monkeypatch):
    monkeypatch.setattr(checks, "_wants_audit", lambda *given, **named: "")
    model = server.model()
    ann = server.join()
    for seed in range(CROWD):
        server.deliver(ann, update_frame(model, seed=seed))

    def run(_):
        while checks.check_one(later(0)):
            pass

    at_once(run)
    row = Participation.objects.get()
    assert Update.objects.filter(state="checked").count() == CROWD
    assert (row.accepted, row.last_steps) == (CROWD, 100)


def test_the_worker_goes_on_after_its_connection_was_cut(server, engine, monkeypatch):
    if engine.vendor != "postgresql":
        pytest.skip("SQLite has no connections to cut")
    monkeypatch.setattr(worker, "AFTER_FAULT_S", 0.0)
    model = server.model()
    ann = server.join()
    server.deliver(ann, update_frame(model))
    cut()
    stop = threading.Event()
    worker._guarded(stop, lambda: worker.work_once(later(30)))
    for _ in range(5):
        worker._guarded(stop, lambda: worker.work_once(later(30)))
    assert Update.objects.get().state == "merged"


def test_a_lease_is_renewed_over_a_connection_that_was_cut(server, engine, monkeypatch):
    if engine.vendor != "postgresql":
        pytest.skip("SQLite has no connections to cut")
    model = server.model()
    monkeypatch.setattr(leases, "RENEW_EVERY", timedelta(milliseconds=20))
    lease = leases.claim_merge(model, timezone.now())
    with lease.renewed():
        seen = set()
        until = timezone.now() + timedelta(seconds=20)
        while len(seen) < 6 and timezone.now() < until:
            if len(seen) == 3:
                cut(but_mine=True)
            seen.add(lease.until)
            threading.Event().wait(0.01)
    assert len(seen) == 6


def cut(*, but_mine=False):
    """Cut the connections of everyone to this test's database."""

    def kill(_):
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND NOT pid = %s",
                [mine],
            )

    mine = connection.connection.info.backend_pid if but_mine else 0
    at_once(kill, count=1)
