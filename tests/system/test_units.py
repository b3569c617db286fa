"""The processes that the systemd units start, started by hand with the units' own commands."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from processes import Place, blobs_dataset, model_file

from handcar.simulation.stage import Process

pytestmark = pytest.mark.system

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
SERVER = os.environ.get("HANDCAR_TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1/postgres")


def start(here: Place, unit: str, **environment: str) -> Process:
    """Start what a unit starts, on this test's port and folder."""
    (line,) = re.findall(r"^ExecStart=(.*)$", (DEPLOY / unit).read_text(), re.M)
    program, *words = shlex.split(line)
    assert program == "/opt/handcar/bin/handcar"
    words = [str(here.port) if word == "8000" else word for word in words]
    home = str(here.folder / "server")
    log = f"{unit}.log"
    return here.start(*words, log=log, HANDCAR_SERVER_HOME=home, **environment)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path) as place:
        place.url = f"http://127.0.0.1:{place.port}"
        yield place


@pytest.fixture
def database() -> Iterator[str]:
    psycopg = pytest.importorskip("psycopg", reason="PostgreSQL's client is not installed")
    name = f"handcar_units_{uuid4().hex[:8]}"
    try:
        connection = psycopg.connect(SERVER, autocommit=True, connect_timeout=5)
    except psycopg.OperationalError as error:
        pytest.skip(f"no PostgreSQL at {urlsplit(SERVER).hostname}: {error}")
    with connection:
        connection.execute(f"create database {name}")
        try:
            yield urlsplit(SERVER)._replace(path=f"/{name}").geturl()
        finally:
            connection.execute(f"drop database {name} with (force)")


def publish(here: Place) -> None:
    """Publish a model as soon as the server answers."""
    here.until((here.folder / "server" / "owner-token").is_file, "there is a token")
    token = (here.folder / "server" / "owner-token").read_text().strip()
    here.environment["HANDCAR_TOKEN"] = token
    here.until(lambda: answers(here), "the server answers")
    blobs_dataset(here.folder)
    here.publish(model_file(here.folder))


def answers(here: Place) -> bool:
    import httpx2

    try:
        return httpx2.get(f"{here.url}/api/v1/health", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def test_one_unit_is_a_whole_server(here: Place):
    start(here, "handcar.service")
    publish(here)
    here.until_version(0)


def test_the_units_apart_train_a_model_on_postgresql(here: Place, database: str):
    web = start(here, "handcar-web.service", HANDCAR_DATABASE=database)
    here.until(lambda: answers(here), "the server answers")
    worker = start(here, "handcar-worker.service", HANDCAR_DATABASE=database)
    publish(here)
    here.join("ada")
    here.until_version(2)
    assert [process.poll() for process in (web, worker)] == [None, None]
    for process in (worker, web):
        process.terminate()
        assert process.wait(30) == 0, here.logs()
