"""A server's folder for each test, with a real SQLite file and real transactions."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
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
from django.db import connections  # noqa: E402

from handcar.server.home import Home  # noqa: E402


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any) -> Path:
    """Return a migrated database without rows, to copy."""
    # Each process of a parallel run its own: they inherit the first one's settings.
    path = tmp_path_factory.mktemp("empty") / "db.sqlite3"
    with django_db_blocker.unblock():
        _use(path)
        call_command("migrate", verbosity=0)
        connections.close_all()
    return path


@pytest.fixture
def home(
    empty_database: Path, tmp_path: Path, settings: Any, django_db_blocker: Any
) -> Iterator[Home]:
    """A server's folder of its own, made ready."""
    home = Home(tmp_path / "server")
    home.make_folders()
    shutil.copy(empty_database, home.database)
    settings.HANDCAR_HOME = home
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }
    with django_db_blocker.unblock():
        _use(home.database)
        yield home
        _use(empty_database)


def _use(database: Path) -> None:
    connections.close_all()
    connections["default"].settings_dict["NAME"] = str(database)


@pytest.fixture
def server(home: Home) -> Any:
    """The API of a server without models, and its first owner."""
    from server_api import Api

    return Api.fresh(home)
