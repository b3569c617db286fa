import pytest

from handcar import files
from handcar.server import blobs
from handcar.server.rounds import downloads
from server_api import newest, update_frame, work

DATA = b"records 0"
URL = "/files/" + files.digest(DATA).removeprefix("sha256:")


@pytest.fixture
def model(server):
    return server.model()


def content(reply):
    return b"".join(reply.streaming_content)


def test_a_chunk_is_served_whole_and_for_ever(server, model):
    reply = server.ask("GET", URL)
    assert reply.status_code == 200
    assert content(reply) == DATA
    assert reply["Content-Length"] == str(len(DATA))
    assert "immutable" in reply["Cache-Control"]
    assert reply["ETag"].strip('"') in URL


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=2-4", slice(2, 5)),
        ("bytes=3-", slice(3, None)),
        ("bytes=-2", slice(-2, None)),
        ("bytes=0-999", slice(0, None)),
        ("bytes=-999", slice(0, None)),
    ],
)
def test_a_range_is_served_in_part(server, model, wanted, part):
    reply = server.ask("GET", URL, headers={"Range": wanted})
    assert reply.status_code == 206
    start, stop, _ = part.indices(len(DATA))
    assert reply["Content-Range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"
    assert content(reply) == DATA[part]
    assert reply["Content-Length"] == str(stop - start)


@pytest.mark.parametrize("wanted", ["bytes=9-", "bytes=100-200", "bytes=-0"])
def test_a_range_outside_can_not_be_served(server, model, wanted):
    reply = server.ask("GET", URL, headers={"Range": wanted})
    assert reply.status_code == 416
    assert reply["Content-Range"] == f"bytes */{len(DATA)}"


@pytest.mark.parametrize("wanted", ["bytes=0-1,3-4", "bytes=4-2", "records=1-2", "bytes=-", "x"])
def test_what_is_no_single_range_gets_the_whole(server, model, wanted):
    reply = server.ask("GET", URL, headers={"Range": wanted})
    assert reply.status_code == 200
    assert content(reply) == DATA


def test_who_has_it_already_gets_nothing(server, model):
    etag = server.ask("HEAD", URL)["ETag"]
    assert server.ask("GET", URL, headers={"If-None-Match": etag}).status_code == 304


def test_a_range_of_something_else_is_not_glued_together(server, model):
    headers = {"Range": "bytes=2-4", "If-Range": '"other"'}
    assert server.ask("GET", URL, headers=headers).status_code == 200


def test_head_tells_the_size(server, model):
    reply = server.ask("HEAD", URL)
    assert reply["Content-Length"] == str(len(DATA))
    assert reply.content == b""


def test_only_public_bytes_are_served(server, model):
    ann = server.join()
    update = server.deliver(ann, update_frame(model))
    private = [files.digest(b"records to validate"), update.sha256]
    work()
    private += [newest(model).master_digest, newest(model).published_digest]
    for digest in private:
        assert not downloads.is_public(digest)
        name = digest.removeprefix("sha256:")
        assert server.ask("GET", f"/files/{name}").status_code == 404
    for digest in (newest(model).delta_digest, model.model_file_digest):
        assert blobs.present(digest)
        assert downloads.is_public(digest)


def test_names_that_are_no_digest_are_no_files(server, model):
    for name in ("../db.sqlite3", "A" * 64, "0" * 63, "%2e%2e"):
        assert server.ask("GET", f"/files/{name}").status_code == 404
