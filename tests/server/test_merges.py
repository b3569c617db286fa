from dataclasses import replace

import numpy as np
import pytest

from handcar import files
from handcar.merging import trust
from handcar.server import blobs
from handcar.server.catalog.models import TrainingModel
from handcar.server.rounds import checks, decoding, leases, merges, series, services
from handcar.server.rounds.models import Participation, Update, Version
from handcar.wire import frames
from handcar.wire.layout import weights_digest
from server_api import announcement, frame_of, later, layout_of, newest, update_frame, work


@pytest.fixture
def model(server, monkeypatch):
    monkeypatch.setattr(trust, "NEW_WEIGHT", 1.0)  # that newcomers weigh less has its own tests
    return server.model()


@pytest.fixture
def ann(server):
    return server.join()


def decoded(model, frame):
    return frames.decode_difference(frame, layout_of(model))[1]


def test_one_volunteer_alone_is_plain_training(server, model, ann):
    exact = series.raw(newest(model).master_digest)
    for round_number, steps in enumerate((100, 30, 250)):
        frame = update_frame(model, base=round_number, seed=round_number)
        server.deliver(ann, frame, base_version=round_number, steps=steps, records=steps)
        work()
        exact = exact + decoded(model, frame)
    np.testing.assert_allclose(series.raw(newest(model).master_digest), exact, rtol=1e-6)
    assert newest(model).number == 3


def test_a_backlog_of_one_volunteer_loses_no_work(server, model, ann):
    exact = series.raw(newest(model).master_digest)
    for number, steps in enumerate((50, 100, 20)):
        frame = update_frame(model, seed=number)
        server.deliver(ann, frame, steps=steps, records=steps)
        exact = exact + decoded(model, frame)
    while checks.check_one(later(0)):
        pass
    work()
    np.testing.assert_allclose(series.raw(newest(model).master_digest), exact, rtol=1e-6)
    assert newest(model).number == 3
    assert newest(model).records_merged == 170


def test_an_update_counts_once(server, model, ann):
    frame = update_frame(model)
    first = server.deliver(ann, frame)
    work()
    again = server.deliver(server.join("bob"), frame)
    work()
    again.refresh_from_db()
    assert again.state == "refused"
    assert "came before" in again.reason
    assert newest(model).number == 1
    first.refresh_from_db()
    assert first.version.number == 1


def test_the_same_bytes_waiting_twice_count_once(server, model, ann):
    frame = update_frame(model)
    server.deliver(ann, frame)
    server.deliver(server.join("bob"), frame)
    work()
    assert sorted(Update.objects.values_list("state", flat=True)) == ["merged", "refused"]


def test_updates_are_merged_oldest_first_and_just_enough(server, model):
    people = [server.join(f"v{n}") for n in range(4)]
    for seed, who in enumerate(people):
        server.deliver(who, update_frame(model, seed=seed))
    while checks.check_one(later(0)):
        pass
    plan = merges.plan(model, later(0))
    oldest = list(Update.objects.order_by("received_at"))[:2]
    assert list(plan.updates) == oldest
    assert plan.activity.round_steps == 400


def one_of_four_waits(server, model):
    """Merge a round of four volunteers, and let one send again; return the version."""
    people = [server.join(f"v{n}") for n in range(4)]
    for seed, who in enumerate(people):
        server.deliver(who, update_frame(model, seed=seed))
    work()
    server.deliver(people[0], update_frame(model, seed=9))
    return newest(model).number


def test_work_below_half_a_round_waits_for_a_rounds_time(server, model):
    before = one_of_four_waits(server, model)
    work()
    assert newest(model).number == before
    work(later(21))
    assert newest(model).number == before + 1


def test_after_the_clock_was_set_back_work_below_half_a_round_waits_no_longer(server, model):
    before = one_of_four_waits(server, model)
    Version.objects.filter(number=before).update(published_at=later(3600))
    work()
    assert newest(model).number == before + 1


def test_a_lease_from_before_the_clock_was_set_back_keeps_nobody_out(server, model):
    TrainingModel.objects.update(merge_leased_until=later(3600))
    assert leases.claim_merge(model, later(0)) is None
    TrainingModel.objects.update(merge_leased_until=later(3 * 3600))
    assert leases.claim_merge(model, later(0)) is not None


