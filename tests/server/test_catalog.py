import json

from handcar import files
from handcar.server import blobs
from handcar.server.catalog.models import Chunk, Dataset, TrainingModel
from server_api import chunk, model_file, prepare


def test_publishing_makes_a_model_that_is_being_prepared(server):
    reply = server.publish(epochs=2)
    assert reply.status_code == 201, reply.content
    status = reply.json()
    assert status["state"] == "preparing"
    assert status["version"] == -1
    assert status["weights"] == 15
    assert status["dataset_records"] == 300
    assert status["records_wanted"] == 600


def test_the_same_publication_again_is_harmless(server):
    assert server.publish().status_code == 201
    assert server.publish().status_code == 200
    assert TrainingModel.objects.count() == Dataset.objects.count() == 1
    assert Chunk.objects.count() == 4


def test_the_same_name_with_other_content_says_to_choose_another(server):
    server.publish()
    reply = server.publish(batch_size=20)
    assert reply.status_code == 409
    assert "change `name`" in reply.json()["detail"]
    assert TrainingModel.objects.get().batch_size == 10


def test_a_data_set_with_other_chunks_needs_another_name(server):
    server.publish()
    server.store(b"more")
    reply = server.publish(name="letters", chunks=[chunk(b"more")])
    assert reply.status_code == 409
    assert "data set named points" in reply.json()["detail"]


def test_two_models_may_share_a_data_set(server):
    server.publish()
    assert server.publish(name="letters").status_code == 201
    assert Dataset.objects.count() == 1


def test_a_bad_model_file_is_refused_with_every_fault(server):
    reply = server.publish(batch_size=-1, epochs="many")
    assert reply.status_code == 422
    assert len(reply.json()["errors"]) == 2


def test_a_chunk_that_is_not_here_must_be_sent_first(server):
    reply = server.publish(chunks=[chunk(b"not sent")])
    assert reply.status_code == 409
    assert "send its bytes first" in reply.json()["detail"]


def test_a_chunk_that_lies_elsewhere_need_not_be_here(server):
    entry = chunk(b"elsewhere", urls=["https://example.org/a"])
    assert server.publish(chunks=[entry]).status_code == 201


def test_validation_chunks_must_be_here_wherever_else_they_lie(server):
    entries = [
        chunk(b"elsewhere", urls=["https://example.org/a"]),
        chunk(b"for us", split="validation", urls=["https://example.org/b"]),
    ]
    assert server.publish(chunks=entries).status_code == 409


def test_only_web_addresses_are_links(server):
    entry = chunk(b"elsewhere", urls=["file:///etc/passwd"])
    assert server.publish(chunks=[entry]).status_code == 400


def test_a_data_set_without_anything_to_train_on_is_refused(server):
    server.store(b"only")
    reply = server.publish(chunks=[chunk(b"only", split="validation")])
    assert reply.status_code == 400


def test_publishing_again_moves_the_links(server):
    def links(url):
        return [chunk(b"elsewhere", urls=[url])]

    server.publish(chunks=links("https://old.example.org/a"))
    assert server.publish(chunks=links("https://new.example.org/a")).status_code == 200
    assert Chunk.objects.get().urls == ["https://new.example.org/a"]


def test_the_manifest_must_be_of_the_data_set_that_the_model_names(server):
    server.store(b"data")
    body = {
        "model_file": json.dumps(model_file()),
        "manifest": {"name": "other", "chunks": [chunk(b"data")]},
    }
    assert server.ask("POST", "/models", body, token=server.owner).status_code == 400


def test_its_owner_pauses_and_goes_on_and_finishes(server):
    server.model()
    for state in ("paused", "pending", "paused", "finished", "finished"):
        reply = server.ask("PATCH", "/models/digits", {"state": state}, token=server.owner)
        assert reply.status_code == 200
        assert reply.json()["state"] == state
    reply = server.ask("PATCH", "/models/digits", {"state": "pending"}, token=server.owner)
    assert reply.status_code == 409


def test_a_model_that_is_prepared_does_not_start_by_hand(server):
    server.publish()
    reply = server.ask("PATCH", "/models/digits", {"state": "pending"}, token=server.owner)
    assert reply.status_code == 409


def test_another_owner_may_not_change_it_but_the_servers_own_may(server):
    olga, otto = server.other_owner("olga"), server.other_owner("otto")
    server.publish(token=olga)
    prepare("digits")
    change = {"state": "paused"}
    assert server.ask("PATCH", "/models/digits", change, token=otto).status_code == 403
    assert server.ask("GET", "/models/digits/export", token=otto).status_code == 403
    assert server.ask("PATCH", "/models/digits", change, token=server.owner).status_code == 200


def test_blobs_are_stored_once_and_asked_for_by_digest(server):
    data = b"some bytes"
    told = {"sha256": files.digest(data), "size": len(data)}
    first = server.ask("POST", "/blobs", told, token=server.owner).json()
    assert not first["present"]
    assert first["upload_url"].startswith("http://testserver/api/v1/blobs/")
    sent = server.send(first["upload_url"], data, 0, server.owner).json()
    assert sent["present"]
    again = server.ask("POST", "/blobs", told, token=server.owner).json()
    assert again["present"]
    assert again["upload_url"] is None
    assert blobs.read(told["sha256"]) == data


def test_a_blob_goes_on_where_it_stopped(server):
    data = b"0123456789"
    told = {"sha256": files.digest(data), "size": len(data)}
    url = server.ask("POST", "/blobs", told, token=server.owner).json()["upload_url"]
    assert server.send(url, data[:4], 0, server.owner).json()["offset"] == 4
    assert server.ask("HEAD", url, token=server.owner)["Upload-Offset"] == "4"
    assert server.send(url, data[4:], 4, server.owner).json()["present"]
    assert server.send(url, b"", 10, server.owner).json()["present"]


def test_a_blob_that_was_not_announced_is_not_taken(server):
    url = "/blobs/" + "0" * 64 + "/bytes"
    assert server.send(url, b"x", 0, server.owner).status_code == 404
    assert server.ask("HEAD", url, token=server.owner).status_code == 404


def test_two_owners_send_the_same_bytes_without_harm_to_each_other(server):
    data = b"0123456789"
    told = {"sha256": files.digest(data), "size": len(data)}
    olga = server.other_owner()
    url = server.ask("POST", "/blobs", told, token=server.owner).json()["upload_url"]
    server.ask("POST", "/blobs", told, token=olga)
    server.send(url, b"spoiled", 0, olga)
    assert server.send(url, data, 0, server.owner).json()["present"]


def test_a_message_to_everyone_is_for_the_servers_own_owner(server):
    olga = server.other_owner()
    server.publish(token=olga)
    assert server.ask("POST", "/messages", {"text": "hi"}, token=olga).status_code == 403
    own = {"text": "hi", "model_id": "digits"}
    assert server.ask("POST", "/messages", own, token=olga).status_code == 201
    reply = server.ask("POST", "/messages", {"text": "hi"}, token=server.owner)
    assert reply.status_code == 201
    assert reply.json()["order"] == "carry on"
