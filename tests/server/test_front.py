"""What stands before the application: a real Granian, two threads behind it, and slow lines."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from handcar.server import front

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SIZE = 30_000_000
SERVER = """
import json, sys, time
from pathlib import Path
from granian import Granian
from handcar.server.front import FileSpan, Front

folder = Path(sys.argv[1])
said = open(folder / "said", "a", buffering=1)

def application(environ, start_response):
    path, body = environ["PATH_INFO"], environ["wsgi.input"].read()
    told = {key: value for key, value in environ.items() if isinstance(value, str)}
    print(json.dumps(told | {"body": len(body)}), file=said)
    if path == "/file":
        start_response("200 OK", [("Content-Length", "SIZE"), ("X-Kind", "a"), ("X-Kind", "b")])
        return FileSpan(folder / "file", 0, SIZE)
    if path == "/part":
        start_response("206 Partial Content", [("Content-Length", "20")])
        return FileSpan(folder / "file", 1000, 1020)
    if path == "/refused":
        start_response("409 Conflict", [("Content-Length", "2")])
        return [b"no"]
    if path == "/gone":
        start_response("200 OK", [("Content-Length", "20")])
        return FileSpan(folder / "none", 0, 20)
    text = str(len(body)).encode()
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text]

def made():
    return Front(application, 2)

if __name__ == "__main__":
    import granian.constants as c
    Granian("server:made", factory=True, interface=c.Interfaces.RSGI, port=int(sys.argv[2]),
            workers=1, log_enabled=False, websockets=False).serve()
