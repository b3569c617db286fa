"""From SQLite and the disk to PostgreSQL and a bucket, while volunteers stay.

    1  the bytes go to the bucket while the server works; nothing is changed for it
    2  the server is paused: it answers "in a moment", and its worker waits
    3  SQLite's write lock is taken: what was acknowledged is committed, nothing more can be
    4  the bytes that came meanwhile, then every row, ids kept; counts compared
    5  PostgreSQL commits; then SQLite does, with triggers that refuse every change from now on
    6  `handcar.toml` names the new engines; the server goes on with them when started again

The order of 5 is what nothing acknowledged can fall through: until the triggers are there, SQLite
is the truth, and whoever waited for its lock finds them when he gets it. A move that dies before
them changed nothing; one that dies between them and 6 only has to write the file.
"""

from __future__ import annotations

import json
import os
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import connection, connections, models, transaction

from handcar import files
from handcar.errors import BadInput, Corrupt, HandcarError, StateConflict
from handcar.server import blobs_bucket, configuration, naming, pausing, setup
from handcar.server.accounts.models import Owner, Volunteer
from handcar.server.blobs_bucket import BucketBlobs
from handcar.server.blobs_disk import DiskBlobs
from handcar.server.catalog.models import BlobUpload, TrainingModel
from handcar.server.configuration import Configuration
from handcar.server.home import Home

TARGET = "moved-to"
AT_ONCE = 8
ROWS_AT_ONCE = 500
SETTLE_S = 1.0
"""Requests that were under way when the server was paused mostly end within."""
MOVED_TEXT = "this server has moved: start `handcar serve` again"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What was moved, and how long the server was paused for it."""

    rows: int
    blobs: int
    paused_s: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bytes to copy: which must be there, and which everyone may have."""

    needed: frozenset[str]
    all: frozenset[str]
    public: frozenset[str]


def move(home: Home, to: Configuration, *, say: Say) -> Report:
    """Move a server to other engines. Raises BadInput, StoreAway, Corrupt, HandcarError."""
    _expect_embedded()
    with _target(to):
        if _has_moved():
            _finish(home, to)
            return Report(0, 0, 0.0)
        bucket = _bucket(home, to)
        _prepare_target(say)
        copier = Copier(DiskBlobs(home.blobs), bucket)
        say("Copying bytes to the bucket; the server goes on meanwhile.")
        copier.copy(_wanted())
        copier.copy(_wanted())  # the first pass may have taken hours, the second does not
        say("Pausing the server.")
        began = time.monotonic()
        with pausing.paused(home):
            time.sleep(SETTLE_S)
            copier.copy(_wanted())
            rows = _take_over(copier, say)
            _finish(home, to)
        return Report(rows, copier.copied, time.monotonic() - began)


def target(home: Home, given: Mapping[str, str]) -> Configuration:
    """Return the settings that a server has once it has moved. Raises BadConfiguration."""
    variables = {configuration.PREFIX + name.upper(): value for name, value in given.items()}
    found = configuration.read({"HANDCAR_SERVER_HOME": str(home.folder), **variables})
    if found.database is None or found.store is None:
        raise BadInput("both --database and --store are needed")
    return replace(found, file=found.file or home.folder / configuration.FILE)


def _expect_embedded() -> None:
    if not settings.HANDCAR.is_embedded or settings.HANDCAR.store:
        raise BadInput("this server has moved already: its settings name PostgreSQL or a bucket")
    if lacking := setup.missing_migrations():
        raise BadInput(
            f"the tables are those of an older Handcar ({lacking[0]} is to come): start "
            "`handcar serve` of this one once, then move"
        )


# -- the target ------------------------------------------------------------------------------


@contextmanager
def _target(to: Configuration) -> Iterator[None]:
    """Open the database that is moved to."""
    made = connections.configure_settings(configuration.databases(to))["default"]
    # Copying many rows takes its time, and nobody else is there yet.
    made["OPTIONS"].pop("options", None)
    connections.databases[TARGET] = made
    try:
        yield
    finally:
        connections[TARGET].close()
        del connections[TARGET], connections.databases[TARGET]


def _bucket(home: Home, to: Configuration) -> BucketBlobs:
    """Open the bucket that is moved to, and see that it can be written to."""
    bucket = blobs_bucket.opened(home, to)
    key = bucket.incoming(".probe")
    bucket.bucket.put(key, b"probe")
    bucket.bucket.remove(key)
    return bucket


def _prepare_target(say: Say) -> None:
    """Make the tables. Raises BadInput where rows are there."""
    from django.db import OperationalError

    say("Making the tables in PostgreSQL.")
    try:
        connections[TARGET].ensure_connection()
    except OperationalError as error:
        raise BadInput(f"the new database can't be reached: {str(error).strip()}") from error
    call_command("migrate", database=TARGET, verbosity=0, interactive=False)
    for model in (TrainingModel, Volunteer, Owner):
        if model._default_manager.using(TARGET).exists():
            raise BadInput(
                f"there are rows in {model._meta.db_table} of the new database: name one that is "
                "empty, or drop and create it again"
            )


# -- bytes -----------------------------------------------------------------------------------


def _wanted() -> Wanted:
    """Return what the rows name, and what owners have sent and not published yet."""
    names = naming.names()
    sent = frozenset(BlobUpload.objects.values_list("digest", flat=True))
    return Wanted(names.needed, names.all | sent, names.public)


