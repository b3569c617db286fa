"""`handcar doctor`: whether a server has what it needs."""

from __future__ import annotations

import typer

from handcar.cli import options, serve
from handcar.cli.tables import print_json, show_table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(home: serve.Home = None, json: options.Json = False) -> None:
    """Try what a server needs: settings, database, store, broker, disk, clock; say what to do.

    Exit code 0 when it can run, 1 when something is at fault.

    Example: handcar doctor --home /srv/handcar
    """
    from handcar.server import doctor as doctors

    findings = doctors.examine(serve.folder(home).expanduser().resolve())
    if json:
        print_json({"findings": [finding.as_dict() for finding in findings]})
    else:
        show_table(
            ("", "what", "found", "what to do"),
            [(one.state, one.what, one.found, one.do) for one in findings],
        )
    if any(finding.state == doctors.FAULT for finding in findings):
        raise typer.Exit(1)