""".replace("SIZE", str(SIZE))


@dataclass(frozen=True)
class Place:
    """A server, and what its application was asked."""

    folder: Path
    port: int

    @property
    def http(self) -> httpx2.Client:
        return httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)

    def said(self) -> list[dict[str, Any]]:
        lines = (self.folder / "said").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def asked(self, path: str) -> list[dict[str, Any]]:
        return [one for one in self.said() if one["PATH_INFO"] == path]

    def line(self, head: str, data: bytes = b"") -> socket.socket:
        """A line on which a request was begun, with little room for what comes back."""
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", self.port))
        line.sendall(head.replace("\n", "\r\n").encode() + data)
        return line


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder, port = tmp_path_factory.mktemp("front"), free_port()
    (folder / "server.py").write_text(SERVER)
    (folder / "file").write_bytes(os.urandom(SIZE))
    command = [sys.executable, "server.py", str(folder), str(port)]
    process = subprocess.Popen(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)})
    place = Place(folder, port)
    until(lambda: answers(place))
    yield place
    process.terminate()
    process.wait(20)


def answers(place: Place) -> bool:
    try:
        return place.http.get("/ready").status_code == 200
    except httpx2.TransportError:
        return False


def until(condition: Any, seconds: float = 30.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it took too long"
        time.sleep(0.05)


# -- slow lines --------------------------------------------------------------------------------


def test_downloads_that_nobody_reads_hold_up_nobody(there):
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(there.line("GET /file HTTP/1.1\nHost: x\n\n"))
        until(lambda: len(there.asked("/file")) >= 20)
        assert there.http.get("/other").text == "0"


def test_bodies_that_never_end_hold_up_nobody(there):
    head = "POST /slow HTTP/1.1\nHost: x\nContent-Length: 1000\n\n"
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(there.line(head, b"half"))
        assert there.http.get("/other").text == "0"
        assert not there.asked("/slow"), "the application hears of what is whole"


def test_a_silent_upload_is_handed_on_so_far_and_goes_on_where_it_was(there):
    head = "PATCH /silent HTTP/1.1\nHost: x\nUpload-Offset: 7\nContent-Length: 300\n\n"
    with there.line(head, b"a" * 100) as line:
        until(lambda: there.asked("/silent"))
        line.sendall(b"b" * 200)
        assert line.recv(1000).startswith(b"HTTP/1.1 200")
    told = [(one["HTTP_UPLOAD_OFFSET"], one["body"]) for one in there.asked("/silent")]
    assert told == [("7", 100), ("107", 200)]


def test_what_came_of_a_cut_upload_is_handed_on(there):
    head = "PATCH /cut HTTP/1.1\nHost: x\nUpload-Offset: 0\nContent-Length: 300\n\n"
    with there.line(head, b"a" * 100):
        pass
    until(lambda: there.asked("/cut"))
    assert there.asked("/cut")[0]["body"] == 100


# -- uploads and answers -------------------------------------------------------------------------


def test_a_large_upload_comes_in_pieces_at_growing_offsets(there):
    size = 3 * front.PIECE_BYTES
    reply = there.http.patch("/large", content=b"x" * size, headers={"Upload-Offset": "0"})
    assert reply.status_code == 200
    asked = there.asked("/large")
    assert sum(one["body"] for one in asked) == size
    assert len(asked) > 1
    at = 0
    for one in asked:
        assert int(one["HTTP_UPLOAD_OFFSET"]) == at
        assert one["CONTENT_LENGTH"] == str(one["body"])
        at += one["body"]


def test_the_first_refusal_ends_an_upload(there):
    data = b"x" * 4 * front.PIECE_BYTES
    with there.line(
        f"PATCH /refused HTTP/1.1\nHost: x\nUpload-Offset: 0\nContent-Length: {len(data)}\n\n",
        data[: front.PIECE_BYTES + 1],
    ) as line:
        assert line.recv(1000).startswith(b"HTTP/1.1 409")
    assert len(there.asked("/refused")) == 1


def test_an_upload_without_a_length_or_bytes_is_handed_on(there):
    def pieces() -> Iterator[bytes]:
        yield b"abc"

    headers = {"Upload-Offset": "5"}
    assert there.http.patch("/chunked", content=pieces(), headers=headers).text == "3"
    assert there.http.patch("/nothing", content=b"", headers=headers).text == "0"
    assert there.http.patch("/odd", content=b"ab", headers={"Upload-Offset": "x"}).text == "2"


@pytest.mark.parametrize("size", [0, 10, front.SMALL_BYTES, 1_000_000, 5_000_000])
def test_other_bodies_come_whole(there, size):
    assert there.http.post("/whole", content=b"x" * size).text == str(size)
    assert there.asked("/whole")[-1]["CONTENT_LENGTH"] == str(size)


def test_a_file_is_sent_whole_in_part_or_not_at_all(there):
    data = (there.folder / "file").read_bytes()
    whole = there.http.get("/file")
    assert whole.content == data
    assert whole.headers.get_list("x-kind") == ["a", "b"]
    part = there.http.get("/part")
    assert (part.status_code, part.content) == (206, data[1000:1020])
    head = there.http.head("/file")
    assert (head.headers["content-length"], head.content) == (str(SIZE), b"")
    assert there.http.get("/gone").status_code == 404


def test_a_span_can_be_read_by_any_server(there):
    data = (there.folder / "file").read_bytes()
    span = front.FileSpan(there.folder / "file", 100, 100 + 3 * front.READ_BYTES)
    assert b"".join(span) == data[100 : 100 + 3 * front.READ_BYTES]
    span.close()
    other = front.FileSpan(there.folder / "file", 5, 25)
    assert (other.read(7), other.read(100), other.read(1)) == (data[5:12], data[12:25], b"")
    other.close()


def test_the_application_is_told_what_wsgi_says(there):
    headers = [("X-Two", "1"), ("X-Two", "2"), ("X_Three", "3"), ("Content-Type", "text/x")]
    there.http.get("/a%20b/%C3%BC?q=1%202", headers=headers)
    told = there.said()[-1]
    assert told["PATH_INFO"] == "/a b/ü".encode().decode("latin-1")
    assert (told["QUERY_STRING"], told["REQUEST_METHOD"]) == ("q=1%202", "GET")
    assert re.fullmatch(r"1,\s?2", told["HTTP_X_TWO"])
    assert "HTTP_X_THREE" not in told, "an underscore would forge a header of a proxy"
    assert told["CONTENT_TYPE"] == "text/x"
    assert (told["REMOTE_ADDR"], told["SERVER_PORT"]) == ("127.0.0.1", str(there.port))
    assert told["HTTP_HOST"] == f"127.0.0.1:{there.port}"
