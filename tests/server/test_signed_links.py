"""Links to private buckets, signed by the server; and frames that lie elsewhere too."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from handcar import files
from handcar.server.catalog import links
from handcar.server.catalog.models import Chunk, Mirror
from handcar.server.rounds import series
from handcar.stores.signing import Signer
from server_api import chunk, prepare
from weed import KEY, PRIVATE, SECRET, Weed

pytestmark = pytest.mark.xdist_group("weed")
DATA = b"records in a private bucket"
DIGEST = files.digest(DATA)
NAME = f"data/{DIGEST.removeprefix('sha256:')}"
PLACE = f"s3://{PRIVATE}/{NAME}"


@pytest.fixture
def signing(settings: Any) -> Signer:
    """The server has credentials, of a bucket nowhere."""
    settings.HANDCAR_S3 = Signer("key", "secret", endpoint="https://s3.example.org")
    return settings.HANDCAR_S3


def ask(server: Any, url: str = PLACE, digest: str = DIGEST) -> Any:
    return server.ask("POST", "/links", {"url": url, "sha256": digest}, token=server.owner)


def test_a_chunk_in_a_private_bucket_reaches_volunteers_by_a_signed_link(
    server, settings, weed: Weed
):
    settings.HANDCAR_S3 = Signer(KEY, SECRET, endpoint=weed.endpoint)
    weed.client().put_object(Bucket=PRIVATE, Key=NAME, Body=DATA)
    assert httpx2.get(f"{weed.endpoint}/{PRIVATE}/{NAME}").status_code == 403
    assert server.publish(chunks=[chunk(DATA, urls=[PLACE])]).status_code == 201
    prepare("digits")
    body = server.ask("GET", "/model?model_id=digits", token=server.join().token).json()
    (link,) = body["dataset"]
    assert link["url"].startswith(f"{weed.endpoint}/{PRIVATE}/{NAME}?X-Amz-Algorithm=")
    answer = httpx2.get(link["url"], headers={"Range": "bytes=8-"})
    assert (answer.status_code, answer.content) == (206, DATA[8:])
    assert Chunk.objects.get().urls == [PLACE], "no link that ends is kept"


def test_everyone_gets_the_same_link_within_the_hour(signing):
    early, late = datetime(2026, 1, 2, 3, 4, tzinfo=UTC), datetime(2026, 1, 2, 3, 59, tzinfo=UTC)
    assert links.given([PLACE], early) == links.given([PLACE], late)
    later = datetime(2026, 1, 2, 4, 0, tzinfo=UTC)
    assert links.given([PLACE], early) != links.given([PLACE], later)


def test_a_server_without_credentials_says_how_to_give_it_some(server):
    for reply in (ask(server), server.publish(chunks=[chunk(DATA, urls=[PLACE])])):
        assert reply.status_code == 409
        assert "HANDCAR_S3_KEY" in reply.json()["detail"]


def test_an_owner_sees_the_link_that_volunteers_will_get(server, signing):
    reply = ask(server)
    assert reply.status_code == 200
    assert reply.json()["url"] == links.given([PLACE], datetime.now(UTC))[0]


@pytest.mark.parametrize(
    "url",
    [
        f"s3://{PRIVATE}/somebody/elses/secret",
        f"s3://{PRIVATE}/{'0' * 64}",
        f"s3://{PRIVATE}/{NAME}/../secret",
        f"s3://{PRIVATE}/{NAME}?versionId=1",
        "file:///etc/passwd",
    ],
)
def test_nothing_is_signed_but_objects_named_by_their_digest(server, signing, url):
    assert ask(server, url).status_code == 400
    assert server.publish(chunks=[chunk(DATA, urls=[url])]).status_code == 400


def test_only_owners_have_links_signed(server, signing):
    body = {"url": PLACE, "sha256": DIGEST}
    assert server.ask("POST", "/links", body, token=server.join().token).status_code == 403


def test_a_chunk_whose_credentials_are_gone_is_asked_for_here(server, settings, signing):
    server.publish(chunks=[chunk(DATA, urls=[PLACE])])
    prepare("digits")
    settings.HANDCAR_S3 = None
    body = server.ask("GET", "/model?model_id=digits", token=server.join().token).json()
    assert body["dataset"][0]["url"].startswith("http://testserver/api/v1/files/")


def test_what_is_stored_here_as_well_is_one_mirror_more(server):
    server.store(DATA)
    server.publish(chunks=[chunk(DATA, urls=["https://example.org/a"])])
    prepare("digits")
    body = server.ask("GET", "/model?model_id=digits", token=server.join().token).json()
    (link,) = body["dataset"]
    assert link["url"] == "https://example.org/a"
    assert link["mirrors"] == [f"http://testserver/api/v1/files/{DIGEST.removeprefix('sha256:')}"]


def test_signing_ten_thousand_links_takes_no_query_and_keeps_plain_ones(signing):
    urls = [f"s3://bucket/{number:064x}" for number in range(10_000)]
    signed = links.given([*urls, "https://example.org/a"], datetime.now(UTC))
    assert len(set(signed)) == 10_001
    assert signed[-1] == "https://example.org/a"


# -- mirrors of the versions -----------------------------------------------------------------


def tell(server: Any, told: dict[str, list[str]], token: str | None = None) -> Any:
    path = "/models/digits/mirrors"
    return server.ask("POST", path, {"links": told}, token=token or server.owner)


def listed(server: Any) -> dict[str, Any]:
    return server.ask("GET", "/series/digits").json()


def test_a_frame_that_lies_elsewhere_is_listed_with_its_mirrors(server):
    server.model()
    digest = listed(server)["keyframe"]["sha256"]
    reply = tell(server, {digest: ["https://example.org/frame"]})
    assert reply.json() == {"told": [digest]}
    assert listed(server)["keyframe"]["mirrors"] == ["https://example.org/frame"]
    tell(server, {digest: ["https://example.org/moved"]})
    assert listed(server)["keyframe"]["mirrors"] == ["https://example.org/moved"]
    assert tell(server, {digest: []}).json() == {"told": []}
    assert listed(server)["keyframe"]["mirrors"] == []


def test_the_model_file_may_lie_elsewhere_too(server):
    model = server.model()
    tell(server, {model.model_file_digest: ["https://example.org/model"]})
    body = server.ask("GET", "/model?model_id=digits", token=server.join().token).json()
    assert body["configuration"]["mirrors"] == ["https://example.org/model"]


def test_frames_in_a_private_bucket_are_signed_for_as_well(server, signing):
    server.model()
    digest = listed(server)["keyframe"]["sha256"]
    tell(server, {digest: [f"s3://bucket/{digest.removeprefix('sha256:')}"]})
    (link,) = listed(server)["keyframe"]["mirrors"]
    assert link.startswith("https://s3.example.org/bucket/")
    assert "X-Amz-Signature=" in link


def test_what_is_not_listed_is_not_told_of(server):
    server.model()
    assert tell(server, {DIGEST: ["https://example.org/x"]}).json() == {"told": []}
    assert Mirror.objects.count() == 0


def test_only_its_owner_says_where_a_model_lies(server):
    server.model()
    digest = listed(server)["keyframe"]["sha256"]
    told = {digest: ["https://example.org/x"]}
    assert tell(server, told, server.other_owner()).status_code == 403
    assert tell(server, told, server.join().token).status_code == 403
    assert tell(server, {digest: ["ftp://example.org/x"]}).status_code == 400


def test_a_frame_that_is_let_go_is_forgotten_elsewhere_too(server, monkeypatch):
    model = server.model()
    digest = listed(server)["keyframe"]["sha256"]
    tell(server, {digest: ["https://example.org/frame"]})
    monkeypatch.setattr(series, "_clear", lambda rows, *fields: [digest])
    monkeypatch.setattr(series, "is_named", lambda digest: False)
    series.prune(model)
    assert Mirror.objects.count() == 0
