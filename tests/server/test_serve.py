"""The real `handcar serve`, over real sockets, killed and started again."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import numpy as np
import psutil
import pytest

from handcar import files
from handcar.data import chunks
from handcar.modelfile.check import check
from handcar.modelfile.shapes import infer
from handcar.server.processes import allow_connections
from handcar.wire import frames
from server_api import announcement, chunk, model_file

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

RUN = "import typer; from handcar.cli import {0} as c; a = typer.Typer(); c.register(a); a()"


def environment(tmp_path):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HANDCAR_")}
    kept.pop("DJANGO_SETTINGS_MODULE", None)
    return {**kept, "HANDCAR_HOME": str(tmp_path / "volunteer")}


class Server:
    """A `handcar serve` on a folder."""

    def __init__(self, tmp_path, port=0, **settings):
        command = [sys.executable, "-c", RUN.format("serve"), "--home", str(tmp_path / "server")]
        self.process = subprocess.Popen(
            [*command, "--json", "--port", str(port)],
            stdout=subprocess.PIPE,
            env=environment(tmp_path) | settings,
            text=True,
        )
        self.ready = json.loads(self.process.stdout.readline())
        self.port = int(self.ready["url"].rpartition(":")[2])
        self.http = httpx2.Client(
            base_url=self.ready["url"] + "/api/v1",
            headers={"Authorization": f"Bearer {self.ready['owner_token']}"},
            timeout=30,
        )

    def tree(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill_all(self):
        for process in [*self.tree(), psutil.Process(self.process.pid)]:
            process.kill()
        self.process.wait()

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
        self.process.stdout.close()
        self.http.close()


@pytest.fixture
def start(tmp_path):
    servers = []

    def begin(**options):
        servers.append(Server(tmp_path, **options))
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)
    return value


def publish(server):
    rng = np.random.default_rng(0)
    entries = []
    for split in ("train", "validation"):
        x = rng.normal(size=(100, 4)).astype(np.float32)
        data = chunks.encode({"x": x, "y": (x[:, 0] > 0).astype(np.int32)})
        told = {"sha256": files.digest(data), "size": len(data)}
        url = server.http.post("/blobs", json=told).json()["upload_url"]
        sent = server.http.patch(url, content=data, headers={"Upload-Offset": "0"})
        assert sent.json()["present"], sent.text
        entries.append(chunk(data, split=split))
    body = {
        "model_file": json.dumps(model_file()),
        "manifest": {"name": "points", "chunks": entries},
    }
    reply = server.http.post("/models", json=body)
    assert reply.status_code == 201, reply.text


def update():
    layout = infer(check(json.dumps(model_file()).encode())).layout
    change = np.random.default_rng().normal(size=layout.size).astype(np.float32)
    facts = frames.FrameFacts("update", "digits", 0)
    return frames.encode_difference(facts, change, layout, k=0.05)


def join(server):
    token = server.http.post("/volunteers", json={"name": "ann", "client_version": "1"}).json()
    return {"Authorization": f"Bearer {token['token']}"}


def test_a_server_trains_is_killed_and_goes_on(start):
    server = start()
    publish(server)
    until(lambda: server.http.get("/models/digits").json()["loss"] is not None)
    ann = join(server)
    frame = update()
    facts = announcement(frame)
    url = server.http.post("/updates", json=facts, headers=ann).json()["upload_url"]
    part = {**ann, "Upload-Offset": "0"}
    assert server.http.patch(url, content=frame[:100], headers=part).json()["offset"] == 100
    server.kill_all()

    again = start(port=server.port)
    assert again.ready["owner_token"] == server.ready["owner_token"]
    offset = int(again.http.head(url, headers=ann).headers["Upload-Offset"])
    assert offset == 100
    rest = {**ann, "Upload-Offset": "100"}
    reply = again.http.patch(url, content=frame[100:], headers=rest)
    assert reply.json()["state"] == "received"
    again.kill_all()

    third = start(port=server.port)
    status = until(
        lambda: (
            (s := third.http.get(f"/updates/{facts['id']}", headers=ann).json())["state"]
            == "merged"
            and s
        )
    )
    assert status["version"] == 1
    assert third.http.get("/models/digits").json()["updates_merged"] == 1
    known = until(lambda: third.http.get("/models/digits").json()["history"][-1]["loss"])
    assert known > 0


def test_what_arrived_of_a_cut_upload_is_kept(start):
    server = start()
    publish(server)
    until(lambda: server.http.get("/models/digits").json()["state"] == "pending")
    ann = join(server)
    frame = update()
    url = server.http.post("/updates", json=announcement(frame), headers=ann).json()["upload_url"]
    path = url.removeprefix(server.ready["url"])
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        head = [f"PATCH {path} HTTP/1.1", "Host: x", f"Authorization: {ann['Authorization']}"]
        head += ["Upload-Offset: 0", f"Content-Length: {len(frame)}", "", ""]
        line.sendall("\r\n".join(head).encode() + frame[:120])
        time.sleep(0.3)
    offset = until(lambda: int(server.http.head(url, headers=ann).headers["Upload-Offset"]))
    assert offset == 120

    def pieces():
        yield frame[120:150]
        yield frame[150:]

    rest = {**ann, "Upload-Offset": "120"}
    reply = server.http.patch(url, content=pieces(), headers=rest)  # chunked, without a length
    assert reply.json()["state"] == "received"


def test_slow_lines_hold_up_nobody(start):
    server = start(HANDCAR_WEB_THREADS="2")
    publish(server)
    until(lambda: server.http.get("/models/digits").json()["version"] == 0)
    ann = join(server)
    slow = []
    for _ in range(4):
        frame = update()
        url = server.http.post("/updates", json=announcement(frame), headers=ann).json()
        path = url["upload_url"].partition(f":{server.port}")[2]
        head = [f"PATCH {path} HTTP/1.1", "Host: x", f"Authorization: {ann['Authorization']}"]
        head += ["Upload-Offset: 0", f"Content-Length: {len(frame)}", "", ""]
        line = socket.create_connection(("127.0.0.1", server.port))
        line.sendall("\r\n".join(head).encode() + frame[:50])
        slow.append((line, frame, url["upload_url"]))
    assert server.http.get("/health", timeout=10).status_code == 200
    for line, frame, url in slow:
        # What a silent line has brought is written while it is still open.
        until(lambda url=url: server.http.head(url, headers=ann).headers["Upload-Offset"] == "50")
        line.sendall(frame[50:])
        assert line.recv(1000).startswith(b"HTTP/1.1 200")
        line.close()
        assert (
            server.http.get(url.removesuffix("/bytes"), headers=ann).json()["state"] != "announced"
        )


def test_lines_that_stay_open_keep_nobody_out(start):
    allow_connections()
    server = start()
    lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1_500)]
    for line in lines:
        line.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
    for line in lines:
        assert line.recv(1000).startswith(b"HTTP/1.1 200")
    assert server.http.get("/health").status_code == 200
    for line in lines:
        line.close()


def test_the_children_end_with_their_parent(start):
    server = start()
    children = server.tree()
    assert len(children) >= 3
    server.process.kill()
    server.process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_the_pages_are_served_with_their_files(start):
    server = start()
    page = server.http.get(server.ready["url"] + "/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    for name in re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text):
        assert server.http.get(server.ready["url"] + name).status_code == 200, name
    login = server.http.get(server.ready["url"] + "/admin/", follow_redirects=True)
    assert "password" in login.text


def test_sigterm_stops_everything_quickly(start):
    server = start()
    children = server.tree()
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    assert time.monotonic() - began < 10
    assert not [child for child in children if child.is_running()]


def test_a_worker_that_dies_is_started_again(start):
    server = start()

    def worker():
        living = [p for p in server.tree() if p.status() != psutil.STATUS_ZOMBIE]
        return next((p for p in living if "worker" in p.cmdline()), None)

    first = until(worker)
    first.kill()
    second = until(lambda: (found := worker()) and found.pid != first.pid and found)
    assert second.is_running()


def test_a_port_in_use_is_said_clearly(start, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-c", "from handcar.server.start import *; "]
        command[2] += "serve(Path(sys.argv[1]), '127.0.0.1', int(sys.argv[2]), ready=print)"
        command[2] = "import sys; from pathlib import Path; " + command[2]
        done = subprocess.run(
            [*command, str(tmp_path / "other"), str(port)],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr


def test_two_servers_never_share_a_folder(start, tmp_path):
    start()
    from handcar.errors import HandcarError
    from handcar.server.start import serve

    with pytest.raises(HandcarError, match="another server already runs"):
        serve(tmp_path / "server", "127.0.0.1", 0, ready=print)


def test_the_owners_token_is_kept_for_the_other_commands(start, tmp_path):
    server = start()
    kept = Path(tmp_path / "volunteer" / "owner-tokens.json")
    assert json.loads(kept.read_text()) == {server.ready["url"]: server.ready["owner_token"]}
