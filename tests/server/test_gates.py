"""Updates that wait for the process with Keras: the held-out gate and the audit, for real."""

from __future__ import annotations

import base64
from datetime import timedelta
from functools import partial

import numpy as np
import pytest

from handcar.data import chunks, draws
from handcar.data.blocks import BlockStore
from handcar.errors import StateConflict
from handcar.merging.sketch import sketch
from handcar.modelfile import trainer
from handcar.protocol.messages import Drawn, DrawnChunk, RatePlan
from handcar.server import blobs
from handcar.server.accounts.models import Volunteer
from handcar.server.catalog import modelfiles
from handcar.server.catalog.models import Chunk, TrainingModel
from handcar.server.rounds import (
    audits,
    checks,
    evaluate,
    evaluation,
    gates,
    liveness,
    series,
    verdicts,
)
from handcar.server.rounds.models import Alert, Audit, Participation, Update, Version
from handcar.wire import frames
from server_api import announcement, chunk, frame_of, later, layout_of, newest, work

STEPS = 30
LAYERS = ((100, "relu"), (3, "softmax"))


@pytest.fixture
def digits(server):
    """Publish a model that can be learnt, with real chunks, and prepare its version 0."""
    rng = np.random.default_rng(0)
    entries = []
    for split in ("train", "train", "validation"):
        x = rng.normal(size=(400, 4)).astype(np.float32)
        data = chunks.encode({"x": x, "y": np.argmax(x[:, :3], axis=1).astype(np.int32)})
        server.store(data)
        entries.append(chunk(data, split=split, records=400))
    layers = [{"layer": "Dense", "units": n, "activation": a} for n, a in LAYERS]
    assert server.publish(chunks=entries, layers=layers).status_code == 201
    gates._loss_of.cache_clear()
    gates._weights.cache_clear()
    gates.hidden.cache_clear()
    audits.PACE.clear()
    assert evaluate.evaluate_once()
    return server


@pytest.fixture
def model(digits):
    return TrainingModel.objects.get()


