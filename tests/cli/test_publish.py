"""`handcar publish`, as a person runs it, against a server in this process."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bad_servers import answering
from handcar import cli, demo_data, files
from handcar.cli import publish
from handcar.data import chunks
from handcar.protocol import problems
from handcar.protocol.messages import ChunkEntry, PublishRequest

TOKEN = "an owner's secret"


class Handler(BaseHTTPRequestHandler):
    """As much of the API as publishing takes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        self.server.agents.add(self.headers["User-Agent"])
        if self.path == "/api/v1/health":
            return self._answer(200, {"status": "ok"})
        states = self.server.states
        return self._answer(200, self._status(states.pop(0) if len(states) > 1 else states[0]))

    def do_POST(self) -> None:
        body = json.loads(self._body())
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._no(problems.UNAUTHENTICATED, "log in as an owner")
        if self.path == "/api/v1/blobs":
            return self._blob(body["sha256"], body["size"])
        self.server.published.append(PublishRequest.model_validate(body))
        return self._answer(201, self._status("preparing"))

    def do_PATCH(self) -> None:
        digest, piece = "sha256:" + self.path.split("/")[-1], self._body()
        held = self.server.blobs.setdefault(digest, b"")
        assert int(self.headers["Upload-Offset"]) == len(held)
        self.server.blobs[digest] = held + piece
        self._blob(digest, len(held) + len(piece))

    def _blob(self, digest: str, size: int) -> None:
        held = self.server.blobs.get(digest, b"")
        present = files.digest(held) == digest
        url = None if present else f"{self.server.url}/blobs/{digest.removeprefix('sha256:')}"
        self._answer(
            200, {"sha256": digest, "present": present, "offset": len(held), "upload_url": url}
        )

    def _status(self, state: str) -> dict[str, Any]:
        return {
            "id": "points",
            "dataset": {"name": "plane"},
            "model_description": "",
            "state": state,
            "weights": 1,
            "version": 0,
            "dataset_bytes": 1,
            "dataset_records": 1,
            "begin_bytes": 1,
            "batch_size": 8,
            "volunteers": 0,
            "updates_merged": 0,
            "records_merged": 0,
            "failure": "Keras could not build it" if state == "failed" else None,
        }

    def _no(self, kind: problems.ProblemType, detail: str) -> None:
        body = {"type": kind.type, "title": kind.title, "status": kind.status, "detail": detail}
        self._answer(kind.status, body, problems.MEDIA_TYPE)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, status: int, body: object, media_type: str = "application/json") -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.blobs: dict[str, bytes] = {}
        self.published: list[PublishRequest] = []
        self.states = ["preparing", "pending"]
        self.agents: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server, answering(server):
        yield server


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `handcar publish` with these arguments."""
    monkeypatch.setenv("HANDCAR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cli.app, "registered_commands", [])
    monkeypatch.setattr(publish, "POLL_S", 0.01)
    for name in ("HANDCAR_SERVER", "HANDCAR_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr("sys.argv", ["handcar", "publish", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert list((tmp_path / "home").glob("publish-*")) == [], "it tidies up"
        return Ran(int(ended.value.code or 0), out, err)

    return run


MODEL = {
    "name": "points",
    "dataset": {
        "name": "plane",
        "description": "points in the plane",
        "licence": "CC0",
        "file": "points.npz",
        "validation": 0.25,
    },
    "input": {"shape": [2]},
    "layers": [{"layer": "Dense", "units": 3, "activation": "softmax"}],
    "loss": "sparse_categorical_crossentropy",
    "batch_size": 8,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file, with its data beside it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)).astype(np.float32)
    np.savez(tmp_path / "points.npz", x=x, y=np.arange(200) % 3)
    path = tmp_path / "points.json"
    path.write_text(json.dumps(MODEL))
    return path


def test_it_stores_publishes_waits_and_says_how_to_join(run, server, model):
    ran = run(model, "--server", server.url, "--token", TOKEN)
    assert (ran.code, ran.err) == (0, "")
    (request,) = server.published
    assert json.loads(request.model_file) == MODEL
    manifest = request.manifest
    assert (manifest.name, manifest.licence) == ("plane", "CC0")
    assert [chunk.split for chunk in manifest.chunks] == ["train"] * 8 + ["validation"]
    assert sum(chunk.records for chunk in manifest.chunks) == 200
    for chunk in manifest.chunks:
        assert len(chunks.decode(server.blobs[chunk.sha256])["x"]) == chunk.records
    for told in (
        "200 records",
        "3 classes",
        "8 chunks to train and 1 to validate",
        f"{server.url}/models/points/",
        f"handcar join {server.url}",
        "points is pending",
    ):
        assert told in ran.out


def test_doing_it_again_sends_nothing_again(run, server, model):
    first = json.loads(run(model, "--server", server.url, "--token", TOKEN, "--json").out)
    again = json.loads(run(model, "--server", server.url, "--token", TOKEN, "--json").out)
    assert (first["chunks_sent"], again["chunks_sent"]) == (9, 0)
    assert server.published[0] == server.published[1]


def test_json_is_one_object_with_what_programs_need(run, server, model):
    ran = run(model, "--server", server.url, "--token", TOKEN, "--json")
    facts = json.loads(ran.out)
    assert facts["model"] == "points"
    assert facts["state"] == "pending"
    assert facts["join"] == f"handcar join {server.url}"
    assert facts["bytes"] == sum(map(len, server.blobs.values()))


def test_without_waiting_it_ends_while_the_server_prepares(run, server, model):
    ran = run(model, "--server", server.url, "--token", TOKEN, "--no-wait")
    assert ran.code == 0
    assert "points is preparing" in ran.out
    assert server.states == ["preparing", "pending"], "it was not asked"


def test_a_model_that_can_t_be_prepared_is_an_error_with_the_reason(run, server, model):
    server.states = ["preparing", "failed"]
    ran = run(model, "--server", server.url, "--token", TOKEN)
    assert ran.code == 1
    assert "points can't be trained: Keras could not build it" in ran.err


def test_data_may_be_given_instead_of_what_the_model_file_names(run, server, model, tmp_path):
    (tmp_path / "points.npz").rename(tmp_path / "elsewhere.npz")
    ran = run(model, tmp_path / "elsewhere.npz", "--server", server.url, "--token", TOKEN)
    assert (ran.code, ran.err) == (0, "")


def test_the_token_that_serve_keeps_is_found(run, server, model, tmp_path):
    files.write_json(tmp_path / "home" / "owner-tokens.json", {server.url: TOKEN})
    assert run(model, "--server", server.url).code == 0


def test_it_says_who_it_is(run, server, model):
    run(model, "--server", server.url, "--token", TOKEN)
    assert len(server.agents) == 1
    assert server.agents.pop().startswith("handcar/")


# -- the owner's own stores


@pytest.fixture
def public(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that a web server shows, and its address."""
    folder = tmp_path / "public"
    folder.mkdir()
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as shown,
        answering(shown),
    ):
        yield folder, f"http://127.0.0.1:{shown.server_port}/chunks"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def by_split(server: Server, split: str) -> list[ChunkEntry]:
    return [chunk for chunk in server.published[-1].manifest.chunks if chunk.split == split]


