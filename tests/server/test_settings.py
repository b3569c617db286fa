import subprocess
import sys
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

import postgresql as servers
from server_api import update_frame


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("busy_timeout", 20_000)]
)
def test_the_database_is_set_as_we_rely_on(home, pragma, value):
    with connection.cursor() as cursor:
        assert cursor.execute(f"PRAGMA {pragma}").fetchone()[0] == value
    assert connection.vendor == "sqlite"


def test_transactions_take_the_write_lock_at_once(home):
    with CaptureQueriesContext(connection) as queries, transaction.atomic():
        pass
    assert [query["sql"] for query in queries][0] == "BEGIN IMMEDIATE"


def test_reading_takes_no_write_lock(server):
    server.model()
    with CaptureQueriesContext(connection) as queries:
        server.ask("GET", "/list")
        server.ask("GET", "/series/digits")
        server.ask("GET", "/models/digits")
    assert not [query for query in queries if "BEGIN" in query["sql"]]


def test_migrations_are_complete(home):
    out = StringIO()
    call_command("makemigrations", "--check", "--dry-run", stdout=out, stderr=out)


def test_django_finds_nothing_wrong(home):
    call_command("check", "--fail-level", "WARNING")


def test_the_web_process_never_imports_keras(home):
    code = """
import sys
from handcar.server.wsgi import application
from django.urls import get_resolver
get_resolver().url_patterns
bad = {"keras", "tensorflow", "jax", "torch", "handcar.volunteer"} & set(sys.modules)
assert not bad, bad
assert "rest_framework" in sys.modules
"""
    environment = servers.clean() | {"HANDCAR_SERVER_HOME": str(home.folder)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_the_worker_process_never_imports_keras(home):
    code = """
import sys
from pathlib import Path
from handcar.server.setup import prepare
prepare(Path(sys.argv[1]))
import handcar.server.worker
assert not {"keras", "tensorflow", "jax", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(home.folder)], check=True)


def test_a_web_process_loads_nothing_that_it_does_not_use(home):
    code = """
import sys
from handcar.server.wsgi import application
from django.test import Client
assert Client().get("/api/v1/list").status_code == 200
bad = {name for name in ("requests", "pygments", "psycopg", "celery") if sys.modules.get(name)}
assert not bad, bad
"""
    environment = servers.clean() | {"HANDCAR_SERVER_HOME": str(home.folder)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_one_command_loads_no_other(home):
    code = """
import sys
from handcar import cli
cli._register("serve")
assert "handcar.cli.serve" in sys.modules
assert not {"handcar.cli.join", "handcar.cli.publish", "pydantic"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_heartbeat_and_an_announcement_take_few_queries(server):
    model = server.model()
    ann = server.join()
    beat = {"model_id": "digits", "version": 0, "step": 5, "records": 50}
    server.ask("POST", "/heartbeat", beat, token=ann.token)
    with CaptureQueriesContext(connection) as queries:
        server.ask("POST", "/heartbeat", beat, token=ann.token)
    assert len(queries) <= 14
    with CaptureQueriesContext(connection) as queries:
        server.deliver(ann, update_frame(model))
    assert len(queries) <= 30
