"""`handcar join`: lend this computer."""

from __future__ import annotations

import secrets
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from handcar.cli import options

HELP = """Lend this computer to a training until Ctrl-C; run it again to go on.

Example: handcar join https://train.example.org
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("join", help=HELP)(join)


def join(
    url: Annotated[str, typer.Argument(help="Address of the server.")],
    *,
    model: Annotated[
        str | None, typer.Option(help="Train this model; else the server picks one.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="How the server's page names this machine; by default a made-up name."),
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="Folder for data; a second machine needs its own.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Lend this computer to a training."""
    from handcar.volunteer import backend
    from handcar.volunteer.folder import Home, locked
    from handcar.volunteer.join import Options
    from handcar.volunteer.join import join as train

    place = Home(home or options.home() / "volunteer")
    chosen = backend.choose()
    with locked(place), _screen(json) as screen:
        screen.say(f"Joining {url} with Keras on {chosen}. Ctrl-C stops; nothing is lost.")
        wish = Options(
            options.address(url), place, name or f"volunteer-{secrets.token_hex(2)}", model
        )
        code = train(wish, screen)
    raise typer.Exit(code)


def _screen(json: bool):  # type: ignore[no-untyped-def]  # one of three screens
    if json:
        from handcar.volunteer.screen import JsonLines

        return nullcontext(JsonLines())
    if not sys.stdout.isatty():
        from handcar.volunteer.screen import Plain

        return nullcontext(Plain())
    from handcar.volunteer.terminal import Terminal

    return Terminal()
