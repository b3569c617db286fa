"""`handcar mirror` and `handcar publish --store s3://...`, with a real server and a real bucket."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx2
import numpy as np
import pytest
from django.core.wsgi import get_wsgi_application

from bad_servers import answering
from handcar import cli, files
from handcar.cli import mirror
from handcar.cli.mirror import Noted, Notes
from handcar.server.catalog.models import Chunk
from handcar.stores.signing import Signer
from server_api import model_file, newest, prepare, update_frame, work
from weed import KEY, PRIVATE, PUBLIC, SECRET, Weed

pytestmark = pytest.mark.xdist_group("weed")
HOUR = 3600.0


class Silent(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(server: Any) -> Iterator[str]:
    """The server in this process, as others reach it."""
    with (
        make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Silent) as http,
        answering(http),
    ):
        yield f"http://127.0.0.1:{http.server_port}"


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, address: str, server: Any
) -> Any:
    """Run a command as the owner; return its exit code and all that it said."""
    monkeypatch.setenv("HANDCAR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HANDCAR_SERVER", address)
    monkeypatch.setenv("HANDCAR_TOKEN", server.owner)
    monkeypatch.setattr(cli.app, "registered_commands", [])

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["handcar", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), "".join(capsys.readouterr())

    return run


def next_version(server: Any, model: Any) -> None:
    number = newest(model).number
    frame = update_frame(model, base=number, seed=number)
    server.deliver(server.join(), frame, base_version=number)
    work()


def test_versions_are_put_in_a_bucket_and_listed_there_too(server, run, as_owner: Weed):
    model = server.model()
    store = ("--store", f"s3://{PUBLIC}/weights", "--s3-endpoint", as_owner.endpoint, "--once")
    code, said = run("mirror", "digits", *store)
    assert code == 0, said
    assert "version 0, keyframe" in said
    assert "the model file" in said
    next_version(server, model)
    code, said = run("mirror", "digits", *store)
    assert code == 0, said
    assert "version 0" not in said, "what was stored is not stored again"
    assert "version 1, delta" in said
    body = server.ask("GET", "/series/digits").json()
    for frame in (body["keyframe"], *body["deltas"]):
        (link,) = frame["mirrors"]
        assert link.startswith(f"{as_owner.endpoint}/{PUBLIC}/weights/")
        assert files.digest(httpx2.get(link).content) == frame["sha256"]
    assert len(as_owner.names(PUBLIC, "weights/")) >= 3


def test_a_mirror_that_nobody_can_read_is_told_and_not_listed(server, run, as_owner: Weed):
    server.model()
    store = ("--store", f"s3://{PRIVATE}/w", "--s3-endpoint", as_owner.endpoint, "--once")
    code, said = run("mirror", "digits", *store)
    assert code == 2
    assert "HTTP 403" in said
    assert server.ask("GET", "/series/digits").json()["keyframe"]["mirrors"] == []


def test_a_mirror_is_somewhere_else_than_the_server(run, server):
    server.model()
    assert run("mirror", "digits", "--once")[0] == 2
    assert run("mirror", "digits", "--once", "--store", "server")[0] == 2


def test_a_model_that_is_not_there_is_told(run, as_owner: Weed):
    store = ("--store", f"s3://{PUBLIC}/x", "--s3-endpoint", as_owner.endpoint, "--once")
    code, said = run("mirror", "nothing", *store)
    assert code == 4
    assert "no model is named nothing" in said


# -- what is kept there ----------------------------------------------------------------------


def notes(tmp_path: Path, **held: Noted) -> Notes:
    return Notes(tmp_path / "notes.json", dict(held))


def keyframe(version: int) -> Noted:
    return Noted("keyframe", version, [], 0.0)


def test_a_frame_goes_an_hour_after_it_left_the_list(tmp_path):
    kept = notes(tmp_path, a=Noted("delta", 1, [], 0.0), b=Noted("delta", 2, [], 0.0))
    assert kept.superfluous({"b"}, 1, 0.0) == []
    assert kept.superfluous({"b"}, 1, HOUR - 1) == []
    assert kept.superfluous({"b"}, 1, HOUR) == ["a"]


def test_the_newest_keyframes_stay(tmp_path):
    kept = notes(tmp_path, a=keyframe(0), b=keyframe(20), c=keyframe(40), d=keyframe(60))
    kept.superfluous({"d"}, 3, 0.0)
    assert kept.superfluous({"d"}, 3, HOUR) == ["a"]


def test_a_frame_that_is_listed_again_stays(tmp_path):
    kept = notes(tmp_path, a=Noted("delta", 1, [], 0.0))
    kept.superfluous(set(), 1, 0.0)
    kept.superfluous({"a"}, 1, HOUR)
    assert kept.superfluous(set(), 1, HOUR + 1) == []


def test_what_is_superfluous_is_removed_from_the_bucket(server, run, as_owner: Weed, monkeypatch):
    model = server.model()
    store = ("--store", f"s3://{PUBLIC}/old", "--s3-endpoint", as_owner.endpoint, "--once")
    run("mirror", "digits", *store, "--keep", 1)
    monkeypatch.setattr("handcar.server.rounds.series.keyframe_is_due", lambda *_: True)
    next_version(server, model)
    next_version(server, model)
    run("mirror", "digits", *store, "--keep", 1)
    monkeypatch.setattr(mirror, "SETTLED_S", 0.0)
    code, said = run("mirror", "digits", *store, "--keep", 1)
    assert code == 0, said
    assert "version 0, keyframe, is kept no longer" in said
    listed = server.ask("GET", "/series/digits").json()
    names = {name.rpartition("/")[2] for name in as_owner.names(PUBLIC, "old/")}
    for frame in (listed["keyframe"], *listed["deltas"]):
        assert frame["sha256"].removeprefix("sha256:") in names


# -- publishing to a bucket ------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A model file and its data."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    np.savez(tmp_path / "points.npz", x=x, y=np.arange(200) % 3)
    files.write_json(tmp_path / "model.json", model_file())
    return tmp_path / "model.json"


def publish(run: Any, written: Path, weed: Weed, bucket: str, *more: str) -> tuple[int, str]:
    data = written.with_name("points.npz")
    store = ("--store", f"s3://{bucket}/data", "--s3-endpoint", weed.endpoint)
    return run("publish", written, data, "--no-wait", *store, *more)


def test_training_chunks_in_a_public_bucket_reach_volunteers(server, run, written, as_owner: Weed):
    code, said = publish(run, written, as_owner, PUBLIC)
    assert code == 0, said
    prepare("digits")
    body = server.ask("GET", "/model?model_id=digits", token=server.join().token).json()
    for link in body["dataset"]:
        assert link["url"].startswith(f"{as_owner.endpoint}/{PUBLIC}/data/")
        assert files.digest(httpx2.get(link["url"]).content) == link["sha256"]
    assert "0 chunks stored, 9 were there already" in publish(run, written, as_owner, PUBLIC)[1]


def test_a_private_bucket_is_told_after_one_chunk(run, written, as_owner: Weed):
    code, said = publish(run, written, as_owner, PRIVATE)
    assert code == 2
    assert "--s3-links signed, or server" in said
    assert len(as_owner.names(PRIVATE, "data/")) == 1
    assert Chunk.objects.count() == 0


def test_links_signed_by_the_owner_are_renewed_by_publishing_again(
    run, written, as_owner: Weed, monkeypatch
):
    code, said = publish(run, written, as_owner, PRIVATE, "--s3-links", "signed")
    assert code == 0, said
    assert "good for 7 days: publish again before then" in said
    before = Chunk.objects.filter(split="train").first().urls
    import botocore.auth

    later = botocore.auth.get_current_datetime() + timedelta(seconds=5)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda **_: later)
    assert publish(run, written, as_owner, PRIVATE, "--s3-links", "signed")[0] == 0
    assert Chunk.objects.filter(split="train").first().urls != before


def test_links_signed_by_the_server_are_tried_through_it(
    server, run, written, as_owner: Weed, settings
):
    settings.HANDCAR_S3 = Signer(KEY, SECRET, endpoint=as_owner.endpoint)
    code, said = publish(run, written, as_owner, PRIVATE, "--s3-links", "server")
    assert code == 0, said
    assert Chunk.objects.filter(split="train").first().urls[0].startswith(f"s3://{PRIVATE}/data/")
    settings.HANDCAR_S3 = Signer(KEY, "another", endpoint=as_owner.endpoint)
    code, said = publish(run, written, as_owner, PRIVATE, "--s3-links", "server")
    assert code == 2
    assert "HTTP 403" in said


def test_a_server_that_can_t_sign_says_so_before_much_is_sent(run, written, as_owner: Weed):
    code, said = publish(run, written, as_owner, PRIVATE, "--s3-links", "server")
    assert code == 4
    assert "HANDCAR_S3_KEY" in said
