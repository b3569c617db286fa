"""Rounds that trusted volunteers train again: who is drawn, what it gets, what is believed."""

import base64
import uuid
from datetime import timedelta

import numpy as np
import pytest
from test_many_workers import CROWD, at_once

from handcar.errors import StoreAway
from handcar.merging.sketch import SIZE, sketch
from handcar.protocol.messages import AuditTask, Drawn, DrawnChunk
from handcar.server import addresses, blobs
from handcar.server.accounts.models import Volunteer
from handcar.server.rounds import auditors, checks, leases, services, verdicts
from handcar.server.rounds.models import Audit, Participation, Update
from server_api import later, layout_of, update_frame, work


@pytest.fixture(autouse=True)
def no_time(monkeypatch):
    """Let the evaluator have no time for audits, and nobody's answer be computed again."""
    monkeypatch.setattr(checks, "AUDITS_WAITING", 0)
    monkeypatch.setattr(verdicts, "AGAIN_SHARE", 0.0)


@pytest.fixture
def model(server):
    return server.model(epochs=1000)


def recipe(**more):
    drawn = Drawn(
        seed=1,
        draw=0,
        pieces=((20, 5),),
        chunks=(DrawnChunk(chunk="0" * 16, opening=0, draw=0),),
        steps=100,
    )
    return {"backend": "jax", "drawn": [drawn.model_dump(mode="json")], **more}


def beat(server, who, **changes):
    body = {"model_id": "digits", "version": 0, "step": 5, "records": 50, "audits_on": "jax"}
    body |= {"steps_per_second": 50.0, "activity": "training", **changes}
    reply = server.ask("POST", "/heartbeat", body, token=who.token)
    assert reply.status_code == 200, reply.content
    return reply.json()


def trusted(server, name="tess", block="here", **changes):
    """Return a volunteer that has earned its standing."""
    who = server.join(name)
    beat(server, who, **changes)
    part_of(who).update(accepted=20, audited=2)
    if block == "here":
        block = addresses.hashed("127.0.0.1")
    Volunteer.objects.filter(id=who.id).update(address_block=block)
    return who


def part_of(who):
    return Participation.objects.filter(volunteer_id=who.id)


def newcomer(server, model, name="ned", *, seed=1, who=None, **facts):
    """Deliver an update from another network, as far as `checked`; return it."""
    who = who or server.join(name)
    frame = update_frame(model, seed=seed, base=facts.get("base_version", 0))
    update = server.deliver(who, frame, **{"recipe": recipe(), **facts})
    Volunteer.objects.filter(id=who.id).update(address_block="elsewhere")
    assert checks.check_one(later(0))
    update.refresh_from_db()
    assert (update.state, update.audit) == ("checked", "skipped")
    return update


def image_of(update, audit, *, length=1.0):
    """Return what somebody answers who found just what was sent."""
    change = checks.decoded(update) * np.float32(length)
    return text_of(sketch(change, layout_of(update.model), bytes.fromhex(audit.key)))


def text_of(image):
    return base64.b64encode(np.asarray(image, "<f4").tobytes()).decode()


def answer(server, who, id, **told):
    return server.ask("POST", f"/audits/{id}", told, token=who.token)


def test_a_round_that_the_evaluator_has_no_time_for_is_offered_to_who_was_drawn(server, model):
    tess = trusted(server)
    update = newcomer(server, model)
    audit = Audit.objects.get()
    assert (audit.update_id, audit.auditor_id, audit.state) == (update.pk, tess.id, "drawn")
    assert beat(server, tess)["audit"] == str(audit.pk)
    assert beat(server, tess, audits_on=None)["audit"] is None
    task = AuditTask.model_validate_json(
        server.ask("GET", f"/audits/{audit.pk}", token=tess.token).content
    )
    assert task.rounds == (update.announcement(),)
    assert task.series.keyframe.version == 0
    assert task.updates == ()


def test_what_came_out_the_same_is_an_audit_passed(server, model):
    tess = trusted(server)
    update = newcomer(server, model)
    audit = Audit.objects.get()
    assert answer(server, tess, audit.pk, image=image_of(update, audit)).status_code == 204
    work()
    audit.refresh_from_db()
    assert (audit.state, audit.image) == ("passed", None)
    assert audit.cosine == pytest.approx(1.0, abs=1e-3)
    part = Participation.objects.get(volunteer_id=update.volunteer_id)
    assert (part.accepted, part.audited) == (1, 1)
    assert Update.objects.get(id=update.pk).audit == "passed"
    row = next(
        row
        for row in server.ask("GET", "/models/digits").json()["training"]
        if row["name"] == "tess"
    )
    assert row["audits"] == 1


