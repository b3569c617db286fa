"""A bucket as a store, on a real S3 server."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from handcar import files
from handcar.errors import BadInput, StoreFault, Unreachable
from handcar.stores import links, trial
from handcar.stores.bucket import CHECKSUM, Bucket, checksum_of
from handcar.stores.s3 import MULTIPART_BYTES, Place, S3Store, connect
from handcar.stores.signing import Signer, Wanted, parse
from weed import KEY, PRIVATE, PUBLIC, SECRET, Weed

pytestmark = pytest.mark.xdist_group("weed")


@pytest.fixture
def chunk(tmp_path: Path) -> Path:
    path = tmp_path / "chunk"
    path.write_bytes(os.urandom(300_000))
    return path


def store_at(weed: Weed, bucket: str, prefix: str, links: str = "public") -> S3Store:
    store = S3Store(Place(bucket, prefix, weed.endpoint), links)
    store.check()
    return store


def test_what_is_put_can_be_fetched_by_its_link(as_owner, chunk):
    store = store_at(as_owner, PUBLIC, "a/b")
    digest = files.digest_file(chunk)
    assert store.put(digest, chunk)
    link = store.link(digest)
    assert link == f"{as_owner.endpoint}/{PUBLIC}/a/b/{digest.removeprefix('sha256:')}"
    with trial.client() as client:
        assert trial.try_link(client, link, chunk) == trial.Tried(link, resumes=True)


def test_what_is_there_is_not_sent_again_by_this_or_a_later_run(as_owner, chunk):
    digest = files.digest_file(chunk)
    store = store_at(as_owner, PUBLIC, "again")
    assert [store.put(digest, chunk), store.put(digest, chunk)] == [True, False]
    assert not store_at(as_owner, PUBLIC, "again").put(digest, chunk)


def test_what_is_there_with_another_size_is_sent_again(as_owner, chunk):
    digest = files.digest_file(chunk)
    name = f"torn/{digest.removeprefix('sha256:')}"
    as_owner.client().put_object(Bucket=PUBLIC, Key=name, Body=b"half")
    assert store_at(as_owner, PUBLIC, "torn").put(digest, chunk)


def test_a_large_file_goes_in_parts(as_owner, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(os.urandom(MULTIPART_BYTES + 1))
    digest = files.digest_file(path)
    store = store_at(as_owner, PUBLIC, "large")
    assert store.put(digest, path)
    fetched = httpx2.get(store.link(digest)).content
    assert files.digest(fetched) == digest


def test_a_removed_object_is_gone_and_removing_it_again_is_harmless(as_owner, chunk):
    digest = files.digest_file(chunk)
    store = store_at(as_owner, PUBLIC, "gone")
    store.put(digest, chunk)
    store.remove(digest)
    store.remove(digest)
    assert as_owner.names(PUBLIC, "gone/") == []
    assert store.put(digest, chunk)


def test_a_bucket_that_nobody_may_read_gives_a_fault_with_what_to_do(as_owner, chunk):
    store = store_at(as_owner, PRIVATE, "kept")
    store.put(files.digest_file(chunk), chunk)
    link = store.link(files.digest_file(chunk))
    with trial.client() as client, pytest.raises(StoreFault) as fault:
        trial.try_link(client, link, chunk)
    assert "HTTP 403" in str(fault.value)
    assert "Access Denied" in str(fault.value)


def test_a_signed_link_opens_a_private_bucket_for_seven_days(as_owner, chunk):
    store = store_at(as_owner, PRIVATE, "signed", "signed")
    store.put(files.digest_file(chunk), chunk)
    link = store.link(files.digest_file(chunk))
    with trial.client() as client:
        tried = trial.try_link(client, link, chunk)
    assert tried.resumes
    assert tried.lasts_s == 7 * 24 * 3600


def test_what_the_server_signs_is_what_amazons_own_library_signs(as_owner):
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest("GET", f"{as_owner.endpoint}/{PRIVATE}/a/some%20name~%281%29.chunk")
    auth = S3SigV4QueryAuth(Credentials(KEY, SECRET), "s3", "us-east-1", 60)
    auth.add_auth(request)
    moment = dict(httpx2.URL(request.url).params)["X-Amz-Date"]
    at = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    ours = Signer(KEY, SECRET, endpoint=as_owner.endpoint).sign(
        PRIVATE, "a/some name~(1).chunk", at, expires_s=60
    )
    assert dict(httpx2.URL(ours).params) == dict(httpx2.URL(request.url).params)


def test_a_real_server_takes_our_signature_and_no_other(as_owner, chunk):
    digest = files.digest_file(chunk)
    store = store_at(as_owner, PRIVATE, "by-server", "server")
    store.put(digest, chunk)
    place = parse(store.link(digest))
    assert place == (PRIVATE, f"by-server/{digest.removeprefix('sha256:')}")
    now = datetime.now(UTC)
    signer = Signer(KEY, SECRET, endpoint=as_owner.endpoint)
    link = signer.sign(*place, now, expires_s=3600)
    with trial.client() as client:
        assert trial.try_link(client, link, chunk).resumes
    wrong = Signer(KEY, "guessed", endpoint=as_owner.endpoint)
    assert httpx2.get(wrong.sign(*place, now, expires_s=3600)).status_code == 403


def test_a_link_to_put_bytes_is_signed_as_amazon_signs_it(as_owner):
    digest = files.digest(b"bytes")
    checksum = checksum_of(digest)
    asked = {"Bucket": PRIVATE, "Key": "put/x", "ChecksumSHA256": checksum}
    theirs = httpx2.URL(
        connect(as_owner.endpoint).generate_presigned_url("put_object", Params=asked, ExpiresIn=60)
    )
    moment = theirs.params["X-Amz-Date"]
    at = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    wanted = Wanted("PUT", headers=((CHECKSUM, checksum),))
    signer = Signer(KEY, SECRET, endpoint=as_owner.endpoint)
    ours = signer.sign(PRIVATE, "put/x", at, expires_s=60, wanted=wanted)
    assert dict(httpx2.URL(ours).params) == dict(theirs.params)
    told = {CHECKSUM: checksum}
    assert httpx2.put(ours, content=b"other", headers=told).status_code == 400
    assert httpx2.put(ours, content=b"bytes", headers=told).status_code == 200


def test_lent_credentials_are_signed_for_as_amazon_does(as_owner, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "lent/for+hours=")
    asked = {"Bucket": PRIVATE, "Key": "x"}
    theirs = httpx2.URL(
        connect(as_owner.endpoint).generate_presigned_url("get_object", Params=asked, ExpiresIn=60)
    )
    at = datetime.strptime(theirs.params["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    bucket = Bucket(PRIVATE, as_owner.endpoint, "us-east-1", None)
    ours = httpx2.URL(bucket.sign("x", at, expires_s=60))
    assert dict(ours.params) == dict(theirs.params)


def test_an_expired_link_is_known_as_one(as_owner, chunk):
    digest = files.digest_file(chunk)
    store = store_at(as_owner, PRIVATE, "old", "server")
    store.put(digest, chunk)
    signer = Signer(KEY, SECRET, endpoint=as_owner.endpoint)
    place = parse(store.link(digest))
    then = datetime.now(UTC) - timedelta(hours=2)
    answer = httpx2.get(signer.sign(*place, then, expires_s=60))
    assert answer.status_code == 403
    assert links.is_expired(answer.content, answer.status_code)
    assert links.refusal(answer.content, answer.headers, 403, str(answer.url)) is None


def test_a_link_to_amazon_itself_names_the_bucket_in_its_host():
    at = datetime(2026, 1, 2, tzinfo=UTC)
    link = Signer("k", "s", "eu-west-1").sign("bucket", "a/b", at, expires_s=10**9)
    assert link.startswith("https://bucket.s3.eu-west-1.amazonaws.com/a/b?X-Amz-Algorithm=")
    assert "X-Amz-Expires=604800" in link


def test_the_public_address_may_be_another_than_the_endpoint(as_owner):
    place = Place(PUBLIC, "x", as_owner.endpoint, "https://pub-1234.r2.dev/")
    assert S3Store(place).link("sha256:" + "a" * 64) == f"https://pub-1234.r2.dev/x/{'a' * 64}"


def test_a_bucket_that_is_not_there_is_told(as_owner):
    with pytest.raises(StoreFault, match="there is no such bucket"):
        store_at(as_owner, "nowhere", "")


def test_a_wrong_secret_is_told(as_owner, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreFault, match="the secret key is wrong"):
        store_at(as_owner, PUBLIC, "")


def test_missing_credentials_are_told(as_owner, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreFault, match="set AWS_ACCESS_KEY_ID"):
        store_at(as_owner, PUBLIC, "")


def test_an_endpoint_that_does_not_answer_is_unreachable(as_owner):
    from weed import free_ports

    store = S3Store(Place(PUBLIC, "", f"http://127.0.0.1:{free_ports(1)[0]}"))
    with pytest.raises(Unreachable, match="do it again to go on"):
        store.check()


def test_an_endpoint_that_is_no_address_is_told(as_owner):
    with pytest.raises(BadInput):
        S3Store(Place(PUBLIC, "", "not an address"))
