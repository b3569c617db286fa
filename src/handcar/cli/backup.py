"""`handcar backup` and `handcar restore`: all that a server is, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from handcar.cli import options, serve
from handcar.cli.tables import print_json, size_text

if TYPE_CHECKING:
    from handcar.server.backup import Report

BACKUP = """Write all that a server is to one file, while it runs.

The file holds the database, the bytes that it names and the server's secrets: keep it private.

Example: handcar backup handcar-backup.tar.zst
"""
RESTORE = """Make a server's folder from a backup; `handcar serve` then goes on with it.

Nothing is overwritten: the folder must be empty, or not exist yet. Every digest is checked.

Example: handcar restore handcar-backup.tar.zst --home ./restored
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("backup", help=BACKUP)(backup)
    app.command("restore", help=RESTORE)(restore)


def backup(
    file: Annotated[Path, typer.Argument(help="File to write; an older one is replaced.")],
    *,
    home: serve.Home = None,
    json: options.Json = False,
) -> None:
    """Write all that a server is to one file, while it runs."""
    from handcar.server import setup

    prepared = setup.prepare(serve.existing(home))
    from handcar.server import backup as backups

    _tell(backups.backup(prepared, file.expanduser().resolve()), f"Wrote {file}", file, json=json)


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `handcar backup` wrote.")],
    *,
    home: serve.Home = None,
    json: options.Json = False,
) -> None:
    """Make a server's folder from a backup."""
    from handcar.server import backup as backups

    folder = serve.folder(home).expanduser().resolve()
    report = backups.restore(file.expanduser().resolve(), folder)
    _tell(report, f"Restored {folder}; `handcar serve --home {folder}` goes on", file, json=json)


def _tell(report: Report, text: str, file: Path, *, json: bool) -> None:
    if json:
        print_json({"file": str(file), "blobs": report.blobs, "bytes": report.size_bytes})
    else:
        print(f"{text}: {report.blobs} files, {size_text(report.size_bytes)}.")