def recipe(seed=5, chunk_number=0):
    digest = Chunk.objects.filter(split="train")[chunk_number].digest
    drawn = Drawn(
        seed=seed,
        draw=0,
        pieces=((STEPS // 5, 5),),
        chunks=(DrawnChunk(chunk=draws.short(digest), opening=0, draw=0),),
        steps=STEPS,
    )
    return {"backend": "tensorflow", "update_step": 3.0, "drawn": [drawn.model_dump(mode="json")]}


def replayed(model, folder, told, *, wrong_labels=False, walked=None):
    """Return what comes of a round of this recipe, from the newest version or others."""
    store = BlockStore(folder)
    for row in Chunk.objects.filter(split="train"):
        store.add(row.digest, blobs.read(row.digest))
    names = {draws.short(digest): digest for digest in store.digests()}
    drawn = Drawn.model_validate(told["drawn"][0])
    batches = draws.replay(drawn, lambda name: store.open(names[name]), batch_size=10)
    if wrong_labels:
        batches = ((x, (y + 1) % 3) for x, y in batches)
    network = trainer.Network(modelfiles.parsed(model.model_file), layout_of(model), seed=9)
    walked = walked or [(newest(model).number, STEPS)]
    starts = [trainer.PastStart(partial(weights_of, model, number), n) for number, n in walked]
    nothing = np.zeros(layout_of(model).size, np.float32)
    past = trainer.PastRound(starts, 1, RatePlan(), [(STEPS, batches)], nothing, 3.0)
    return trainer.replay(network, [past], layout_of(model))


def weights_of(model, number):
    return series.weights_of(model, Version.objects.get(model=model, number=number))


def trained(*what, **more):
    """Return what a round changes."""
    return replayed(*what, **more).change


def send(server, model, who, change, **facts):
    """Deliver an update and let the worker look at it."""
    base = newest(model).number
    frame = frames.encode_difference(
        frames.FrameFacts("update", model.pk, base), change, layout_of(model), k=3.0
    )
    told = {"base_version": base, "steps": STEPS, "records": 10 * STEPS, **facts}
    update = server.deliver(who, frame, **told)
    assert checks.check_one(later(0))
    update.refresh_from_db()
    return update


def evaluated(update):
    """Do all that waits for Keras; return the update as it is then."""
    while evaluate.evaluate_once():
        pass
    update.refresh_from_db()
    return update


def test_a_newcomers_honest_round_passes_gate_and_audit(digits, model, tmp_path):
    ann, told = digits.join(), recipe()
    update = send(digits, model, ann, trained(model, tmp_path, told), recipe=told)
    assert (update.state, update.gate_wanted, update.audit) == ("received", True, "wanted")
    assert evaluation.waits()
    update = evaluated(update)
    assert (update.state, update.audit) == ("checked", "passed")
    assert update.rise is not None
    assert Participation.objects.values_list("accepted", "audited").get() == (1, 1)
    assert update.trust == 0.25
    work(later(30))
    assert newest(model).number == 1


def test_a_round_that_went_on_from_newer_versions_passes_its_audit(digits, model, tmp_path):
    noise = np.random.default_rng(0)
    for number in (1, 2, 3):
        change = noise.normal(0, 1e-3, layout_of(model).size).astype(np.float32)
        evaluated(send(digits, model, digits.join(f"bob{number}"), change))
        work(later(30 * number))
    assert newest(model).number == 3
    ann, told = digits.join(), recipe()
    told["earlier_starts"] = [{"base_version": 0, "steps": 7}, {"base_version": 2, "steps": 20}]
    walked = [(0, 7), (2, 20), (3, STEPS - 27)]
    change = trained(model, tmp_path / "one", told, walked=walked)
    assert evaluated(send(digits, model, ann, change, recipe=told)).audit == "passed"
    told = {**recipe(seed=6), "earlier_starts": [{"base_version": 0, "steps": STEPS}]}
    change = trained(model, tmp_path / "two", told, wrong_labels=True, walked=[(0, STEPS), (3, 0)])
    assert evaluated(send(digits, model, ann, change, recipe=told)).audit == "failed"


def test_a_round_on_wrong_labels_fails_its_audit(digits, model, tmp_path):
    ann, told = digits.join(), recipe()
    change = trained(model, tmp_path, told, wrong_labels=True)
    update = evaluated(send(digits, model, ann, change, recipe=told))
    assert update.state == "refused"
    assert "came out otherwise" in update.reason
    assert Participation.objects.values_list("accepted", "audited", "failed").get() == (0, 0, 1)
    shown = digits.ask("GET", "/models/digits").json()
    assert shown["refusals"][0]["reason"] == update.reason
    assert shown["training"][0]["standing"] == "under suspicion"


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ({"drawn": {"steps": STEPS - 1}}, "steps"),
        ({"drawn": {"chunks": [{"chunk": "0" * 16, "opening": 0, "draw": 0}]}}, "chunk"),
        ({"rate": {"factor": 3.0}}, "learning rate"),
        ({"after": ["00000000-0000-0000-0000-000000000001"]}, "own update"),
        ({"earlier_starts": [{"base_version": 0, "steps": STEPS + 1}]}, "earlier starts"),
        (
            {
                "earlier_starts": [
                    {
                        "base_version": 0,
                        "steps": 1,
                        "carried": ["00000000-0000-0000-0000-000000000001"],
                    }
                ]
            },
            "own update",
        ),
    ],
)
def test_a_recipe_that_can_not_be_is_refused(digits, model, tmp_path, lie, says):
    ann, told = digits.join(), recipe()
    change = trained(model, tmp_path, told)
    told["drawn"][0] |= lie.get("drawn", {})
    told |= {name: value for name, value in lie.items() if name != "drawn"}
    update = evaluated(send(digits, model, ann, change, recipe=told))
    assert update.state == "refused"
    assert says in update.reason


def test_what_the_server_can_not_compute_again_is_no_fault(digits, model, tmp_path):
    ann, told = digits.join(), recipe()
    update = send(digits, model, ann, trained(model, tmp_path, told), recipe=told)
    Chunk.objects.filter(split="train").update(urls=[])
    audits._blocks.cache_clear()
    blobs.remove(Chunk.objects.filter(split="train")[0].digest)
    update = evaluated(update)
    assert (update.state, update.audit) == ("checked", "skipped")


def test_without_a_recipe_standing_does_not_grow(digits, model, tmp_path):
    ann = digits.join()
    update = evaluated(send(digits, model, ann, trained(model, tmp_path, recipe())))
    assert (update.state, update.audit) == ("checked", "skipped")
    assert Participation.objects.get().accepted == 0


def test_what_ruins_the_held_out_loss_is_refused(digits, model, tmp_path, monkeypatch):
    ann = digits.join()
    good = trained(model, tmp_path, recipe())
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(size=good.size).astype(np.float32)
        evaluated(send(digits, model, digits.join(f"v{seed}"), good + noise * 0.01))
    # As long as the others, in a direction that is worst.
    worst = evaluated(send(digits, model, ann, -2.5 * good))
    assert worst.state == "refused"
    assert "held-out" in worst.reason


