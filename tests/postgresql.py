"""A real PostgreSQL for tests: a database of a process's own, made and dropped."""

from __future__ import annotations

import getpass
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

VARIABLE = "HANDCAR_TEST_DATABASE"
USUAL = f"postgresql://{getpass.getuser()}@127.0.0.1:5432/postgres"


def given() -> str | None:
    """What HANDCAR_TEST_DATABASE says: an address, `sqlite`, or nothing."""
    return os.environ.get(VARIABLE) or None


@contextmanager
def database() -> Iterator[str | None]:
    """Make a database and drop it; yields its address, or none where no server answers."""
    address = given() or USUAL
    name = f"handcar_test_{os.getpid()}_{secrets.token_hex(4)}"
    if not run(address, f"CREATE DATABASE {name}"):
        yield None
        return
    try:
        # What a test wrote need not outlive the machine: without this each commit waits for
        # the disk.
        run(address, f"ALTER DATABASE {name} SET synchronous_commit = off")
        yield urlunsplit(urlsplit(address)._replace(path=f"/{name}"))
    finally:
        run(address, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def run(address: str, statement: str) -> bool:
    """Run one statement; say whether the server answered."""
    try:
        import psycopg
    except ImportError:
        return False
    try:
        with psycopg.connect(address, autocommit=True, connect_timeout=3) as connection:
            connection.execute(statement)  # type: ignore[call-overload]
    except psycopg.OperationalError:
        return False
    return True


def clean() -> dict[str, str]:
    """Return the environment without Handcar's settings, for a server of a test's own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HANDCAR_")}
    kept.pop("DJANGO_SETTINGS_MODULE", None)
    return kept
