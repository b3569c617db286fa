"""The commands. Each parses, calls one function elsewhere, and prints; none holds logic.

Heavy libraries are imported inside the commands, so that `handcar --help` loads neither
Keras nor Django. Read `main` below, then `join.py`.
"""

from __future__ import annotations

import importlib
import sys

import typer

from handcar import __version__
from handcar.errors import HandcarError

app = typer.Typer(
    name="handcar",
    help="Train one neural network with many people's computers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"handcar {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and stop."
    ),
) -> None:
    """Train one neural network with many people's computers."""


MODULES = (
    "join",
    "listing",
    "publish",
    "mirror",
    "plan",
    "status",
    "rollback",
    "export",
    "message",
    "inspect",
    "serve",
    "worker",
    "doctor",
    "backup",
    "move",
    "demo",
    "simulate",
)
"""In the order in which `handcar --help` shows what they hold."""


def _register(command: str | None) -> None:
    """Add the commands, or just the one that is asked for: `serve` runs on with what is loaded."""
    for name in [command] if command in MODULES else MODULES:
        importlib.import_module(f"handcar.cli.{name}").register(app)


def main() -> None:
    """Run the command line; an error made for a person is one text, and sets the exit code.

    Exit codes: 0 done, 1 failed, 2 bad input, 3 server not reached, 4 the server said no,
    5 disk full, 130 stopped with Ctrl-C.
    """
    try:
        _register(sys.argv[1] if len(sys.argv) > 1 else None)
        app()
    except HandcarError as error:
        print(f"handcar: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
