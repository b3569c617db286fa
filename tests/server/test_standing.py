"""Weight, networks, rates and failing merges: what a volunteer's standing changes."""

import hashlib

import numpy as np
import pytest
from django.core.cache import cache

from handcar.errors import DiskFull
from handcar.merging import merge as merging
from handcar.merging import trust
from handcar.server import addresses
from handcar.server.accounts.models import Volunteer
from handcar.server.catalog.models import TrainingModel
from handcar.server.rounds import checks, decoding, leases, merges, pace, series
from handcar.server.rounds.models import Alert, Participation, Update, Version
from server_api import later, newest, update_frame, work


@pytest.fixture
def model(server):
    return server.model(epochs=1000)


def check_all():
    while checks.check_one(later(0)):
        pass


def crowd(server, model, count, *, steps=100):
    people = [server.join(f"v{n}") for n in range(count)]
    for seed, who in enumerate(people):
        server.deliver(who, update_frame(model, seed=seed), steps=steps, records=steps)
    return people


def test_a_newcomer_weighs_a_quarter_beside_those_who_are_known(server, model):
    crowd(server, model, 4)
    Participation.objects.exclude(number=3).update(accepted=10, audited=2)
    check_all()
    weights = Update.objects.order_by("received_at").values_list("trust", flat=True)
    assert list(weights) == [1.0, 1.0, 1.0, trust.NEW_WEIGHT]
    plan = merges.plan(model, later(60))
    assert plan.activity.round_steps == 325


def test_a_newcomers_records_count_in_full(server, model):
    server.deliver(server.join(), update_frame(model), steps=100, records=1000)
    work()
    assert newest(model).records_merged == 1000


def test_standing_grows_with_what_is_accepted_and_shows_what_is_refused(server, model):
    ann = server.join()
    server.deliver(ann, update_frame(model))
    server.deliver(ann, b"no frame at all, but bytes")
    work()
    row = Participation.objects.get()
    assert row.refused == 1
    machine = server.ask("GET", "/models/digits").json()["training"][0]
    assert (machine["standing"], machine["updates_refused"]) == ("new", 1)


def test_what_is_merged_is_remembered_for_the_next_version(server, model):
    crowd(server, model, 3)
    work(later(30))
    version = newest(model)
    reference = series.raw(version.reference_digest)
    assert reference.shape == series.raw(version.master_digest).shape
    assert np.linalg.norm(reference) > 0
    merged = Update.objects.filter(version=version)
    assert all(part is not None for part in merged.values_list("part", flat=True))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("203.0.113.7", "203.0.113.250", True),
        ("203.0.113.7", "203.0.114.7", False),
        ("2001:db8:1:2::3", "2001:db8:1:ffff::1", True),
        ("2001:db8:1::3", "2001:db8:2::3", False),
        ("203.0.113.7", "::ffff:203.0.113.9", True),
    ],
)
def test_a_network_is_known_by_a_hash(one, other, same):
    assert (addresses.hashed(one) == addresses.hashed(other)) == same
    assert "203" not in addresses.hashed(one)[:3]
    assert addresses.hashed(one) != hashlib.sha256(one.encode()).hexdigest()


def test_what_is_no_address_is_no_network():
    assert addresses.hashed("unknown") == ""


def test_a_volunteer_is_counted_for_the_network_that_it_sends_from(server, model):
    server.deliver(server.join(), update_frame(model))
    assert Volunteer.objects.get().address_block == addresses.hashed("127.0.0.1")


def test_many_accounts_of_one_network_count_for_one_share(server, model):
    crowd(server, model, 8)
    blocks = ["a", "a", "a", "a", "a", "b", "c", "d"]
    for row, block in zip(Participation.objects.order_by("number"), blocks, strict=True):
        Volunteer.objects.filter(id=row.volunteer_id).update(address_block=block)
    check_all()
    for update in Update.objects.select_related("volunteer"):
        update.save()
    plan = merges.plan(model, later(60))
    total = plan.activity.round_steps
    of_a = sum(
        counted
        for update, counted in zip(plan.updates, plan.counted_steps, strict=True)
        if update.volunteer.address_block == "a"
    )
    assert of_a <= trust.MOST * total + 1e-6


