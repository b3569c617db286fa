"""The same server on PostgreSQL with several workers, and with a broker that wakes them."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx2
import psutil
import psycopg
import pytest

import brokers
import postgresql as servers
from handcar import files
from handcar.server import celery, wake
from handcar.server.rounds.models import Update
from handcar.simulation.stage import Stage
from server_api import announcement, chunk, model_file, update_frame

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

PREPARE = """
import sys
from pathlib import Path
from handcar.server.setup import prepare
prepare(Path(sys.argv[1]))
from handcar.simulation.stage import Stage
from server_api import prepare, update_frame
model = prepare("digits")
for seed in range(int(sys.argv[2])):
    print(update_frame(model, seed=seed).hex())
"""
LISTEN = """
import sys
from pathlib import Path
from handcar.server.setup import prepare
prepare(Path(sys.argv[1]))
from handcar.server import worker
worker.IDLE_WITH_BROKER_S = 3600.0
worker.run()
"""


class Crew(Stage):
    """A web server and workers, each started by hand, on a database of their own."""

    def __init__(self, folder: Path, **settings: str) -> None:
        super().__init__(folder)
        owner = {"HANDCAR_HOME": str(folder / "owner"), "PYTHONPATH": os.pathsep.join(sys.path)}
        self.environment = servers.clean() | owner | settings
        self.home = str(folder / "server")

    def web(self) -> None:
        self.server = self.serve("--web-only")
        told = httpx2.Client(base_url=f"{self.url}/api/v1", timeout=60)
        self.http = told
        token = (self.folder / "server" / "owner-token").read_text().strip()
        self.owner = {"Authorization": f"Bearer {token}"}

    def worker(self, name: str) -> "subprocess.Popen[bytes]":
        return self.start("worker", "--home", self.home, log=f"{name}.log")

    def publish(self, updates: int) -> list[bytes]:
        """Publish a model that needs no Keras; return updates of it."""
        data = b"records"
        told = {"sha256": files.digest(data), "size": len(data)}
        url = self.http.post("/blobs", json=told, headers=self.owner).json()["upload_url"]
        headers = self.owner | {"Upload-Offset": "0"}
        assert self.http.patch(url, content=data, headers=headers).status_code == 200
        body = {
            "model_file": json.dumps(model_file()),
            "manifest": {"name": "points", "chunks": [chunk(data)]},
        }
        assert self.http.post("/models", json=body, headers=self.owner).status_code == 201
        command = [sys.executable, "-c", PREPARE, self.home, str(updates)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.environment, check=True
        )
        return [bytes.fromhex(line) for line in done.stdout.split()]

    def deliver(self, frame: bytes) -> None:
        """Join, announce an update and send it; every request is answered within seconds."""
        began = time.monotonic()
        joined = self.http.post("/volunteers", json={"name": "v", "client_version": "1"}).json()
        headers = {"Authorization": f"Bearer {joined['token']}"}
        reply = self.http.post("/updates", json=announcement(frame), headers=headers)
        url = reply.json()["upload_url"]
        sent = self.http.patch(url, content=frame, headers=headers | {"Upload-Offset": "0"})
        assert sent.json()["state"] == "received", sent.text
        self.took_s = time.monotonic() - began

    def settled(self) -> bool:
        """Whether nothing waits any more."""
        status = self.status("digits")
        return status is not None and status.updates_waiting == 0


@pytest.fixture
def database():
    """A PostgreSQL database of a test's own."""
    with servers.database() as url:
        if url is None:
            pytest.skip("PostgreSQL does not answer: set HANDCAR_TEST_DATABASE to where it is")
        yield url


def rows(database: str, query: str) -> list[tuple]:
    with psycopg.connect(database, autocommit=True) as connection:
        return connection.execute(query).fetchall()


