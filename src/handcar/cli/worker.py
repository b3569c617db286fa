"""`handcar worker`: the server's background process alone."""

from __future__ import annotations

import typer

from handcar.cli import serve
from handcar.errors import BadInput


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("worker")(worker)


def worker(home: serve.Home = None) -> None:
    """Check and merge updates for a server's folder; `handcar serve` starts one itself.

    Example: handcar worker --home /srv/handcar
    """
    folder = serve.folder(home).expanduser().resolve()
    if not (folder / "db.sqlite3").is_file():
        raise BadInput(f"there is no server in {folder}: `handcar serve --home {folder}` makes one")
    from handcar.server import setup

    setup.prepare(folder)
    from handcar.server.worker import run

    run()
