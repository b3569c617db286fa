"""`handcar serve`: a server on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from handcar.cli import options
from handcar.errors import BadInput

if TYPE_CHECKING:
    from handcar.server.start import Running

Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="HANDCAR_SERVER_HOME",
        help="Folder that the server keeps everything in; by default the system's data folder.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(
    home: Home = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 finds a free one.")] = 8000,
    web_only: Annotated[
        bool,
        typer.Option("--web-only", help="Start no worker: use `handcar worker`."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False,
    json: options.Json = False,
) -> None:
    """Run a server: it hands out work, takes updates and makes the next versions.

    The first start makes everything that is needed. Ctrl-C stops it; nothing is lost. Settings
    come from HANDCAR_... variables or from handcar.toml in its folder.

    Example: handcar serve --host 0.0.0.0
    """
    from handcar.server import start

    def ready(running: Running) -> None:
        if running.owner_token:
            options.remember_owner_token(running.url, running.owner_token)
        if json:
            print(running.as_json(), flush=True)
        elif not quiet:
            print(running.as_text(), flush=True)

    start.serve(folder(home), host, port, ready=ready, with_worker=not web_only)


def existing(given: Path | None) -> Path:
    """Return the folder of a server that is there. Raises BadInput."""
    found = folder(given).expanduser().resolve()
    if not found.is_dir():
        raise BadInput(f"there is no server in {found}: give its folder with --home")
    return found


def folder(given: Path | None) -> Path:
    """Return the server's folder: the one given, or the usual one."""
    return given or options.home() / "server"
