import math
from pathlib import Path

import pytest

from handcar import files
from handcar.protocol.messages import Assignment
from handcar.protocol.signature import is_signed
from handcar.server.catalog import modelfiles
from handcar.server.catalog.models import Chunk, TrainingModel
from handcar.server.rounds import assignments
from server_api import chunk, prepare, update_frame, work

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_an_assignment_says_everything_that_is_needed(server):
    model = server.model()
    reply = server.ask("GET", "/model?model_id=digits", token=server.join().token)
    body = reply.json()
    assert body["configuration"]["sha256"] == model.model_file_digest
    text = server.ask("GET", body["configuration"]["url"])
    assert b"".join(text.streaming_content).decode() == model.model_file
    assert len(body["dataset"]) == 3
    assert body["series"]["keyframe"]["version"] == 0
    assert body["round"] == {
        "max_steps": 1000,
        "max_seconds": 1800.0,
        "min_seconds": 0.0,
        "longest_steps": None,
        "records_done": 0,
        "others_records_per_second": 0.0,
        "rate_factor": 1.0,
    }
    assert body["starts"] == "carried"
    assert body["update_step"] == 3.0
    assert is_signed(Assignment.model_validate(body))


def test_validation_chunks_are_never_handed_out(server):
    server.model()
    body = server.ask("GET", "/default", token=server.join().token).json()
    assert files.digest(b"records to validate") not in {c["sha256"] for c in body["dataset"]}


def test_volunteers_begin_at_different_chunks_and_go_on_in_different_orders(server):
    server.model()
    firsts = []
    for number in range(3):
        body = server.ask("GET", "/default", token=server.join(f"v{number}").token).json()
        firsts.append(body["dataset"][0]["sha256"])
        assert len({c["sha256"] for c in body["dataset"]}) == 3
    assert len(set(firsts)) == 3


def chunks_of(*sizes: int) -> list[Chunk]:
    return [Chunk(index=n, digest=f"sha256:{n:064x}", size=size) for n, size in enumerate(sizes)]


def test_an_order_is_kept_by_its_volunteer_and_holds_every_chunk_once():
    chunks = chunks_of(*[100] * 20)
    mine = assignments.order(chunks, 3)
    assert mine == assignments.order(chunks, 3)
    assert mine != assignments.order(chunks, 4)
    assert sorted(chunk.index for chunk in mine) == list(range(20))


def test_a_volunteer_begins_with_a_small_chunk_and_different_ones_with_different_ones():
    chunks = chunks_of(*[100] * 4, *[1000] * 40)
    firsts = [assignments.order(chunks, number)[0].index for number in range(12)]
    assert set(firsts) == {0, 1, 2, 3}


def test_each_place_is_begun_at_once_before_any_is_begun_at_twice():
    for places in (1, 2, 3, 7, 100):
        begun = [assignments.beginning(number, places) for number in range(2 * places)]
        assert sorted(begun[:places]) == sorted(begun[places:]) == list(range(places))


@pytest.mark.parametrize("volunteers", [2, 3, 5, 8, 20])
@pytest.mark.parametrize("joined_before", [0, 13])
@pytest.mark.parametrize("share", [0.5, 1.0, 1.5])
def test_volunteers_who_stop_early_have_covered_nearly_all_they_could(
    volunteers, joined_before, share
):
    chunks = chunks_of(*[256] * 4, *[512] * 4, *[4096] * 192)
    each = math.ceil(share * len(chunks) / volunteers)
    covered = {
        chunk.index
        for number in range(joined_before, joined_before + volunteers)
        for chunk in assignments.order(chunks, number)[:each]
    }
    possible = min(len(chunks), volunteers * each)
    assert len(covered) >= 0.8 * possible


def test_what_chunks_take_decoded_is_passed_on(server):
    urls = ["https://a.example.org/1"]
    server.publish(chunks=[chunk(b"one", urls=urls, decoded=12_345), chunk(b"two", urls=urls)])
    prepare("digits")
    body = server.ask("GET", "/default", token=server.join().token).json()
    assert sorted(str(link["decoded"]) for link in body["dataset"]) == ["12345", "None"]


def test_the_owners_links_come_before_the_servers(server):
    urls = ["https://a.example.org/1", "https://b.example.org/1"]
    server.publish(chunks=[chunk(b"elsewhere", urls=urls)])
    prepare("digits")
    body = server.ask("GET", "/default", token=server.join().token).json()
    assert body["dataset"][0]["url"] == urls[0]
    assert body["dataset"][0]["mirrors"] == urls[1:]


def test_the_default_is_the_model_with_the_fewest_machines(server):
    server.model()
    server.publish(name="letters", validation=False)
    prepare("letters")
    picked = [
        server.ask("GET", "/default", token=server.join(f"v{n}").token).json()["id"]
        for n in range(4)
    ]
    assert picked == ["digits", "letters", "digits", "letters"]


def test_nothing_to_train_says_what_to_do(server):
    server.publish()
    reply = server.ask("GET", "/default", token=server.join().token)
    assert reply.status_code == 404
    assert reply.json()["type"] == "/problems/nothing-to-train"
    assert "try again" in reply.json()["detail"]


@pytest.mark.parametrize(("state", "status"), [("paused", 200), ("finished", 410), ("failed", 410)])
def test_a_model_that_is_over_is_not_assigned(server, state, status):
    server.model()
    TrainingModel.objects.update(state=state)
    reply = server.ask("GET", "/model?model_id=digits", token=server.join().token)
    assert reply.status_code == status


def test_a_model_must_be_named_and_exist(server):
    ann = server.join()
    assert server.ask("GET", "/model", token=ann.token).status_code == 400
    assert server.ask("GET", "/model?model_id=none", token=ann.token).status_code == 404


def test_a_model_that_is_being_prepared_is_to_be_asked_for_again(server):
    server.publish()
    reply = server.ask("GET", "/model?model_id=digits", token=server.join().token)
    assert reply.json()["type"] == "/problems/nothing-to-train"


def test_the_list_and_the_status_are_for_everyone(server):
    model = server.model(epochs=10)
    ann = server.join()
    server.ask("GET", "/default", token=ann.token)
    server.deliver(ann, update_frame(model))
    work()
    row = server.ask("GET", "/list").json()[0]
    assert row["id"] == "digits"
    assert (row["volunteers"], row["updates_merged"], row["version"]) == (1, 1, 1)
    assert (row["records_merged"], row["records_wanted"]) == (1000, 3000)
    assert row["begin_bytes"] > 0
    status = server.ask("GET", "/models/digits").json()
    assert [version["number"] for version in status["history"]] == [0, 1]
    assert status["training"][0]["name"] == "ann"
    assert status["training"][0]["updates_merged"] == 1
    assert status["updates_waiting"] == 0
    assert status["bytes_up"] > 0


@pytest.mark.parametrize(("example", "step"), [("mnist-cnn", 3.0), ("shakespeare", 2.0)])
def test_the_updates_of_models_of_sequences_are_coded_finer(example: str, step: float):
    text = (EXAMPLES / f"{example}.json").read_text()
    assert modelfiles.update_step(text) == step
