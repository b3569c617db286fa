"""What a server runs on in a benchmark: SQLite and its disk, or PostgreSQL, a broker and S3.

    with engines.made(wanted, folder) as engine:
        stage.environment |= engine.environment

Everything is the run's own and goes with it: a database on the PostgreSQL server that
`--database` names, a virtual host on the RabbitMQ that `--broker` names, a bucket on an S3 server
that is started for it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Engine:
    """What the server's processes are told, and where the parts are."""

    environment: dict[str, str] = field(default_factory=dict)
    database: str = ""
    """The name of the database on a PostgreSQL server; none: SQLite."""
    server: str = ""
    """The address of that PostgreSQL server, with a database that is always there."""
    broker: str = ""
    vhost: str = ""
    store: Any = None
    """The S3 server (`tests/weed.py`); none: the server's own disk."""

    @property
    def name(self) -> str:
        """What it is, in a word or three."""
        parts = ["PostgreSQL" if self.database else "SQLite"]
        parts += [urlsplit(self.broker).scheme] if self.broker else []
        return " + ".join([*parts, "S3" if self.store else "disk"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Read --database, --broker and --store."""
    parser.add_argument(
        "--database", help="postgresql://user@host/name: a database is made there and dropped again"
    )
    parser.add_argument("--broker", help="amqp://user:password@host: a virtual host is made there")
    parser.add_argument("--s3", action="store_true", help="bytes on an S3 server started for it")


@contextmanager
def made(wanted: argparse.Namespace, folder: Path) -> Iterator[Engine]:
    """Make what was asked for; take it away at the end."""
    environment: dict[str, str] = {}
    known: dict[str, Any] = {}
    with ExitStack() as stack:
        if wanted.database:
            address, known["database"] = stack.enter_context(_database(wanted.database))
            environment["HANDCAR_DATABASE"], known["server"] = address, wanted.database
        if wanted.broker:
            address, known["vhost"] = stack.enter_context(_vhost(wanted.broker))
            environment["HANDCAR_BROKER"] = known["broker"] = address
        if wanted.s3:
            known["store"], told = stack.enter_context(_store(folder))
            environment |= told
        yield Engine(environment, **known)


@contextmanager
def _database(server: str) -> Iterator[tuple[str, str]]:
    import psycopg

    name = f"handcar_bench_{uuid4().hex[:8]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name}")
        try:
            yield urlunsplit(urlsplit(server)._replace(path=f"/{name}")), name
        finally:
            connection.execute(f"drop database if exists {name} with (force)")


@contextmanager
def _vhost(broker: str) -> Iterator[tuple[str, str]]:
    if urlsplit(broker).scheme != "amqp" or not shutil.which("rabbitmqctl"):
        yield broker, ""
        return
    name = f"handcar-bench-{uuid4().hex[:8]}"
    user = urlsplit(broker).username or "guest"
    rabbit("add_vhost", name)
    try:
        rabbit("set_permissions", "-p", name, user, ".*", ".*", ".*")
        yield urlunsplit(urlsplit(broker)._replace(path=f"/{name}")), name
    finally:
        rabbit("delete_vhost", name)


def rabbit(*arguments: str) -> None:
    """Run `rabbitmqctl ARGUMENTS`."""
    subprocess.run(["rabbitmqctl", "-q", *arguments], check=True, capture_output=True)


@contextmanager
def _store(folder: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    sys.path.insert(0, str(ROOT / "tests"))
    import weed

    place = folder / "weed"
    place.mkdir()
    with weed.running(place) as server:
        yield (
            server,
            {
                "HANDCAR_STORE": f"s3://{weed.PRIVATE}/handcar",
                "HANDCAR_STORE_ENDPOINT": server.endpoint,
                "HANDCAR_STORE_REGION": "us-east-1",
                "HANDCAR_STORE_KEY": weed.KEY,
                "HANDCAR_STORE_SECRET": weed.SECRET,
            },
        )