def test_an_update_does_not_wait_for_ever_for_a_broken_evaluator(digits, model, tmp_path):
    told = recipe()
    update = send(digits, model, digits.join(), trained(model, tmp_path, told), recipe=told)
    assert not checks.pass_one(later(0))
    assert checks.pass_one(later(1) + checks.WAIT + timedelta(seconds=1))
    update.refresh_from_db()
    assert (update.state, update.audit) == ("checked", "skipped")
    assert "evaluating process" in Alert.objects.get().text
    assert not evaluation.to_gate().exists()


def test_what_was_looked_at_before_the_clock_was_set_back_does_not_wait_for_ever(
    digits, model, tmp_path
):
    told = recipe()
    update = send(digits, model, digits.join(), trained(model, tmp_path, told), recipe=told)
    Update.objects.filter(id=update.pk).update(examined_at=later(3 * 24 * 3600))
    assert checks.pass_one(later(0))
    update.refresh_from_db()
    assert update.state == "checked"


def test_one_that_waits_does_not_hold_up_others(digits, model, tmp_path, monkeypatch):
    change = trained(model, tmp_path, recipe())
    waiting = send(digits, model, digits.join(), change)
    monkeypatch.setattr(checks, "_wants_gate", lambda *args, **named: False)
    noise = np.random.default_rng(0).normal(size=change.size).astype(np.float32)
    send(digits, model, digits.join("bob"), change + 0.1 * np.abs(change).mean() * noise)
    work(later(60))
    assert newest(model).number == 1
    waiting.refresh_from_db()
    assert waiting.state == "received"


def test_a_test_that_refuses_most_of_the_work_is_suspended_and_the_owner_told(digits, model):
    rng = np.random.default_rng(0)
    size = layout_of(model).size
    for number in range(12):
        frame = frame_of(model, rng.normal(size=size).astype(np.float32) * np.float32(0.01))
        update = digits.deliver(digits.join(f"v{number}"), frame, steps=STEPS, records=STEPS)
        Update.objects.filter(id=update.pk).update(examined_at=later(number), rise=0.5)
        update.refresh_from_db()
        refused = liveness.refuses(update, liveness.GATE, later(number))
        assert refused == (number < 9)
    alert = Alert.objects.get()
    assert "held-out records" in alert.text
    assert alert.ended_at is None
    told = digits.ask("GET", "/models/digits").json()["alerts"]
    assert [row["kind"] for row in told] == ["filter gate"]
    Update.objects.update(objection="")
    liveness.passes(update, liveness.GATE, later(20))
    assert Alert.objects.get().ended_at is not None


def test_facts_of_a_recipe_survive_the_database(digits, model):
    carried = ["00000000-0000-0000-0000-000000000001"]
    start = {"base_version": 0, "carried": carried, "steps": 5}
    told = {**recipe(), "earlier_starts": [start]}
    facts = announcement(b"x" * 40, recipe=told)
    ann = digits.join()
    digits.announce(ann, facts)
    assert digits.announce(ann, facts).status_code == 200
    assert Update.objects.get().announcement().model_dump(mode="json")["recipe"] == (
        {"rate": RatePlan().model_dump(), "after": [], **told}
    )


def test_weights_that_went_while_an_update_was_looked_at_are_no_fault_of_it(
    digits, model, tmp_path
):
    ann, told = digits.join(), recipe()
    update = send(digits, model, ann, trained(model, tmp_path, told), recipe=told)
    gates._loss_of.cache_clear()
    gates._weights.cache_clear()
    kept = series.raw(newest(model).published_digest)
    blobs.remove(newest(model).published_digest)
    with pytest.raises(StateConflict, match="has gone meanwhile"):
        gates.judge(update, later(0))
    series.put_raw(kept)
    assert evaluated(update).state == "checked"


# -- audits by volunteers ------------------------------------------------------------------------


@pytest.fixture
def tess(digits, monkeypatch):
    """A trusted volunteer on another network, while the evaluator has no time for audits."""
    monkeypatch.setattr(checks, "AUDITS_WAITING", 0)
    who = digits.join("tess")
    beat = {"model_id": "digits", "version": 0, "step": 5, "records": 50, "steps_per_second": 50.0}
    beat |= {"audits_on": "tensorflow", "activity": "training"}
    assert digits.ask("POST", "/heartbeat", beat, token=who.token).status_code == 200
    part_of(who).update(accepted=20, audited=2)
    Volunteer.objects.filter(id=who.id).update(address_block="tess's")
    return who


def part_of(who):
    return Participation.objects.filter(volunteer_id=who.id)