class Copier:
    """Copies bytes from the disk to a bucket, each once."""

    def __init__(self, disk: DiskBlobs, bucket: BucketBlobs) -> None:
        self._disk = disk
        self._bucket = bucket
        self._there = {
            found.key: found.size
            for kind in ("public/", "private/")
            for found in bucket.bucket.objects(bucket.prefix + kind)
        }
        self.copied = 0

    def copy(self, wanted: Wanted) -> None:
        """Copy what is wanted and not there yet; what went meanwhile is left away."""
        sizes = self._disk.sizes(wanted.all)
        keys = {digest: self._key(digest, wanted) for digest in sizes}
        missing = [one for one, size in sizes.items() if self._there.get(keys[one]) != size]

        def copy(digest: str) -> bool:
            return self._copy(digest, keys[digest], public=digest in wanted.public)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for digest, copied in zip(missing, pool.map(copy, missing), strict=True):
                if copied:
                    self._there[keys[digest]] = sizes[digest]
                    self.copied += 1

    def expect_all(self, wanted: Wanted) -> None:
        """Raise Corrupt unless all that is needed has been copied."""
        lacking = [one for one in wanted.needed if self._key(one, wanted) not in self._there]
        if lacking:
            raise Corrupt(
                f"the server itself lacks {len(lacking)} files that its rows name, such as "
                f"{lacking[0]}: nothing was moved"
            )

    def _key(self, digest: str, wanted: Wanted) -> str:
        return self._bucket.key(digest, public=digest in wanted.public)

    def _copy(self, digest: str, key: str, *, public: bool) -> bool:
        path = self._disk.path(digest)
        try:
            if files.digest_file(path) != digest:
                raise Corrupt(f"{path} is damaged: nothing was moved")
            self._bucket.bucket.put_file(key, path, public=public)
        except FileNotFoundError:
            return False
        return True


# -- rows ------------------------------------------------------------------------------------


def _take_over(copier: Copier, say: Say) -> int:
    """Copy what is left, with SQLite held, and let nobody change it any more; return the rows."""
    with transaction.atomic():  # IMMEDIATE: nobody else writes until it ends
        wanted = _wanted()
        copier.copy(wanted)
        copier.expect_all(wanted)
        say("Copying rows.")
        with transaction.atomic(using=TARGET):
            _empty(_tables())
            rows = sum(_copy_table(model) for model in _tables())
            _reset_sequences(_tables())
        _forbid_changes(_tables())
    return rows


def _tables() -> list[type[models.Model]]:
    found = apps.get_models(include_auto_created=True)
    return [model for model in found if model._meta.managed and not model._meta.proxy]


def _empty(tables: list[type[models.Model]]) -> None:
    """Take away what making the tables has put there: content types, permissions."""
    names = [model._meta.db_table for model in tables]
    target = connections[TARGET]
    target.ops.execute_sql_flush(target.ops.sql_flush(no_style(), names))


def _copy_table(model: type[models.Model]) -> int:
    """Copy all rows as they are, ids and times too; return how many."""
    rows = model._base_manager.order_by("pk").iterator(chunk_size=ROWS_AT_ONCE)
    fields = model._meta.concrete_fields
    count = 0
    # Raw, since creating rows would set the times that they were created at.
    into: Any = model._base_manager.using(TARGET)
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        into._insert(batch, fields=fields, raw=True, using=TARGET)
        count += len(batch)
    there = model._base_manager.using(TARGET).count()
    if there != count:
        raise StateConflict(f"{model._meta.db_table}: {count} rows were copied, {there} are there")
    return count


def _reset_sequences(tables: list[type[models.Model]]) -> None:
    target = connections[TARGET]
    with target.cursor() as cursor:
        for statement in target.ops.sequence_reset_sql(no_style(), tables):
            cursor.execute(statement)


def _forbid_changes(tables: list[type[models.Model]]) -> None:
    """Let SQLite refuse all changes, also of those who wait for its lock at this moment."""
    with connection.cursor() as cursor:
        for model in tables:
            table = connection.ops.quote_name(model._meta.db_table)
            for change in ("INSERT", "UPDATE", "DELETE"):
                name = connection.ops.quote_name(f"moved_{model._meta.db_table}_{change}".lower())
                cursor.execute(
                    f"CREATE TRIGGER {name} BEFORE {change} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{MOVED_TEXT}'); END"
                )


def _has_moved() -> bool:
    """Say whether a move came so far that only the settings are to be written."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'moved_%'"
        )
        return bool(cursor.fetchone()[0])


# -- settings --------------------------------------------------------------------------------


def _finish(home: Home, to: Configuration) -> None:
    """Name the new engines in the settings' file, and keep the old server paused."""
    if not Volunteer.objects.using(TARGET).exists() and Volunteer.objects.exists():
        raise HandcarError("this server has moved, but not to that database: name the right one")
    path = to.file or home.folder / configuration.FILE
    _write(path, _read(path) | _settings_of(to))
    pausing.moved(home)


def _settings_of(to: Configuration) -> dict[str, Any]:
    names = ("database", "store", *configuration.ONLY_WITH)
    return {name: value for name in names if (value := getattr(to, name)) is not None}


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _write(path: Path, table: Mapping[str, Any]) -> None:
    # JSON's texts, numbers and lists of texts are TOML's as well.
    text = "".join(
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in table.items()
    )
    with files.whole(path) as file:
        os.chmod(file.name, 0o600)  # noqa: PTH101 - passwords are in it
        file.write(text.encode())
