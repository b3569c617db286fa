"""A server whose bytes lie in a bucket, on a real S3 server."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from django.utils import timezone

from handcar import files
from handcar.errors import Corrupt, StoreAway
from handcar.server import blobs, direct, memory, naming, sweep
from handcar.server.catalog.models import Chunk
from handcar.server.rounds import checks, merges, series, services
from handcar.server.rounds.models import RECEIVED, Update, Version
from server_api import Api, Joined, announcement, update_frame
from weed import KEY, PRIVATE, PUBLIC, SECRET, Weed

pytestmark = pytest.mark.xdist_group("weed")


def use(settings: Any, weed: Weed, prefix: str, **changes: Any) -> None:
    """Let a server keep its bytes in a bucket of its own."""
    told = {
        "store": f"s3://{PRIVATE}/{prefix}",
        "store_endpoint": weed.endpoint,
        "store_key": KEY,
        "store_secret": SECRET,
        **changes,
    }
    settings.HANDCAR = replace(settings.HANDCAR, **told)


@pytest.fixture
def there(server: Api, settings: Any, weed: Weed, request: pytest.FixtureRequest) -> Api:
    """A server with a bucket, under a prefix of the test's own."""
    use(settings, weed, prefix_of(request))
    return server


def prefix_of(request: pytest.FixtureRequest) -> str:
    return request.node.name[:60].replace("[", "-").replace("]", "")


def names(weed: Weed, request: pytest.FixtureRequest, kind: str) -> set[str]:
    """The digests of the objects of a kind."""
    found = weed.names(PRIVATE, f"{prefix_of(request)}/{kind}/")
    return {f"sha256:{name.rpartition('/')[2]}" for name in found}


def send_directly(direct: dict[str, Any], data: bytes) -> None:
    for part in direct["parts"]:
        start = (part["number"] - 1) * direct["part_bytes"]
        answer = httpx2.put(
            part["url"],
            content=data[start : start + direct["part_bytes"]],
            headers=direct["headers"],
        )
        assert answer.status_code == 200, answer.text


def complete(server: Api, who: Joined, direct: dict[str, Any]) -> Any:
    return server.ask("POST", direct["complete_url"], token=who.token)


# -- blobs -----------------------------------------------------------------------------------


def test_what_is_put_is_read_again_and_harmless_to_put_twice(there):
    digest = blobs.put(b"weights")
    assert blobs.put(b"weights") == digest
    assert blobs.read(digest) == b"weights"
    assert (blobs.size(digest), blobs.known_size(digest)) == (7, None)
    blobs.remove(digest)
    blobs.remove(digest)
    assert not blobs.present(digest)
    with pytest.raises(Corrupt):
        blobs.read(digest)


def test_damaged_bytes_are_never_read(there, weed, request):
    digest = blobs.put(b"weights")
    (name,) = weed.names(PRIVATE, f"{prefix_of(request)}/private/")
    weed.client().put_object(Bucket=PRIVATE, Key=name, Body=b"lies")
    assert blobs.read(digest) == b"weights", "from this disk"
    blobs.bucket().cache.remove(digest)
    with pytest.raises(Corrupt, match="damaged"):
        blobs.read(digest)


def test_a_damaged_copy_on_this_disk_is_fetched_anew(there):
    digest = blobs.put(b"weights")
    (kept,) = there.home.cache.iterdir()
    kept.write_bytes(b"lies")
    assert blobs.read(digest) == b"weights"
    assert kept.read_bytes() == b"weights"


def test_the_oldest_copies_on_this_disk_go_first(tmp_path):
    from handcar.server.blobs_cache import Cache

    cache = Cache(tmp_path, most_bytes=250)
    pieces = [os.urandom(100) for _ in range(3)]
    for age, data in enumerate(pieces[:2]):
        cache.add(files.digest(data), data)
        os.utime(tmp_path / files.digest(data)[7:], (1000 + age, 1000 + age))
    cache.read(files.digest(pieces[0]), Path.read_bytes)
    cache.add(files.digest(pieces[2]), pieces[2])
    kept = [cache.read(files.digest(data), Path.read_bytes) is not None for data in pieces]
    assert kept == [True, False, True]


