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

BYTES_A_MEGABIT = 1e6 / 8
BYTES_A_GIGABYTE = 1e9


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("join", help=HELP)(join)


def join(  # noqa: PLR0913 - each an option
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
    up_share: options.UpShare = 10,
    up_rate: options.UpRate = None,
    down_rate: options.DownRate = None,
    up_daily: options.UpDaily = None,
    down_daily: options.DownDaily = None,
    disk: options.Disk = None,
    no_audits: Annotated[
        bool,
        typer.Option("--no-audits", help="Don't check rounds of other volunteers for the server."),
    ] = False,
    json: options.Json = False,
) -> None:
    """Lend this computer to a training."""
    from handcar.volunteer import backend
    from handcar.volunteer.budget import Allowance
    from handcar.volunteer.folder import Home, locked
    from handcar.volunteer.join import Options
    from handcar.volunteer.join import join as train

    allowance = Allowance(
        up_share=up_share / 100,
        up_bytes_per_s=_times(up_rate, BYTES_A_MEGABIT),
        down_bytes_per_s=_times(down_rate, BYTES_A_MEGABIT),
        up_bytes_a_day=_times(up_daily, BYTES_A_GIGABYTE),
        down_bytes_a_day=_times(down_daily, BYTES_A_GIGABYTE),
    )
    place = Home(home or options.home() / "volunteer")
    chosen = backend.choose()
    with locked(place), _screen(json) as screen:
        screen.say(f"Joining {url} with Keras on {chosen}. Ctrl-C stops; nothing is lost.")
        machine = name or f"volunteer-{secrets.token_hex(2)}"
        disk_bytes = None if disk is None else int(disk * BYTES_A_GIGABYTE)
        audits_on = None if no_audits else chosen
        wish = Options(
            options.address(url), place, machine, model, allowance, disk_bytes, audits_on
        )
        code = train(wish, screen)
    raise typer.Exit(code)


def _times(number: float | None, unit: float) -> float | None:
    return None if number is None else number * unit


def _screen(json: bool):  # type: ignore[no-untyped-def]  # one of three screens
    if json:
        from handcar.volunteer.screen import JsonLines

        return nullcontext(JsonLines())
    if not sys.stdout.isatty():
        from handcar.volunteer.screen import Plain

        return nullcontext(Plain())
    from handcar.volunteer.terminal import Terminal

    return Terminal()