def test_what_came_out_otherwise_refuses_nothing_by_itself(server, model):
    tess = trusted(server)
    update = newcomer(server, model)
    audit = Audit.objects.get()
    assert answer(server, tess, audit.pk, image=text_of(np.ones(SIZE))).status_code == 204
    work()
    audit.refresh_from_db()
    update.refresh_from_db()
    assert audit.state == "again"
    assert (update.state, update.audit) in {("checked", "skipped"), ("merged", "skipped")}
    assert part_of(tess).get().failed == 0


def test_half_the_length_is_not_the_same(server, model):
    tess = trusted(server)
    update = newcomer(server, model)
    audit = Audit.objects.get()
    answer(server, tess, audit.pk, image=image_of(update, audit, length=2.0))
    work()
    audit.refresh_from_db()
    assert (audit.state, round(audit.norm_ratio, 1)) == ("again", 0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"audited": 1},
        {"accepted": 9},
        {"audits_on": None},
        {"audits_on": "torch"},
        {"steps_per_second": 0.1},
        {"audits_after": later(24 * 3600)},
        {"activity": "leaving"},
        {"heard_at": later(-3600)},
    ],
)
def test_only_who_is_trusted_able_and_rested_is_drawn(server, model, change):
    part_of(trusted(server)).update(**change)
    newcomer(server, model)
    assert not Audit.objects.exists()


@pytest.mark.parametrize(
    "told",
    [
        {"recipe": None},
        {"steps": 200},
        {"recipe": recipe(rate={"factor": 3.0})},
        {"recipe": recipe(after=[str(uuid.uuid4())])},
        {"carried": [str(uuid.uuid4())]},
        {"recipe": recipe(earlier_starts=[{"base_version": 0, "steps": 200}])},
        {
            "recipe": recipe(
                earlier_starts=[{"base_version": 0, "steps": 1, "carried": [str(uuid.uuid4())]}]
            )
        },
    ],
)
def test_nobody_is_drawn_for_what_can_not_have_been_or_be_had(server, model, told):
    trusted(server)
    newcomer(server, model, **told)
    assert not Audit.objects.exists()


def test_nobody_is_drawn_for_what_takes_too_many_bytes(server, model, monkeypatch):
    monkeypatch.setattr(auditors, "SENT_BYTES", 10)
    ned = server.join("ned")
    first = newcomer(server, model, who=ned)
    trusted(server)
    newcomer(server, model, who=ned, seed=2, recipe=recipe(after=[str(first.pk)]))
    assert not Audit.objects.exists()


def test_who_was_drawn_is_told_of_all_that_a_round_started_from(server, model):
    tess, ned = trusted(server), server.join("ned")
    first = server.deliver(ned, update_frame(model, seed=1))
    assert checks.check_one(later(0))
    work(later(30))
    start = {"base_version": 0, "steps": 5, "carried": [str(first.pk)]}
    update = newcomer(
        server, model, who=ned, seed=2, base_version=1, recipe=recipe(earlier_starts=[start])
    )
    reply = server.ask("GET", f"/audits/{Audit.objects.get().pk}", token=tess.token)
    asked = AuditTask.model_validate(reply.json())
    assert [one.id for one in asked.rounds] == [update.pk]
    assert [one.base_version for one in asked.rounds[0].starts()] == [0, 1]
    assert [one.id for one in asked.updates] == [first.pk]
    assert asked.series.keyframe.version == 0
    assert [frame.version for frame in asked.series.deltas] == [1]


def test_nobody_is_drawn_for_what_takes_too_much_memory(server, model, monkeypatch):
    trusted(server)
    weights = layout_of(model).size
    monkeypatch.setattr(auditors, "MEMORY_BYTES", 8 * weights)
    newcomer(server, model, "nina", seed=1)
    assert Audit.objects.count() == 1
    Audit.objects.all().delete()
    Participation.objects.update(audits_after=None)
    monkeypatch.setattr(auditors, "MEMORY_BYTES", 8 * weights - 1)
    newcomer(server, model, "nora", seed=2)
    assert not Audit.objects.exists()


@pytest.mark.parametrize("block", ["elsewhere", ""])
def test_nobody_of_the_same_network_or_of_none_is_drawn(server, model, block):
    trusted(server, block=block)
    newcomer(server, model)
    assert not Audit.objects.exists()