def test_a_server_is_ready_while_its_bucket_answers(there, settings, weed):
    memory.forget()
    assert there.ask("GET", "/ready").status_code == 200
    memory.forget()
    use(settings, weed, "away", store_endpoint="http://127.0.0.1:9")
    reply = there.ask("GET", "/ready")
    assert reply.status_code == 503
    assert reply.json()["errors"][0].startswith("the store does not answer")


def test_a_store_that_is_away_is_said_and_nothing_is_blamed(there, settings, weed):
    model = there.model()
    update = there_delivers(there, model)
    use(settings, weed, "away", store_endpoint="http://127.0.0.1:9")
    with pytest.raises(StoreAway):
        blobs.size("sha256:" + "0" * 64)
    for _ in range(services.ATTEMPTS + 2):
        Update.objects.update(leased_until=None)
        assert checks.check_one(timezone.now())
    update.refresh_from_db()
    assert update.state == RECEIVED
    answer = there.ask(
        "POST", "/blobs", {"sha256": files.digest(b"x"), "size": 1}, token=there.owner
    )
    assert (answer.status_code, answer["Retry-After"]) == (503, "30")
    assert "127.0.0.1" not in answer.content.decode()


def there_delivers(there: Api, model: Any) -> Update:
    ada = there.join()
    frame = update_frame(model)
    told = announcement(frame)
    status = there.announce(ada, told).json()
    send_directly(status["direct"], frame)
    assert complete(there, ada, status["direct"]).json()["state"] == "received"
    return Update.objects.get(id=told["id"])


# -- what everyone may have, and what not ----------------------------------------------------


def test_a_training_goes_its_way_with_all_bytes_in_the_bucket(there, weed, request):
    model = there.model()
    update = there_delivers(there, model)
    assert checks.check_one(timezone.now())
    assert merges.merge_one(timezone.now() + timedelta(hours=1))
    assert series.newest(model.pk).number == 1
    listed = there.ask("GET", f"/series/{model.pk}").json()
    for frame in (listed["keyframe"], *listed["deltas"]):
        assert files.digest(httpx2.get(frame["url"]).content) == frame["sha256"]
    assert names(weed, request, "public") >= {listed["keyframe"]["sha256"]}
    named = naming.names()
    assert names(weed, request, "public") == named.public
    assert names(weed, request, "private") == named.private | {update.sha256}
    assert not list(there.home.blobs.iterdir())


def test_chunks_to_train_on_become_public_and_those_to_validate_with_never(there, weed, request):
    assert there.publish().status_code == 201
    splits = dict(Chunk.objects.values_list("digest", "split"))
    public, private = names(weed, request, "public"), names(weed, request, "private")
    assert {digest for digest, split in splits.items() if split == "train"} < public
    assert {digest for digest, split in splits.items() if split != "train"} == private
    assert there.publish().status_code == 200


def test_volunteers_are_led_straight_to_the_bucket(there, weed):
    model = there.model()
    body = there.ask("GET", f"/model?model_id={model.pk}", token=there.join().token).json()
    for link in (*body["dataset"], body["configuration"], body["series"]["keyframe"]):
        assert link["url"].startswith(f"{weed.endpoint}/{PRIVATE}/")
        answer = httpx2.get(link["url"])
        assert (answer.status_code, files.digest(answer.content)) == (200, link["sha256"])
        unsigned = link["url"].partition("?")[0]
        assert httpx2.get(unsigned).status_code == 403


def test_a_public_address_is_used_where_there_is_one(there, settings, weed, request):
    address = f"{weed.endpoint}/{PUBLIC}"
    use(settings, weed, prefix_of(request), store=f"s3://{PUBLIC}", store_public=address)
    frame = there.ask("GET", f"/series/{there.model().pk}").json()["keyframe"]
    assert frame["url"] == f"{address}/public/{frame['sha256'].removeprefix('sha256:')}"
    assert files.digest(httpx2.get(frame["url"]).content) == frame["sha256"]


def test_an_old_link_to_this_server_leads_to_the_bucket_and_private_bytes_nowhere(there):
    model = there.model()
    version = Version.objects.get(model=model)
    for method in ("GET", "HEAD"):
        answer = there.ask(method, f"/files/{version.keyframe_digest[7:]}")
        assert answer.status_code == 302
    assert files.digest(httpx2.get(answer["Location"]).content) == version.keyframe_digest
    for digest in (version.master_digest, there_delivers(there, model).sha256):
        assert there.ask("GET", f"/files/{digest[7:]}").status_code == 404


