"""One file with all that an embedded server is, taken while it works; and back from it.

The database is copied by SQLite itself, of one moment. Bytes are never changed, only removed,
so a second name is given to each first (a hard link): what a row of that moment names was there
then, and stays there for us whatever the worker lets go of meanwhile. What came between giving
names and copying the database gets its name after; was one of those removed in between, both
are done again.

The file is a tar, packed with Zstandard: `handcar-backup.json`, the secrets, `db.sqlite3`, and
`blobs/` with every digest checked on the way in and on the way out.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import zstandard

from handcar import __version__, files
from handcar.errors import BadInput, Corrupt
from handcar.server.home import Home
from handcar.stores.base import file_name

FORMAT = 1
MANIFEST = "handcar-backup.json"
DATABASE = "db.sqlite3"
SECRETS = (
    "secret-key",
    "signing-key",
    "checking-key",
    "admin-password",
    "owner-token",
    "handcar.toml",
)
BLOB = re.compile(r"[0-9a-f]{64}")
ATTEMPTS = 10
"""So often a version's bytes may be let go just between two looks."""
LEVEL = 3
PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Report:
    """What is in a backup."""

    blobs: int
    size_bytes: int


# -- backing up ------------------------------------------------------------------------------


def backup(home: Home, target: Path) -> Report:
    """Write a server's state and bytes to one file, whole. Raises BadInput, Corrupt, DiskFull."""
    _expect_embedded(home)
    with _folder_in(home.folder, "backup") as stage:
        wanted = _snapshot(home, stage)
        with files.whole(target) as file:
            os.chmod(file.name, 0o600)  # noqa: PTH101 - the secrets are in it
            return _write(home, stage, wanted, file)


def _expect_embedded(home: Home) -> None:
    from django.conf import settings

    if not settings.HANDCAR.is_embedded or settings.HANDCAR.store:
        raise BadInput(
            "this server keeps its state in PostgreSQL or its bytes in a bucket: back up the "
            "database with pg_dump first, then the bucket by its own means, and the secrets in "
            f"{home.folder}"
        )
    if not home.database.is_file():
        raise BadInput(f"there is no server in {home.folder}: give its folder with --home")


def _snapshot(home: Home, stage: Path) -> list[str]:
    """Copy the database, and give a second name to all that it names; return these digests."""
    for _ in range(ATTEMPTS):
        _link_all(home.blobs, stage)
        _copy_database(home.database, stage / DATABASE)
        named, merged = _named_in(stage / DATABASE)
        _link_all(home.blobs, stage)
        missing = [digest for digest in named if not (stage / file_name(digest)).exists()]
        if not missing:
            kept = [digest for digest in merged if (stage / file_name(digest)).exists()]
            return sorted({*named, *kept})
    raise Corrupt(
        f"{len(missing)} files that the database names are not in {home.blobs}, such as "
        f"{missing[0]}: a backup without them could not be restored"
    )


def _link_all(blobs: Path, stage: Path) -> None:
    for path in blobs.glob("*/*"):
        other = stage / path.name
        if not BLOB.fullmatch(path.name) or other.exists():
            continue
        try:
            os.link(path, other)
        except FileNotFoundError:
            continue
        except OSError:  # a file system without hard links
            with files.whole(other) as file, path.open("rb") as source:
                shutil.copyfileobj(source, file)


def _copy_database(path: Path, copy: Path) -> None:
    copy.unlink(missing_ok=True)
    source = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=60)
    with closing(source), closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")