@pytest.mark.parametrize("away_s", [0, 3600])
def test_a_crowds_backlog_moves_the_weights_like_its_rounds(server, model, away_s):
    people = [server.join(f"v{n}") for n in range(4)]
    for seed, who in enumerate(people):
        server.deliver(who, update_frame(model, seed=seed))
    work(later(away_s))
    made = Version.objects.filter(number__gt=0).values_list("updates", "counted_steps", "gain")
    assert list(made) == [(2, 200.0, pytest.approx(4 ** (1 / 3)))] * 2


def test_who_left_or_was_not_heard_of_for_two_rounds_is_not_counted(server, model):
    people = [server.join(f"v{n}") for n in range(3)]
    for seed, who in enumerate(people):
        server.deliver(who, update_frame(model, seed=seed))
    work(later(60))
    work(later(120))
    Participation.objects.filter(number=1).update(activity="leaving")
    Participation.objects.filter(number=2).update(heard_at=later(-60))
    server.deliver(people[0], update_frame(model, seed=9))
    checks.check_one(later(0))
    assert merges.plan(model, later(0)).activity.round_steps == 100


def test_claims_of_many_steps_are_capped(server, model):
    people = [server.join(f"v{n}") for n in range(3)]
    for seed, who in enumerate(people):
        steps = 1000 if seed == 0 else 100
        server.deliver(who, update_frame(model, seed=seed), steps=steps, records=steps)
    while checks.check_one(later(0)):
        pass
    plan = merges.plan(model, later(0))
    # 300 by the median, of which no account may have more than its share of all the work.
    assert plan.counted_steps == (pytest.approx(500 / 3), 100.0)


def test_a_late_update_counts_less_and_a_very_late_one_not_at_all(server, model, ann):
    server.deliver(ann, update_frame(model))
    work()
    halved = server.deliver(ann, update_frame(model, seed=2))
    late = server.deliver(server.join("bob"), update_frame(model, seed=3))
    published = Version.objects.get(number=1).published_at
    for update, rounds in ((halved, 6.0), (late, 12.5)):
        update.received_at = published + rounds * (later(20) - later(0))
        update.save()
    work(later(400))
    halved.refresh_from_db()
    late.refresh_from_db()
    assert halved.late_weight == pytest.approx(0.5, rel=1e-3)
    assert late.state == "refused"
    assert "too late" in late.reason


def refused(server, ann, frame, **facts):
    update = server.deliver(ann, frame, **facts)
    work()
    update.refresh_from_db()
    assert update.state == "refused", update.state
    assert not blobs.present(update.sha256)
    return update.reason


def test_statistics_that_are_not_finite_are_refused(server, ann):
    layers = [{"layer": "BatchNormalization"}, {"layer": "Dense", "units": 3}]
    model = server.model(layers=layers)
    layout = layout_of(model)
    change = np.ones(layout.size, np.float32)
    change[layout.statistic_slices[0]] = np.nan
    assert "not finite" in refused(server, ann, frame_of(model, change))


@pytest.mark.filterwarnings("ignore:overflow")
def test_numbers_too_large_to_add_up_are_refused(server, model, ann):
    change = np.ones(15, np.float32)
    frame = frame_of(model, change)
    facts, sections = frames.container.unpack(frame)
    facts["scales"] = [1e29, 1e29]
    huge = frames.container.pack(facts, [bytes(section) for section in sections])
    assert "too large" in refused(server, ann, huge)


def test_what_changes_nothing_is_refused(server, model, ann):
    assert "zero" in refused(server, ann, frame_of(model, np.zeros(15, np.float32)))


def test_what_is_no_frame_is_refused(server, model, ann):
    assert "magic" in refused(server, ann, b"not a frame at all, but a text")


def test_a_frame_of_another_version_is_refused(server, model, ann):
    assert "from version 3" in refused(server, ann, update_frame(model, base=3))


def test_a_frame_of_another_model_is_refused(server, model, ann):
    server.model(name="letters")
    other = TrainingModel.objects.get(id="letters")
    assert "of letters" in refused(server, ann, update_frame(other))


def test_a_frame_of_another_size_is_refused(server, model, ann):
    server.model(name="wide", layers=[{"layer": "Dense", "units": 4, "activation": "softmax"}])
    frame = update_frame(TrainingModel.objects.get(id="wide"))
    refused(server, ann, frame)


def test_a_delta_is_no_update(server, model, ann):
    facts = frames.FrameFacts("delta", "digits", 0)
    change = np.ones(15, np.float32)
    refused(server, ann, frames.encode_difference(facts, change, layout_of(model), k=0.1))


