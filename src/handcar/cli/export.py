"""`handcar export`: take the trained model away."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from handcar.cli import options
from handcar.cli.client import Api
from handcar.cli.tables import print_json

HELP = """Save a trained model as a .keras file, which keras.models.load_model opens.

Example: handcar export digits -o digits.keras
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", help=HELP)(export)


def export(
    model: Annotated[str, typer.Argument(help="The model's id.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; by default MODEL.keras.")
    ] = None,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    json: options.Json = False,
) -> None:
    """Save a trained model as a .keras file."""
    from handcar.volunteer import backend
    from handcar.volunteer.export import fetch, save

    url = options.address(server)
    path = output or Path(f"{model}.keras")
    if "KERAS_BACKEND" not in os.environ:
        backend.choose()
    trained = fetch(Api(url, options.owner_token(url, token)).get, model)
    save(trained, path)
    facts = {"export": str(path), "version": trained.version, "weights": trained.weights.size}
    if json:
        print_json(facts)
    else:
        print(f"Wrote {path}: version {trained.version}, {trained.weights.size:,} weights.")
