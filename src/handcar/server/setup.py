"""What must be there before the server can run: settings, tables, pages, first accounts."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import django

from handcar import __version__, files
from handcar.errors import HandcarError, MissingLibrary
from handcar.server import home as homes
from handcar.server.configuration import Configuration
from handcar.server.home import Home

log = logging.getLogger(__name__)

DATABASE_WAIT_S = 30.0
TABLES_POLL_S = 2.0
LOCK = 0x48414E44
"""Any number; all Handcars must use the same."""


def prepare(folder: Path) -> Home:
    """Make Django ready for the server in this folder. Comes before any import of models."""
    os.environ[homes.VARIABLE] = str(folder)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "handcar.server.settings")
    from django.conf import settings

    _expect_libraries(settings.HANDCAR)
    django.setup()
    return homes.from_environment()


def _expect_libraries(chosen: Configuration) -> None:
    """Raise MissingLibrary for what the settings ask for and nobody installed."""
    needed = {"psycopg": chosen.database, "celery": chosen.broker, "boto3": chosen.store}
    for name, wanted in needed.items():
        if wanted is not None and find_spec(name) is None:
            raise MissingLibrary(f"the settings need {name}: pip install 'handcar[scale]'")


def first_start(home: Home) -> str:
    """Bring tables, pages and accounts up to date; return the first owner's token.

    Several servers of one database may start at once: one does it, the others wait for it.
    """
    from django.core.management import call_command
    from django.db import connections

    from handcar.server.accounts import services

    wait_for_database()
    with _alone():
        call_command("migrate", verbosity=0, interactive=False)
        token = services.ensure_first_accounts(home)
    connections.close_all()
    _collect_static(home)
    return token


def wait_for_database() -> None:
    """Wait a while for a database that is just starting. Raises HandcarError."""
    from django.conf import settings
    from django.db import OperationalError, connection

    until = time.monotonic() + DATABASE_WAIT_S
    while True:
        try:
            connection.ensure_connection()
            return
        except OperationalError as error:
            if settings.HANDCAR.is_embedded or time.monotonic() > until:
                raise HandcarError(
                    f"the database can't be reached ({str(error).strip()}): "
                    "is it running, and is HANDCAR_DATABASE right?"
                ) from error
            log.warning("waiting for the database: %s", str(error).strip())
        time.sleep(1.0)


def wait_for_tables(stop: threading.Event) -> bool:
    """Wait until a server has brought the tables up to date; no if `stop` came first."""
    from django.db import Error, close_old_connections

    while not stop.is_set():
        try:
            if not missing_migrations():
                return True
            log.warning("waiting for `handcar serve` to bring the tables up to date")
        except Error as error:
            log.warning("waiting for the database: %s", str(error).strip())
            close_old_connections()
        stop.wait(TABLES_POLL_S)
    return False


def missing_migrations() -> list[str]:
    """Return the migrations that this Handcar has and the database lacks."""
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [str(migration) for migration, _ in plan]


@contextmanager
def _alone() -> Iterator[None]:
    """Hold PostgreSQL's lock for those who change tables; a folder's lock does for SQLite."""
    from django.db import connection

    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = 0")
        cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        # A change that waits for a row holds up everyone behind it: better none than that.
        cursor.execute("SET lock_timeout = '20s'")
    try:
        yield
    finally:
        connection.close()  # and the lock with it


def _collect_static(home: Home) -> None:
    """Collect the pages' files, when this Handcar's are other than those collected."""
    from django.core.management import call_command

    marker = home.static / ".collected"
    here = Path(__file__).parent.joinpath("dashboard", "static").rglob("*")
    mark = f"{__version__} {max((path.stat().st_mtime_ns for path in here), default=0)}"
    if marker.is_file() and marker.read_text() == mark:
        return
    call_command("collectstatic", verbosity=0, interactive=False, clear=True)
    files.write(marker, mark.encode())