def test_a_far_too_long_one_is_refused_and_a_long_one_shortened(server, model, ann):
    for seed in range(6):
        server.deliver(ann, update_frame(model, seed=seed), base_version=0)
        work()
    assert "times as long" in refused(server, ann, update_frame(model, seed=7, length=0.1))
    usual = np.median(services.last_norms(model))
    change = decoded(model, update_frame(model, seed=8))
    change = change / np.linalg.norm(change) * np.float32(usual * 10 * 2)  # sqrt(100 steps)
    update = server.deliver(ann, frame_of(model, change))
    work()
    update.refresh_from_db()
    assert update.state == "merged"
    assert update.factor == pytest.approx(0.75, rel=0.01)


def test_an_update_that_crashes_the_check_is_refused_after_three_times(
    server, model, ann, monkeypatch
):
    monkeypatch.setattr(decoding, "decode", lambda update: 1 / 0)
    poisoned = server.deliver(ann, update_frame(model))
    honest = server.deliver(server.join("bob"), update_frame(model, seed=2))
    for minute in range(5):
        work(later(60 * minute))
    poisoned.refresh_from_db()
    assert (poisoned.state, poisoned.reason) == ("refused", checks.UNREADABLE)
    assert poisoned.attempts == 4
    honest.refresh_from_db()
    assert honest.state == "refused"


def test_an_update_that_would_break_the_weights_is_refused_alone(server, model, ann, monkeypatch):
    real = merges.merging.merge

    def broken(*given, **more):
        result = real(*given, **more)
        return replace(result, weights=result.weights * np.float32("inf"))

    with monkeypatch.context() as patched:
        patched.setattr(merges.merging, "merge", broken)
        update = server.deliver(ann, update_frame(model))
        work()
    update.refresh_from_db()
    assert "finite" in update.reason
    server.deliver(ann, update_frame(model, seed=2))
    work()
    assert newest(model).number == 1


def test_training_finishes_when_all_wanted_records_are_merged(server, ann):
    model = server.model(epochs=5)
    server.deliver(ann, update_frame(model))
    work()
    model.refresh_from_db()
    assert model.state == "pending"
    server.deliver(ann, update_frame(model, seed=2))
    server.deliver(ann, update_frame(model, seed=3))
    work()
    model.refresh_from_db()
    assert model.state == "finished"
    states = Update.objects.order_by("received_at").values_list("state", "reason")
    assert list(states) == [("merged", None)] * 2 + [("refused", services.TRAINING_OVER)]


def test_a_paused_model_still_merges_what_was_acknowledged(server, model, ann):
    server.deliver(ann, update_frame(model))
    TrainingModel.objects.update(state="paused")
    work()
    assert newest(model).number == 1


def test_two_workers_never_merge_the_same_model_at_once(server, model, ann):
    server.deliver(ann, update_frame(model))
    assert checks.check_one(later(0))
    now = later(0)
    assert leases.claim_merge(model, now) is not None
    assert not merges.merge_one(now)
    assert merges.merge_one(now + 2 * leases.LEASE)


def test_an_owner_who_finishes_while_a_merge_runs_wins(server, model, ann, monkeypatch):
    server.deliver(ann, update_frame(model))
    checks.check_one(later(0))
    encode = series.encode_next

    def finish_meanwhile(*args):
        services.finish("digits", later(0))
        return encode(*args)

    monkeypatch.setattr(series, "encode_next", finish_meanwhile)
    assert merges.merge_one(later(0))
    assert newest(model).number == 0
    assert Update.objects.get().state == "refused"


def test_who_helped_is_counted(server, model, ann):
    server.deliver(ann, update_frame(model))
    work()
    assert Participation.objects.get().updates_merged == 1
    assert services.Volunteer.objects.get().bytes_up > 0


def test_the_bytes_of_merged_updates_are_let_go(server, model, ann, monkeypatch):
    monkeypatch.setattr(services, "MERGED_KEPT", 0)
    update = server.deliver(ann, update_frame(model))
    work()
    assert not blobs.present(update.sha256)


def test_the_announced_facts_survive_the_database(server, model, ann):
    facts = announcement(update_frame(model), carried=[], loss=0.1, seconds=1 / 3 + 10)
    server.announce(ann, facts)
    kept = Update.objects.get().announcement().model_dump(mode="json")
    assert {name: kept[name] for name in facts} == facts


def test_versions_are_named_by_their_weights(server, model, ann):
    server.deliver(ann, update_frame(model))
    work()
    version = newest(model)
    assert weights_digest(series.raw(version.published_digest)) == version.weights_sha256
    assert version.master_digest == files.digest(blobs.read(version.master_digest))