def test_training_chunks_stay_in_the_owners_folder_and_validation_goes_to_the_server(
    run, server, model, public
):
    folder, url = public
    ran = run(model, "--server", server.url, "--token", TOKEN, "--store", f"{folder}/chunks={url}")
    assert (ran.code, ran.err) == (0, "")
    assert "volunteers can fetch from there" in ran.out
    assert "can't go on where a download broke" in ran.out, "that web server knows no ranges"
    validation = by_split(server, "validation")
    assert set(server.blobs) == {chunk.sha256 for chunk in validation}
    assert all(not chunk.urls for chunk in validation)
    for chunk in by_split(server, "train"):
        (link,) = chunk.urls
        stored = folder / "chunks" / link.removeprefix(f"{url}/")
        assert files.digest(stored.read_bytes()) == chunk.sha256


def test_a_folder_that_the_web_server_does_not_show_yet_is_told_and_published(
    run, server, model, tmp_path, public
):
    target = f"{tmp_path}/elsewhere={public[1]}"
    ran = run(model, "--server", server.url, "--token", TOKEN, "--store", target)
    assert ran.code == 0
    assert "not there for volunteers yet" in ran.out
    assert all(chunk.urls for chunk in by_split(server, "train"))


def test_several_stores_are_several_mirrors(run, server, model, public, tmp_path):
    folder, url = public
    stores = ("--store", f"{folder}/chunks/a={url}/a", "--store", f"{folder}/chunks/b={url}/b")
    ran = run(model, "--server", server.url, "--token", TOKEN, *stores, "--store", "server")
    assert (ran.code, ran.err) == (0, "")
    assert "25 chunks stored, 0 were there already" in ran.out
    for chunk in by_split(server, "train"):
        assert [link.removeprefix(url)[:3] for link in chunk.urls] == ["/a/", "/b/"]
        assert chunk.sha256 in server.blobs
    again = run(model, "--server", server.url, "--token", TOKEN, *stores, "--store", "server")
    assert "0 chunks stored, 25 were there already" in again.out


