"""Sending chunks to a Handcar server: resumes, skips what is there, gives up in the end."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bad_servers import answering
from handcar import files
from handcar.errors import Problem, Unreachable
from handcar.protocol import problems
from handcar.stores import handcar
from handcar.stores.handcar import HandcarStore

CONTENT = random.Random(0).randbytes(2_500_000)
DIGEST = files.digest(CONTENT)


class BlobHandler(BaseHTTPRequestHandler):
    """The two requests of an upload, and faults on command."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: BlobServer

    def do_POST(self) -> None:
        told = json.loads(self._body())
        self.server.announced.append(told["sha256"])
        if not self._fault("POST"):
            self._status()

    def do_PATCH(self) -> None:
        offset = int(self.headers["Upload-Offset"])
        self.server.offsets.append(offset)
        if self._fault("PATCH"):
            return None
        if offset != len(self.server.held):
            return self._problem(problems.WRONG_OFFSET)
        self.server.held += self._body()
        self.server.tokens.append(self.headers["Authorization"])
        self._status()
        return None

    def _fault(self, method: str) -> bool:
        if not self.server.faults.get(method):
            return False
        fault = self.server.faults[method].pop(0)
        if fault is None:
            return False
        if isinstance(fault, problems.ProblemType):
            if method == "PATCH":
                self._body()
            self._problem(fault)
        else:  # so many bytes arrive, then the line breaks
            self.server.held += self.rfile.read(fault)
        self.close_connection = True
        return True

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _status(self) -> None:
        present = hashlib.sha256(self.server.held).hexdigest() == DIGEST.removeprefix("sha256:")
        self._answer(
            200,
            {
                "sha256": DIGEST,
                "present": present,
                "offset": len(self.server.held),
                "upload_url": None if present else "https://other.example.org/api/v1/blobs/x/bytes",
            },
        )

    def _problem(self, kind: problems.ProblemType) -> None:
        body = {"type": kind.type, "title": kind.title, "status": kind.status}
        self._answer(kind.status, body, problems.MEDIA_TYPE)

    def _answer(self, status: int, body: object, media_type: str = "application/json") -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


class BlobServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), BlobHandler)
        self.held = bytearray()
        self.announced: list[str] = []
        self.offsets: list[int] = []
        self.tokens: list[str] = []
        self.faults: dict[str, list[object]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[BlobServer]:
    with BlobServer() as server, answering(server):
        yield server


class Sending:
    def __init__(self, server: BlobServer, folder: Path) -> None:
        self.path = folder / "chunk"
        self.path.write_bytes(CONTENT)
        self.pauses: list[float] = []
        self.counted: list[int] = []
        self.store = HandcarStore(
            server.url, "secret", on_bytes=self.counted.append, sleep=self.pauses.append
        )

    def __call__(self) -> bool:
        return self.store.put(DIGEST, self.path)


@pytest.fixture
def send(server: BlobServer, tmp_path: Path) -> Iterator[Sending]:
    sending = Sending(server, tmp_path)
    yield sending
    sending.store.close()


def test_a_file_is_sent_in_pieces_with_the_owners_token(server, send):
    assert send()
    assert bytes(server.held) == CONTENT
    assert server.offsets == [0, 1_048_576, 2_097_152]
    assert set(server.tokens) == {"Bearer secret"}
    assert sum(send.counted) == len(CONTENT)


def test_what_is_there_already_is_not_sent(server, send):
    send()
    server.offsets.clear()
    assert not send()
    assert server.offsets == []


def test_an_upload_begun_by_an_earlier_run_goes_on(server, send):
    server.held += CONTENT[:1_500_000]
    assert send()
    assert bytes(server.held) == CONTENT
    assert sum(send.counted) == 1_000_000


def test_after_a_break_it_goes_on_from_what_arrived(server, send):
    server.faults["PATCH"] = [None, 400_000, 300_000]
    assert send()
    assert bytes(server.held) == CONTENT
    assert server.offsets[:3] == [0, 1_048_576, 1_448_576]
    assert len(send.pauses) == 2


def test_a_wrong_offset_and_a_wrong_digest_are_mended_by_asking_again(server, send):
    server.faults["PATCH"] = [problems.WRONG_OFFSET, problems.BAD_DIGEST]
    assert send()
    assert bytes(server.held) == CONTENT


def test_a_server_that_stays_away_is_given_up_after_growing_pauses(server, send):
    server.faults["POST"] = [0] * 100
    with pytest.raises(Unreachable, match=server.url):
        send()
    assert len(send.pauses) == handcar.ATTEMPTS - 1
    assert send.pauses[-1] > 20 * send.pauses[0]


def test_progress_starts_the_count_of_failures_anew(server, send):
    server.faults["PATCH"] = [100_000] * (handcar.ATTEMPTS + 5)
    assert send()
    assert bytes(server.held) == CONTENT


def test_the_servers_no_is_told_at_once(server, send):
    server.faults["POST"] = [problems.UNAUTHENTICATED]
    with pytest.raises(Problem, match="A valid token is needed"):
        send()
    assert send.pauses == []


def test_what_is_no_handcar_server_is_said(server, send, monkeypatch):
    monkeypatch.setattr(BlobHandler, "_status", lambda self: self._answer(200, {"hello": 1}))
    with pytest.raises(Unreachable, match="does not answer as a Handcar server"):
        send()