def test_nobody_is_drawn_for_its_own_round(server, model):
    tess = trusted(server)
    update = server.deliver(tess, update_frame(model), recipe=recipe())
    Participation.objects.update(audited=0, accepted=0)
    assert checks.check_one(later(0))
    Participation.objects.update(audited=2, accepted=20)
    update.refresh_from_db()
    Volunteer.objects.update(address_block="another")
    assert auditors.draw(update, later(0)) is None


def test_who_asks_from_the_network_that_the_round_came_from_gets_nothing(server, model):
    tess = trusted(server)
    update = newcomer(server, model)
    here = addresses.hashed("127.0.0.1")
    Volunteer.objects.filter(id=update.volunteer_id).update(address_block=here)
    audit = Audit.objects.get()
    assert server.ask("GET", f"/audits/{audit.pk}", token=tess.token).status_code == 410
    audit.refresh_from_db()
    assert audit.state == "unable"


def test_the_lot_falls_on_everyone_who_may(server, model):
    people = {trusted(server, f"tess{n}").id for n in range(3)}
    drawn = set()
    for seed in range(40):
        Participation.objects.update(audits_after=None)
        newcomer(server, model, f"ned{seed}", seed=seed)
        drawn.add(Audit.objects.get(state="drawn").auditor_id)
        Audit.objects.update(state="expired")
        if drawn == people:
            break
    assert drawn == people


def test_one_round_at_a_time_of_each_and_by_each(server, model):
    trusted(server, "tess")
    trusted(server, "tom")
    ned = server.join("ned")
    for seed in range(3):
        newcomer(server, model, who=ned, seed=seed)
    assert Audit.objects.count() == 1
    newcomer(server, model, "nina", seed=7)
    newcomer(server, model, "nora", seed=8)
    assert Audit.objects.count() == 2
    assert len(set(Audit.objects.values_list("auditor_id", flat=True))) == 2


def test_an_audit_takes_a_small_share_of_a_volunteers_time(server, model):
    tess = trusted(server, steps_per_second=1.0)
    newcomer(server, model)
    rest = part_of(tess).get().audits_after - Audit.objects.get().drawn_at
    assert rest.total_seconds() == pytest.approx((100 + auditors.BEGIN_S) / auditors.SHARE)


def test_what_a_volunteer_sent_before_is_for_the_one_who_was_drawn_alone(server, model):
    tess, tom = trusted(server, "tess"), trusted(server, "tom", audits_on=None)
    ned = server.join("ned")
    first = newcomer(server, model, who=ned, seed=1)
    Audit.objects.all().delete()
    Participation.objects.update(audits_after=None)
    told = recipe(after=[str(first.pk)])
    second = newcomer(server, model, who=ned, seed=2, carried=[str(first.pk)], recipe=told)
    audit = Audit.objects.get()
    path = f"/audits/{audit.pk}"
    task = server.ask("GET", path, token=tess.token).json()
    assert [one["id"] for one in task["rounds"]] == [str(first.pk), str(second.pk)]
    assert [one["id"] for one in task["updates"]] == [str(first.pk)]
    got = server.ask("GET", f"{path}/updates/{first.pk}", token=tess.token)
    assert got.content == blobs.read(first.sha256)
    assert server.ask("GET", f"{path}/updates/{second.pk}", token=tess.token).status_code == 404
    for other in (tom, ned):
        assert server.ask("GET", path, token=other.token).status_code == 404
        reply = server.ask("GET", f"{path}/updates/{first.pk}", token=other.token)
        assert reply.status_code == 404
        assert answer(server, other, audit.pk, reason="mine").status_code == 404
    Audit.objects.update(until=later(-1))
    reply = server.ask("GET", f"{path}/updates/{first.pk}", token=tess.token)
    assert reply.status_code == 410


def test_an_auditor_that_vanishes_costs_nothing(server, model):
    tess = trusted(server)
    update = newcomer(server, model)
    audit = Audit.objects.get()
    late = later(0) + auditors.LEASE + timedelta(seconds=5)
    work(late)
    audit.refresh_from_db()
    update.refresh_from_db()
    assert audit.state == "expired"
    assert update.state == "merged"
    assert answer(server, tess, audit.pk, image=image_of(update, audit)).status_code == 410
    assert part_of(tess).get().failed == 0


def test_bytes_that_an_audit_takes_are_kept_until_it_is_over(server, model, monkeypatch):
    trusted(server)
    update = newcomer(server, model)
    work()
    update.refresh_from_db()
    assert update.state == "merged"
    monkeypatch.setattr(services, "MERGED_KEPT", -1)
    services.let_go_of_merged(model.pk)
    assert blobs.present(update.sha256)
    work(later(0) + auditors.LEASE)
    assert not blobs.present(update.sha256)


