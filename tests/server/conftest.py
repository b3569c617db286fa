"""A server's folder for each test, with a real database and real transactions.

The database is a SQLite file; tests of BOTH also run on a real PostgreSQL, where one answers.
`HANDCAR_TEST_DATABASE=postgresql://root@127.0.0.1/postgres` runs all tests on PostgreSQL: it
names a database of a user who may create others. `sqlite` runs none there.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import django
import pytest
from django.conf import settings

_FOLDER = tempfile.mkdtemp(prefix="handcar-tests-")
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
os.environ["HANDCAR_SERVER_HOME"] = _FOLDER
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "handcar.server.settings")
# Setting logging up anew closes every handler that there is, and absl's, which came with
# TensorFlow in an earlier test's module, closes the file that pytest catches stderr with.
settings.LOGGING_CONFIG = None
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection, connections  # noqa: E402

import postgresql as servers  # noqa: E402
from engines import use  # noqa: E402
from handcar.server import configuration, limiting, memory  # noqa: E402
from handcar.server.home import Home  # noqa: E402
from handcar.server.rounds import merges, participation  # noqa: E402

BOTH = {
    "test_updates",
    "test_merges",
    "test_rollback",
    "test_crashes",
    "test_assignments",
    "test_heartbeats",
    "test_crowds",
    "test_many_workers",
    "test_auditors",
}
ONLY_SQLITE = {"test_settings", "test_serve", "test_upload_machine", "test_engines", "test_doctor"}
"""They start servers of their own, or ask SQLite how it is set."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" not in metafunc.fixturenames:
        return
    module = metafunc.module.__name__
    engines = ["sqlite", "postgresql"] if module in BOTH else ["sqlite"]
    if servers.given() == "sqlite" or module in ONLY_SQLITE:
        engines = ["sqlite"]
    elif servers.given() is not None:
        engines = ["postgresql"]
    metafunc.parametrize("engine", engines, indirect=True)


@dataclass(frozen=True)
class Engine:
    """A migrated database: rows are gone before each test."""

    vendor: str
    empty: Path
    url: str | None = None

    def begin(self, home: Home) -> None:
        """Make the database that a test finds."""
        if self.url is None:
            shutil.copy(self.empty, home.database)
            use(configuration.Configuration(home))
        else:
            use(configuration.Configuration(home, database=self.url))
            _empty_tables()


def _empty_tables() -> None:
    # DELETE, not TRUNCATE, which makes a new file for each table and waits for the disk.
    with connection.cursor() as cursor:
        names = [
            name
            for name in connection.introspection.table_names(cursor)
            if name.startswith(("accounts_", "catalog_", "rounds_", "auth_user", "django_session"))
        ]
        cursor.execute(
            "SET session_replication_role = replica;"
            + "".join(f"DELETE FROM {name};" for name in names)
            + "SET session_replication_role = DEFAULT"
        )


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any) -> Engine:
    """A migrated SQLite file, to copy."""
    # Each process of a parallel run its own: they inherit the first one's settings.
    home = Home(tmp_path_factory.mktemp("empty"))
    with django_db_blocker.unblock():
        use(configuration.Configuration(home))
        call_command("migrate", verbosity=0)
        connections.close_all()
    return Engine("sqlite", home.database)


@pytest.fixture(scope="session")
def postgresql(sqlite: Engine, django_db_blocker: Any) -> Iterator[Engine | None]:
    """A migrated database of PostgreSQL, of this process alone; none where there is no server."""
    with servers.database() as url:
        if url is None:
            yield None
            return
        with django_db_blocker.unblock():
            use(configuration.Configuration(Home(sqlite.empty.parent), database=url))
            call_command("migrate", verbosity=0)
            connections.close_all()
        yield replace(sqlite, vendor="postgresql", url=url)
        with django_db_blocker.unblock():
            use(configuration.Configuration(Home(sqlite.empty.parent)))


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Engine:
    """The database that a test runs on."""
    found = request.getfixturevalue(getattr(request, "param", "sqlite"))
    if found is None:
        pytest.skip("PostgreSQL does not answer: set HANDCAR_TEST_DATABASE to where it is")
    return found


@pytest.fixture
def home(
    engine: Engine,
    tmp_path: Path,
    settings: Any,
    django_db_blocker: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Home]:
    """A server's folder of its own, made ready."""
    home = Home(tmp_path / "server")
    home.make_folders()
    settings.HANDCAR_HOME = home
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }
    # As if time had passed between any two requests.
    monkeypatch.setattr(memory, "LONGEST_S", 0.0)
    monkeypatch.setattr(participation, "WRITE_EVERY_S", 0.0)
    memory.forget()
    limiting.buckets.clear()
    merges._looked.clear()
    with django_db_blocker.unblock():
        engine.begin(home)
        yield home
        connections.close_all()


@pytest.fixture
def server(home: Home) -> Any:
    """The API of a server without models, and its first owner."""
    from server_api import Api

    return Api.fresh(home)
