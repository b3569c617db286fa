"""`handcar list`: what a server has to train."""

from __future__ import annotations

from typing import Annotated

import typer

from handcar.cli import options
from handcar.cli.client import Api
from handcar.cli.tables import print_json, show_table, size_text
from handcar.protocol.messages import ModelSummary

HELP = """List the models that a server has to train.

Example: handcar list https://train.example.org
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("list", help=HELP)(list_models)


def list_models(
    url: Annotated[
        str, typer.Argument(help="Address of the server.", envvar="HANDCAR_SERVER")
    ] = options.DEFAULT_SERVER,
    *,
    json: options.Json = False,
) -> None:
    """List the models that a server has to train."""
    rows = Api(options.address(url), None).get("/list")
    if json:
        print_json(rows)
        return
    models = [ModelSummary.model_validate(row) for row in rows]
    if not models:
        print(f"{url} has no models yet. An owner adds one with `handcar publish`.")
        return
    show_table(
        ("model", "state", "version", "accuracy", "weights", "to begin", "data", "training now"),
        [_row(model) for model in models],
    )


def _row(model: ModelSummary) -> tuple[str, ...]:
    return (
        model.id,
        model.state,
        str(model.version) if model.version >= 0 else "-",
        "-" if model.accuracy is None else f"{model.accuracy:.1%}",
        f"{model.weights:,}",
        size_text(model.begin_bytes),
        size_text(model.dataset_bytes),
        str(model.volunteers),
    )