# -- what rounds are asked to be -------------------------------------------------------------


def test_a_round_is_told_where_the_schedule_is_and_what_the_others_do(server, model):
    people = crowd(server, model, 2)
    work(later(30))
    Participation.objects.filter(number=1).update(steps_per_second=7.0)
    cache.clear()
    body = server.ask("GET", "/model?model_id=digits", token=people[0].token).json()
    assert body["round"]["records_done"] == newest(model).records_merged > 0
    assert body["round"]["others_records_per_second"] == 7.0 * model.batch_size
    alone = server.ask("GET", "/model?model_id=digits", token=people[1].token).json()
    assert alone["round"]["others_records_per_second"] == 0.0


@pytest.mark.parametrize(
    ("effective", "factor"), [(1, 1.0), (4, 1.0), (6, 1.5), (8, 2.0), (50, 2.0)]
)
def test_rates_grow_with_the_effective_volunteers(server, model, effective, factor):
    late = 1_000_000 * model.batch_size
    assert pace.rate_factor(model, effective, late) == pytest.approx(factor)


def test_the_rates_of_many_begin_low(server, model):
    own = 8 * model.batch_size  # so many records are a step of each of 8
    assert pace.rate_factor(model, 8, 25 * own) == pytest.approx(0.5)
    assert pace.rate_factor(model, 8, 100 * own) == pytest.approx(2.0)
    assert pace.rate_factor(model, 1, 0) == 1.0


def test_other_rules_leave_the_rate_alone_and_say_what_rounds_start_from(server):
    model = server.model(merging="average")
    assert pace.rate_factor(model, 50, 0) == 1.0
    body = server.ask("GET", "/model?model_id=digits", token=server.join().token).json()
    assert body["starts"] == "waits"


# -- merges that fail ------------------------------------------------------------------------


def test_an_update_that_merging_fails_over_is_found_and_refused(server, model, monkeypatch):
    crowd(server, model, 2)
    check_all()
    bad = Update.objects.order_by("received_at").first()
    real = decoding.decode
    decoding.forget([bad.pk])  # what the check decoded

    def fails(update):
        if update.pk == bad.pk:
            raise RuntimeError("nobody foresaw this")
        return real(update)

    monkeypatch.setattr(decoding, "decode", fails)
    now = later(60)
    for _ in range(merges.ATTEMPTS):
        assert merges.merge_one(now)
        now += leases.LONGEST
    bad.refresh_from_db()
    assert bad.state == "refused"
    work(now)
    assert newest(model).number == 1
    assert TrainingModel.objects.get().merge_attempts == 0


def test_merges_that_fail_are_tried_ever_more_seldom_and_the_owner_is_told(
    server, model, monkeypatch
):
    crowd(server, model, 2)
    check_all()

    def full(*args, **named):
        raise DiskFull("no room")

    now = later(60)
    with monkeypatch.context() as patched:
        patched.setattr(merging, "merge", full)
        for attempt in range(5):
            assert merges.merge_one(now)
            assert not merges.merge_one(now + leases.LEASE * 2**attempt * 0.9)
            now += leases.LEASE * 2**attempt * 1.1
    alert = Alert.objects.get()
    assert "no room" in alert.text
    assert set(Update.objects.values_list("state", flat=True)) == {"checked"}
    assert merges.merge_one(now)
    alert.refresh_from_db()
    assert alert.ended_at is not None
    assert Version.objects.count() == 2


def test_alerts_refusals_and_ways_back_are_on_the_page(server, model):
    from handcar.server.rounds import alerts

    server.deliver(server.join("<b>mallory</b>"), b"no frame at all, but bytes")
    work()
    alerts.raise_(model.pk, alerts.MERGE, "no version can be made", later(0))
    alerts.note(model.pk, alerts.ROLLBACK, "version 3 goes back to version 1", later(0))
    page = server.client.get("/models/digits/").content.decode()
    assert "No version can be made." in page
    assert "Version 3 goes back to version 1." in page
    assert "&lt;b&gt;mallory" in page
    assert "magic" in page