@pytest.mark.parametrize(
    "target",
    [
        "somewhere",
        "=https://example.org",
        "somewhere=ftp://example.org",
        "s3://",
        "s3://Bad_Bucket/x",
        "rclone:",
        "rclone:remote",
        "server=https://example.org",
        "ftp://example.org/x=https://example.org",
    ],
)
def test_a_store_that_can_t_be_understood_says_what_can_stand_there(run, model, target):
    ran = run(model, "--store", target)
    assert ran.code == 2
    assert f"--store {target}: expected --store server, FOLDER=https://ADDRESS" in ran.err


def test_the_same_place_twice_is_no_second_mirror(run, server, model, public):
    folder, url = public
    stores = ("--store", f"{folder}/a={url}", "--store", f"{folder}/b={url}")
    ran = run(model, "--server", server.url, "--token", TOKEN, *stores)
    assert ran.code == 2
    assert "each mirror must be another place" in ran.err


# -- telling what it would take


def test_a_dry_run_sends_nothing_and_tells_what_there_would_be(run, server, model):
    ran = run(model, "--dry-run", "--server", server.url)
    assert (ran.code, ran.err) == (0, "")
    assert "200 records in 8 chunks to train" in ran.out
    for told in ("before its first step", "of disk", "first step after", "100 Mbit/s", "Nothing"):
        assert told in ran.out
    assert (server.blobs, server.agents, server.published) == ({}, set(), [])


def test_a_dry_run_as_json_has_what_was_really_sent(run, server, model):
    told = json.loads(run(model, "--dry-run", "--json").out)
    run(model, "--server", server.url, "--token", TOKEN)
    assert told["ok"] is True
    assert told["chunks"] == 8
    assert told["upload_bytes"] == sum(map(len, server.blobs.values()))
    largest = max(chunk.size for chunk in by_split(server, "train"))
    assert told["begin_bytes"] == model.stat().st_size + told["keyframe_bytes"] + largest
    assert [line["mbit_per_s"] for line in told["lines"]] == [2, 8, 25, 100]
    decoded = sum(chunk.decoded for chunk in by_split(server, "train"))
    assert decoded < told["disk_bytes"] < decoded + 12 * told["keyframe_bytes"] + 10 * largest


def test_a_dry_run_counts_every_store(run, model):
    one = json.loads(run(model, "--dry-run", "--json").out)
    stores = ("--store", "a=https://a.example.org", "--store", "server")
    two = json.loads(run(model, "--dry-run", "--json", *stores).out)
    assert two["upload_bytes"] - one["upload_bytes"] == one["train_bytes"]


def test_a_dry_run_tells_what_does_not_fit(run, model):
    model.write_text(json.dumps({**MODEL, "input": {"shape": [3]}}))
    ran = run(model, "--dry-run", "--json")
    assert ran.code == 2
    assert json.loads(ran.out)["ok"] is False


# -- giving some of the pictures away


