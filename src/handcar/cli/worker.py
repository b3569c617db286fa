"""`handcar worker`: the server's background process alone."""

from __future__ import annotations

import os

import typer

from handcar.cli import serve
from handcar.errors import BadInput


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("worker")(worker)


def worker(home: serve.Home = None) -> None:
    """Check and merge updates; `handcar serve` starts one itself.

    With HANDCAR_DATABASE and HANDCAR_STORE as many as you like, on any machine; with the
    default, SQLite, on the server's own.

    Example: handcar worker --home /srv/handcar
    """
    folder = serve.folder(home).expanduser().resolve()
    from handcar.server import configuration, setup

    found = configuration.read(os.environ | {"HANDCAR_SERVER_HOME": str(folder)})
    if found.is_embedded and not found.home.database.is_file():
        raise BadInput(f"there is no server in {folder}: `handcar serve --home {folder}` makes one")
    setup.prepare(folder)
    from handcar.server.worker import run

    run()