def drawn_for(digits, model, folder, *, wrong_labels=False):
    """Deliver a newcomer's round; return its update, and the audit that was drawn for it."""
    ned, told = digits.join("ned"), recipe()
    change = trained(model, folder, told, wrong_labels=wrong_labels)
    update = evaluated(send(digits, model, ned, change, recipe=told))
    assert (update.state, update.audit) == ("checked", "skipped")
    return update, Audit.objects.get(update=update)


def answered(digits, who, audit, change):
    """Answer with the image of a change, and let the worker look at it."""
    image = sketch(change, layout_of(audit.model), bytes.fromhex(audit.key)).astype("<f4")
    told = {"image": base64.b64encode(image.tobytes()).decode()}
    reply = digits.ask("POST", f"/audits/{audit.pk}", told, token=who.token)
    assert reply.status_code == 204, reply.content
    assert verdicts.judge_one(later(0))
    audit.refresh_from_db()


def settled(audit):
    """Let the evaluator do all that it has; return how the audit went."""
    while evaluate.evaluate_once():
        pass
    audit.refresh_from_db()
    return audit.state


def standing(who):
    return part_of(who).values_list("accepted", "audited", "failed").get()


def test_what_a_volunteer_let_pass_and_the_evaluator_too_stands(
    digits, model, tmp_path, tess, monkeypatch
):
    monkeypatch.setattr(verdicts, "AGAIN_SHARE", 1.0)
    update, audit = drawn_for(digits, model, tmp_path)
    answered(digits, tess, audit, replayed(model, tmp_path / "tess", recipe()).expected)
    assert audit.cosine > 0.99
    assert (audit.state, evaluation.waits()) == ("again", True)
    assert settled(audit) == "passed"
    assert Participation.objects.get(volunteer_id=update.volunteer_id).audited == 1
    assert standing(tess) == (20, 2, 0)


def test_who_helps_another_to_pass_loses_its_standing_and_the_other_too(
    digits, model, tmp_path, tess, monkeypatch
):
    monkeypatch.setattr(verdicts, "AGAIN_SHARE", 1.0)
    update, audit = drawn_for(digits, model, tmp_path, wrong_labels=True)
    answered(digits, tess, audit, checks.decoded(update))
    assert audit.cosine > 0.99
    assert settled(audit) == "wrong"
    update.refresh_from_db()
    assert (update.state, update.audit) == ("refused", "failed")
    assert standing(tess) == (0, 0, 1)
    assert Participation.objects.get(volunteer_id=update.volunteer_id).failed == 1


def test_a_round_that_failed_twice_is_refused_and_its_auditor_was_right(
    digits, model, tmp_path, tess
):
    update, audit = drawn_for(digits, model, tmp_path, wrong_labels=True)
    answered(digits, tess, audit, replayed(model, tmp_path / "tess", recipe()).expected)
    assert audit.state == "again"
    assert settled(audit) == "failed"
    update.refresh_from_db()
    assert update.state == "refused"
    assert "came out otherwise" in update.reason
    assert standing(tess) == (20, 2, 0)


def test_a_wrong_accusation_costs_the_auditor_alone(digits, model, tmp_path, tess):
    update, audit = drawn_for(digits, model, tmp_path)
    noise = np.random.default_rng(1).normal(size=layout_of(model).size).astype(np.float32)
    answered(digits, tess, audit, noise)
    assert settled(audit) == "wrong"
    update.refresh_from_db()
    assert (update.state, update.audit) == ("checked", "passed")
    assert Participation.objects.get(volunteer_id=update.volunteer_id).audited == 1
    assert standing(tess) == (0, 0, 1)


def test_of_a_bad_round_that_was_merged_meanwhile_the_owner_is_told(digits, model, tmp_path, tess):
    update, audit = drawn_for(digits, model, tmp_path, wrong_labels=True)
    work(later(30))
    computed = replayed(model, tmp_path / "tess", recipe(), walked=[(0, STEPS)])
    answered(digits, tess, audit, computed.expected)
    assert settled(audit) == "failed"
    update.refresh_from_db()
    assert (update.state, update.audit) == ("merged", "failed")
    assert "version 1 has an update of ned" in Alert.objects.get(kind="audit").text
    assert Participation.objects.get(volunteer_id=update.volunteer_id).failed == 1


def test_what_the_evaluator_can_not_compute_settles_nothing(digits, model, tmp_path, tess):
    update, audit = drawn_for(digits, model, tmp_path)
    answered(digits, tess, audit, np.ones(layout_of(model).size, np.float32))
    blobs.remove(update.sha256)
    assert settled(audit) == "unsettled"
    assert standing(tess) == (20, 2, 0)