def cut(database: str) -> None:
    """Cut every connection to a database."""
    rows(
        database,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


@pytest.mark.parametrize("broker", [None, brokers.RABBITMQ], ids=["no-broker", "rabbitmq"])
def test_killed_workers_and_cut_connections_lose_and_double_nothing(tmp_path, database, broker):
    settings = {"HANDCAR_DATABASE": database}
    if broker is not None:
        expect(broker)
        settings["HANDCAR_BROKER"] = broker
    with Crew(tmp_path, **settings) as crew:
        crew.web()
        updates = crew.publish(9)
        workers = [crew.worker("one"), crew.worker("two")]
        for number, frame in enumerate(updates):
            crew.deliver(frame)
            if number == 3:
                workers[0].send_signal(signal.SIGKILL)
                crew.worker("three")
            if number == 6:
                cut(database)
                assert crew.http.get("/list").status_code == 200
        cut(database)
        crew.until(crew.settled, "every update is merged")
        assert workers[1].poll() is None, "a worker ended when its connection was cut"
    merged = rows(database, "SELECT state, count(*) FROM rounds_update GROUP BY state")
    assert merged == [("merged", 9)]
    assert rows(database, "SELECT sum(updates) FROM rounds_version") == [(9,)]
    assert rows(database, "SELECT sum(updates_merged) FROM rounds_participation") == [(9,)]


@pytest.mark.parametrize("kind", ["silent", "refuses"])
def test_a_broker_that_is_away_stops_nothing_and_holds_up_no_request(tmp_path, kind):
    with brokers.silent() as silent:
        broker = silent if kind == "silent" else refusing()
        with Crew(tmp_path, HANDCAR_BROKER=broker) as crew:
            crew.web()
            (frame,) = crew.publish(1)
            worker = crew.worker("one")
            crew.until(lambda: "roker" in crew.logs() or "REFUSED" in crew.logs(), "it was tried")
            crew.deliver(frame)
            assert crew.took_s < 10
            crew.until(crew.settled, "the update is merged")
            assert worker.poll() is None, "the worker ended with its broker"


def refusing() -> str:
    """Return the address of a broker with a password that it refuses."""
    expect(brokers.RABBITMQ)
    return brokers.RABBITMQ.replace(":guest@", ":wrong@")


@pytest.fixture
def asleep(server, settings, monkeypatch, tmp_path):
    """Start a worker of this test's server that never looks by itself; return its log."""
    running = []

    def begin(broker):
        settings.HANDCAR = replace(settings.HANDCAR, broker=broker)
        celery.app.cache_clear()
        monkeypatch.setattr(wake, "_bell", wake.Bell())
        monkeypatch.setattr(wake, "AFTER_FAULT_S", 0.2)
        environment = servers.clean() | {
            "HANDCAR_BROKER": broker,
            "HANDCAR_CHECKING_KEY": settings.HANDCAR_CHECKING_KEY.hex(),
            "HANDCAR_LOG": "INFO",
        }
        log = tmp_path / "worker.log"
        command = [sys.executable, "-c", LISTEN, str(server.home.folder)]
        with log.open("wb") as out:
            running.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
        until(lambda: b"ready" in log.read_bytes(), log)
        return log

    yield begin
    celery.app.cache_clear()
    for process in running:
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.parametrize("broker", [brokers.RABBITMQ, brokers.REDIS], ids=["rabbitmq", "redis"])
def test_a_worker_that_never_looks_is_woken(server, asleep, broker):
    expect(broker)
    model = server.model()
    log = asleep(broker)
    server.deliver(server.join(), update_frame(model))
    until(lambda: Update.objects.exclude(state="received").exists(), log)


def test_a_broker_that_was_killed_and_came_back_wakes_workers_again(server, asleep):
    expect(brokers.RABBITMQ)
    model = server.model()
    line = brokers.Line()
    log = asleep(line.address)
    line.cut()
    server.deliver(server.join("ann"), update_frame(model, seed=1))
    until(lambda: b"onnection" in log.read_bytes(), log)
    line.mend()
    until(lambda: log.read_bytes().count(b"Connected to") == 2, log)
    server.deliver(server.join("bob"), update_frame(model, seed=2))
    until(lambda: not Update.objects.filter(state="received").exists(), log)


def test_a_web_process_that_dies_is_replaced_and_the_other_answers(tmp_path):
    with Crew(tmp_path, HANDCAR_WEB_PROCESSES="2") as crew:
        crew.web()
        (main,) = [one for one in psutil.Process(crew.server.pid).children()]
        first, second = main.children()
        first.kill()
        crew.until(lambda: len([one for one in main.children() if one != first]) == 2, "it is back")
        assert second.is_running()
        for _ in range(10):
            assert crew.http.get("/health").status_code == 200


def expect(broker: str) -> None:
    if not brokers.answers(broker):
        pytest.skip(f"no broker answers at {broker.rsplit('@', maxsplit=1)[-1]}")


def until(condition, log: Path, wait_s: float = 60.0) -> None:
    ends = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < ends, log.read_text()
        time.sleep(0.1)


def test_words_of_several_projects_go_to_queues_of_their_own(settings):
    first = celery.queue()
    settings.HANDCAR_CHECKING_KEY = b"another"
    assert celery.queue() != first


def test_without_a_broker_celery_is_never_loaded(tmp_path):
    code = (
        "import sys; from pathlib import Path; from handcar.server.setup import prepare; "
        "prepare(Path(sys.argv[1])); import handcar.server.worker, handcar.server.wsgi; "
        "assert not {'celery', 'kombu', 'psycopg_pool'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=servers.clean())