# -- updates, straight to the bucket ---------------------------------------------------------


BIG = os.urandom(2 * direct.SINGLE_BYTES + 1000)


def test_what_began_to_come_through_the_server_goes_on_there(there):
    ada, frame = there.join(), update_frame(there.model())
    told = announcement(frame)
    status = there.announce(ada, told).json()
    there.send(status["upload_url"], frame[:10], 0, ada.token)
    again = there.announce(ada, told).json()
    assert (again["offset"], again["direct"]) == (10, None)


def test_what_came_whole_while_the_store_was_away_is_not_sent_again(there, settings, weed, request):
    ada, frame = there.join(), update_frame(there.model())
    told = announcement(frame)
    status = there.announce(ada, told).json()
    use(settings, weed, "away", store_endpoint="http://127.0.0.1:9")
    assert there.send(status["upload_url"], frame, 0, ada.token).status_code == 503
    assert Update.objects.get().state == "announced"
    use(settings, weed, prefix_of(request))
    assert there.announce(ada, told).json()["state"] == "received"
    assert blobs.read(told["sha256"]) == frame


@pytest.fixture
def large(there: Api) -> dict[str, Any]:
    """The announcement of an update that goes in three parts."""
    wide = {"shape": [300], "dtype": "float32"}
    there.model(input=wide, layers=[{"layer": "Dense", "units": 10_000, "activation": "softmax"}])
    return announcement(BIG)


def test_an_update_sent_to_the_bucket_is_received_once_it_is_complete(there, weed, request):
    update = there_delivers(there, there.model())
    assert update.state == RECEIVED
    assert blobs.read(update.sha256)
    assert not weed.names(PRIVATE, f"{prefix_of(request)}/incoming/update")


def test_wrong_bytes_are_refused_by_the_bucket_itself(there):
    frame = update_frame(there.model())
    status = there.announce(there.join(), announcement(frame)).json()
    (part,) = status["direct"]["parts"]
    answer = httpx2.put(part["url"], content=b"x" * len(frame), headers=status["direct"]["headers"])
    assert answer.status_code == 400
    answer = httpx2.put(part["url"], content=frame)
    assert answer.status_code == 403, "a link is of no use without the digest"


def test_nothing_is_acknowledged_before_it_is_there(there):
    ada, frame = there.join(), update_frame(there.model())
    status = there.announce(ada, announcement(frame)).json()
    again = complete(there, ada, status["direct"]).json()
    assert again["state"] == "announced"
    assert len(again["direct"]["parts"]) == 1
    bob = there.join("bob")
    assert complete(there, bob, status["direct"]).status_code == 404


def test_a_large_update_goes_in_parts_and_on_where_it_was(there, large, weed, request):
    ada = there.join()
    status = there.announce(ada, large).json()
    assert len(status["direct"]["parts"]) == 3
    first = {**status["direct"], "parts": status["direct"]["parts"][:2]}
    send_directly(first, BIG)
    again = there.announce(ada, large).json()["direct"]
    assert [part["number"] for part in again["parts"]] == [3]
    send_directly(again, BIG)
    assert complete(there, ada, again).json()["state"] == "received"
    assert blobs.read(large["sha256"]) == BIG
    assert not blobs.bucket().bucket.unfinished(f"{prefix_of(request)}/")


def test_wrong_parts_are_read_and_thrown_away_before_anything_is_acknowledged(there, large):
    ada = there.join()
    status = there.announce(ada, large).json()
    send_directly(status["direct"], BIG[::-1])
    assert complete(there, ada, status["direct"]).status_code == 460
    assert Update.objects.get().state == "announced"
    again = there.announce(ada, large).json()["direct"]
    send_directly(again, BIG)
    assert complete(there, ada, again).json()["state"] == "received"


def test_a_store_that_checks_no_digests_is_not_believed(there, monkeypatch):
    monkeypatch.setattr(type(blobs.bucket().bucket), "checks_digests", False)
    read: list[str] = []
    digest = type(blobs.bucket().bucket).digest
    monkeypatch.setattr(
        type(blobs.bucket().bucket),
        "digest",
        lambda self, key, etag: read.append(key) or digest(self, key, etag),
    )
    there_delivers(there, there.model())
    assert len(read) == 1