def test_pictures_lose_some_only_where_the_owner_says_so(run, server, model, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (200, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "points.npz", x=pictures, y=np.arange(200) % 3)
    shape = {"input": {"shape": [16, 16, 3]}}
    layers = [{"layer": "Flatten"}, {"layer": "Dense", "units": 3, "activation": "softmax"}]
    loss = {"loss": "sparse_categorical_crossentropy"}
    model.write_text(json.dumps({**MODEL, **shape, **loss, "layers": layers}))
    exact = run(model, "--server", server.url, "--token", TOKEN)
    assert (exact.code, "lost" in exact.out) == (0, False)
    assert not any("lossy" in chunk.codec for chunk in server.published[-1].manifest.chunks)
    lossy = run(model, "--lossy-quality", "80", "--server", server.url, "--token", TOKEN)
    assert "coded as JPEG of quality 80: some of each is lost" in lossy.out
    assert all("lossy80" in chunk.codec for chunk in server.published[-1].manifest.chunks)


def test_what_is_no_picture_can_lose_nothing(run, server, model):
    ran = run(model, "--lossy-quality", "80", "--server", server.url, "--token", TOKEN)
    assert ran.code == 2
    assert "--lossy-quality 80: this data has no pictures" in ran.err
    assert server.published == []


# -- checking only


def test_check_says_ok_and_sends_nothing(run, server, model):
    ran = run(model, "--check", "--server", server.url)
    assert (ran.code, ran.err) == (0, "")
    assert "ok: the model points has 9 weights" in ran.out
    assert (server.blobs, server.agents) == ({}, set())


def test_check_tells_every_problem_of_model_file_and_data(run, model, tmp_path):
    model.write_text(json.dumps({**MODEL, "loss": "guess", "batch_size": 0}))
    np.savez(tmp_path / "points.npz", images=np.zeros(3))
    ran = run(model, tmp_path / "points.npz", "--check")
    assert ran.code == 2
    for problem in ("loss:", "batch_size:", "expected the arrays x and y, found images"):
        assert problem in ran.err


def test_check_tells_what_does_not_fit(run, model):
    layers = [{"layer": "Dense", "units": 2, "activation": "softmax"}]
    model.write_text(json.dumps({**MODEL, "input": {"shape": [2, 1]}, "layers": layers}))
    ran = run(model, "--check", "--json")
    assert ran.code == 2
    told = json.loads(ran.out)
    assert told["ok"] is False
    assert any("x: expected records of the shape (2, 1)" in text for text in told["problems"])


def test_check_as_json_tells_what_was_found(run, model):
    told = json.loads(run(model, "--check", "--json").out)
    assert told == {
        "ok": True,
        "model": "points",
        "weights": 9,
        "records": 200,
        "shape": [2],
        "classes": 3,
    }


@pytest.mark.parametrize("check", [[], ["--check"]])
def test_files_that_are_missing_are_named(run, model, tmp_path, check):
    assert f"{tmp_path}/none.json: can't be read" in run(tmp_path / "none.json", *check).err
    (tmp_path / "points.npz").unlink()
    ran = run(model, *check)
    assert ran.code == 2
    assert "points.npz: there is no such file" in ran.err


def test_a_model_file_that_names_no_data_needs_it_on_the_command_line(run, model):
    dataset = {key: value for key, value in MODEL["dataset"].items() if key != "file"}
    model.write_text(json.dumps({**MODEL, "dataset": dataset}))
    ran = run(model, "--check")
    assert ran.code == 2
    assert "names no data: set dataset.file" in ran.err


# -- servers that are not there, or say no


def test_a_server_that_is_not_there_is_told_at_once(run, server, model):
    url = server.url
    server.server_close()
    ran = run(model, "--server", url, "--token", TOKEN)
    assert ran.code == 3
    assert f"could not reach {url}" in ran.err
    assert "is `handcar serve` running there?" in ran.err


def test_without_a_token_it_says_how_to_give_one(run, server, model):
    ran = run(model, "--server", server.url)
    assert ran.code == 2
    assert "--token or HANDCAR_TOKEN" in ran.err


def test_the_servers_no_is_passed_on(run, server, model):
    ran = run(model, "--server", server.url, "--token", "wrong")
    assert ran.code == 4
    assert "A valid token is needed: log in as an owner" in ran.err


def test_what_is_no_handcar_server_is_told(run, server, model, monkeypatch):
    monkeypatch.setattr(Handler, "_answer", _a_page)
    ran = run(model, "--server", server.url, "--token", TOKEN)
    assert ran.code == 3
    assert "Handcar server?" in ran.err


def _a_page(self: Handler, *_: object) -> None:
    self.send_response(200)
    self.send_header("Content-Length", "6")
    self.end_headers()
    self.wfile.write(b"<html>")


# -- what ships


def test_the_demos_data_fits_its_model(run):
    ran = run(demo_data.MODEL_FILE, "--check")
    assert (ran.code, ran.err) == (0, "")
    assert "1,797 records" in ran.out


def test_the_example_fits_pictures_of_its_size(run, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8)
    y = np.arange(40) % 10
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    example = Path(__file__).parents[2] / "examples" / "mnist-cnn.json"
    ran = run(example, tmp_path / "mnist.npz", "--check")
    assert (ran.code, ran.err) == (0, "")