def _named_in(database: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Return the digests that a copy of a database names: those needed, and those if kept."""
    from handcar.server import naming

    with other_database(database) as alias:
        names = naming.names(alias)
    return names.needed, names.merged


@contextmanager
def other_database(path: Path) -> Iterator[str]:
    """Open another SQLite file under a name for Django's `using`."""
    from django.db import connections

    alias = f"other-{secrets.token_hex(4)}"
    connections.databases[alias] = {
        **connections.databases["default"],
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "OPTIONS": {},
    }
    try:
        yield alias
    finally:
        connections[alias].close()
        del connections[alias], connections.databases[alias]


def _write(home: Home, stage: Path, digests: list[str], file: BinaryIO) -> Report:
    paths = [stage / file_name(digest) for digest in digests]
    size = sum(path.stat().st_size for path in paths)
    told = {"format": FORMAT, "handcar": __version__, "blobs": len(digests), "bytes": size}
    packer = zstandard.ZstdCompressor(level=LEVEL).stream_writer(file, closefd=False)
    with packer, tarfile.open(mode="w|", fileobj=packer) as tar:
        _add(tar, MANIFEST, json.dumps(told).encode())
        for name in SECRETS:
            if (home.folder / name).is_file():
                _add(tar, name, (home.folder / name).read_bytes())
        _add_file(tar, DATABASE, stage / DATABASE)
        for digest, path in zip(digests, paths, strict=True):
            if files.digest_file(path) != digest:
                raise Corrupt(f"{home.blobs}: the bytes of {digest} are damaged")
            _add_file(tar, f"blobs/{path.name}", path)
    return Report(len(digests), size)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    tar.addfile(_entry(name, len(data)), io.BytesIO(data))


def _add_file(tar: tarfile.TarFile, name: str, path: Path) -> None:
    with path.open("rb") as file:
        tar.addfile(_entry(name, path.stat().st_size), file)


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry


# -- restoring -------------------------------------------------------------------------------


def restore(source: Path, folder: Path) -> Report:
    """Make a server's folder of a backup; nothing is there unless all is right.

    Raises BadInput where something is in the folder, Corrupt where the file is not whole.
    """
    if not source.is_file():
        raise BadInput(f"there is no file {source}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} is not empty: name a folder that is, or does not exist yet")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _folder_in(folder.parent, "restoring") as stage:
        report = _read(source, Home(stage))
        if folder.exists():
            folder.rmdir()
        stage.rename(folder)
        files.flush_folder(folder.parent)
    return report


def _read(source: Path, stage: Home) -> Report:
    try:
        with source.open("rb") as file:
            unpacked = zstandard.ZstdDecompressor().stream_reader(file)
            with tarfile.open(mode="r|", fileobj=unpacked) as tar:
                told, digests = _unpack(tar, stage)
    except (zstandard.ZstdError, tarfile.TarError, EOFError, OSError) as error:
        raise Corrupt(f"{source} is no whole backup: {error}") from error
    if told.get("format") != FORMAT:
        raise BadInput(
            f"{source} was made by Handcar {told.get('handcar', '?')}, whose backups this one, "
            f"{__version__}, can't read"
        )
    _expect_all(source, stage, told, digests)
    return Report(len(digests), int(told["bytes"]))


def _unpack(tar: tarfile.TarFile, stage: Home) -> tuple[dict[str, Any], set[str]]:
    told: dict[str, Any] = {}
    digests: set[str] = set()
    for entry in tar:
        data = tar.extractfile(entry)
        if data is None:
            raise Corrupt(f"{entry.name}: expected files only")
        if entry.name == MANIFEST:
            told = json.load(data)
        elif entry.name in (DATABASE, *SECRETS):
            _extract(data, stage.folder / entry.name)
        else:
            digests.add(_extract_blob(data, entry.name, stage))
    return told, digests


def _extract_blob(data: IO[bytes], name: str, stage: Home) -> str:
    hexadecimal = name.removeprefix("blobs/")
    if not BLOB.fullmatch(hexadecimal):
        raise Corrupt(f"{name[:100]!r} is nothing that belongs in a backup")
    found = _extract(data, stage.blobs / hexadecimal[:2] / hexadecimal)
    if found != f"sha256:{hexadecimal}":
        raise Corrupt(f"{name}: its bytes are damaged, their digest is {found}")
    return found


def _extract(data: IO[bytes], path: Path) -> str:
    """Write a file, whole, for this user's eyes; return its digest."""
    hashed = hashlib.sha256()
    with files.whole(path) as file:
        os.chmod(file.name, 0o600)  # noqa: PTH101 - before anything is in it
        while piece := data.read(PIECE_BYTES):
            hashed.update(piece)
            file.write(piece)
    return f"sha256:{hashed.hexdigest()}"


def _expect_all(source: Path, stage: Home, told: dict[str, Any], digests: set[str]) -> None:
    if told.get("blobs") != len(digests) or not stage.database.is_file():
        raise Corrupt(
            f"{source} is not whole: expected {told.get('blobs')} files, got {len(digests)}"
        )
    from handcar.server import setup

    setup.prepare(stage.folder)
    from django.db import connections

    needed, _ = _named_in(stage.database)
    connections.close_all()
    if lacking := needed - digests:
        raise Corrupt(f"{source} lacks {len(lacking)} files that its database names")


@contextmanager
def _folder_in(parent: Path, purpose: str) -> Iterator[Path]:
    """Make a folder for this user's eyes, and remove it at the end if it is still there."""
    folder = parent / f".{purpose}-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