def test_this_store_is_found_to_check_digests(there):
    assert blobs.bucket().bucket.checks_digests


def test_when_the_answer_is_lost_announcing_again_finds_it_there(there):
    ada, frame = there.join(), update_frame(there.model())
    told = announcement(frame)
    send_directly(there.announce(ada, told).json()["direct"], frame)
    assert there.announce(ada, told).json()["state"] == "received"


def test_an_object_changed_after_it_was_verified_is_not_taken(there, weed, request):
    bucket = blobs.bucket()
    key = bucket.incoming("update-x")
    bucket.bucket.put(key, b"right")
    etag = bucket.bucket.head(key).etag
    bucket.bucket.put(key, b"wrong")
    assert not bucket.adopt_incoming("update-x", files.digest(b"right"), etag)
    assert not blobs.present(files.digest(b"right"))


def test_an_old_volunteer_sends_through_the_server_as_before(there):
    ada, frame = there.join(), update_frame(there.model())
    status = there.announce(ada, announcement(frame)).json()
    half = len(frame) // 2
    url = status["upload_url"]
    assert there.send(url, frame[:half], 0, ada.token).json()["offset"] == half
    answer = there.ask("HEAD", url, token=ada.token)
    assert answer["Upload-Offset"] == str(half)
    assert there.send(url, frame[half:], half, ada.token).json()["state"] == "received"
    answer = there.ask("HEAD", url, token=ada.token)
    assert answer["Upload-Offset"] == str(len(frame))
    assert blobs.read(files.digest(frame)) == frame
    assert not list(there.home.uploads.iterdir())


def test_parts_of_an_update_that_expires_are_given_up(there, large, request):
    status = there.announce(there.join(), large).json()["direct"]
    send_directly({**status, "parts": status["parts"][:1]}, BIG)
    assert blobs.bucket().bucket.unfinished(f"{prefix_of(request)}/")
    assert services.expire(timezone.now() + timedelta(days=3))
    assert not blobs.bucket().bucket.unfinished(f"{prefix_of(request)}/")


def test_a_kill_between_keeping_and_acknowledging_sends_nothing_twice(there, monkeypatch):
    ada, frame = there.join(), update_frame(there.model())
    told = announcement(frame)
    status = there.announce(ada, told).json()["direct"]
    send_directly(status, frame)

    def killed(update: Update, now: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(services, "receive", killed)
        complete(there, ada, status)
    assert Update.objects.get().state == "announced"
    assert there.announce(ada, told).json()["state"] == "received"


# -- orphans ---------------------------------------------------------------------------------


def test_only_what_is_old_and_named_by_no_row_is_swept_away(there, weed, request):
    there_delivers(there, there.model())
    kept = [names(weed, request, kind) for kind in ("public", "private")]
    orphans = [blobs.put(b"nobody's", public=public) for public in (True, False)]
    bucket = blobs.bucket()
    bucket.bucket.put(bucket.incoming("update-gone"), b"half")
    bucket.bucket.begin(bucket.incoming("update-half"))
    sweep.sweep()
    assert orphans[0] in names(weed, request, "public"), "it may still be wanted"
    sweep.sweep_bucket(bucket, naming.names(), timezone.now() + timedelta(minutes=1))
    assert [names(weed, request, kind) for kind in ("public", "private")] == kept
    assert not weed.names(PRIVATE, f"{prefix_of(request)}/incoming/update")
    assert not bucket.bucket.unfinished(f"{prefix_of(request)}/")
    for digest in kept[1]:
        assert blobs.read(digest)


def test_what_anyone_can_read_is_found_out(there, settings, weed, request):
    assert not blobs.bucket().is_open()
    use(settings, weed, prefix_of(request), store=f"s3://{PUBLIC}")
    assert blobs.bucket().is_open()


def test_links_name_the_store_and_carry_no_secret(there):
    frame = there.ask("GET", f"/series/{there.model().pk}").json()["keyframe"]
    assert SECRET not in frame["url"]
    assert urlsplit(frame["url"]).path.split("/")[-2] == "public"