def test_a_volunteer_may_say_that_it_can_not(server, model):
    tess = trusted(server)
    newcomer(server, model)
    audit = Audit.objects.get()
    assert answer(server, tess, audit.pk, reason="9 chunks are not here").status_code == 204
    audit.refresh_from_db()
    assert (audit.state, audit.reason) == ("unable", "9 chunks are not here")
    assert beat(server, tess)["audit"] is None


@pytest.mark.parametrize(
    "image", ["", "!", "AAAA", text_of(np.full(SIZE, np.nan)), text_of(np.ones(SIZE - 1))]
)
def test_an_answer_that_is_no_image_is_not_understood(server, model, image):
    tess = trusted(server)
    newcomer(server, model)
    audit = Audit.objects.get()
    assert answer(server, tess, audit.pk, image=image).status_code == 400
    assert Audit.objects.get().state == "drawn"


def test_who_is_not_trusted_any_more_is_not_believed(server, model):
    tess = trusted(server)
    update = newcomer(server, model)
    audit = Audit.objects.get()
    answer(server, tess, audit.pk, image=image_of(update, audit))
    part_of(tess).update(accepted=0, audited=0, failed=1)
    work()
    audit.refresh_from_db()
    assert audit.state == "unsettled"
    assert Participation.objects.get(volunteer_id=update.volunteer_id).audited == 0


def test_an_answer_counts_once(server, model):
    tess = trusted(server)
    update = newcomer(server, model)
    audit = Audit.objects.get()
    image = image_of(update, audit)
    assert answer(server, tess, audit.pk, image=image).status_code == 204
    assert answer(server, tess, audit.pk, image=image).status_code == 410
    work()
    audit.refresh_from_db()
    assert not verdicts.judge_one(later(0))
    assert Participation.objects.get(volunteer_id=update.volunteer_id).audited == 1


def test_two_draws_at_once_for_one_update_are_one(server, model):
    tess, _ = trusted(server, "tess"), trusted(server, "tom")
    update = newcomer(server, model)
    before = Audit.objects.get()
    row = part_of(tess).get()
    part_of(tess).update(audits_after=None)
    row.audits_after = None
    with pytest.raises(auditors.IntegrityError):
        auditors._drawn(update, row, 100, [], later(0))
    assert Audit.objects.get() == before
    assert part_of(tess).get().audits_after is None


def test_several_workers_that_draw_at_once_draw_one(server, model, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(auditors, "draw", lambda *_: None)
        update = newcomer(server, model)
    for number in range(CROWD):
        trusted(server, f"tess{number}")
    at_once(lambda _: auditors.draw(Update.objects.get(id=update.pk), later(0)))
    assert Audit.objects.count() == 1
    assert Participation.objects.filter(audits_after__isnull=False).count() == 1


def test_an_answer_that_several_workers_look_at_counts_once(server, model):
    tess = trusted(server)
    update = newcomer(server, model)
    audit = Audit.objects.get()
    answer(server, tess, audit.pk, image=image_of(update, audit))

    def run(_):
        while verdicts.judge_one(later(0)):
            pass

    at_once(run)
    audit.refresh_from_db()
    assert audit.state == "passed"
    assert Participation.objects.get(volunteer_id=update.volunteer_id).audited == 1


def test_the_page_tells_who_has_checked_others(server, model):
    trusted(server)
    newcomer(server, model)
    Audit.objects.update(state="passed")
    page = server.client.get("/models/digits/").content.decode()
    assert "Audits</th>" in page


def test_an_unknown_audit_is_404(server, model):
    assert (
        server.ask("GET", f"/audits/{uuid.uuid4()}", token=server.join().token).status_code == 404
    )


def test_an_answer_waits_for_a_store_that_is_away(server, model, monkeypatch):
    tess = trusted(server)
    update = newcomer(server, model)
    audit = Audit.objects.get()
    answer(server, tess, audit.pk, image=image_of(update, audit))

    def away(digest):
        raise StoreAway("the bucket does not answer")

    now = later(0)
    with monkeypatch.context() as patched:
        patched.setattr(blobs, "read", away)
        for _ in range(2 * services.ATTEMPTS):
            assert verdicts.judge_one(now)
            now += 2 * leases.LEASE
    assert Audit.objects.get().state == "answered"
    assert verdicts.judge_one(now)
    assert Audit.objects.get().state == "passed"
