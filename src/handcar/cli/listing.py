"""`handcar list`: what a server has to train."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from handcar.cli import options
from handcar.cli.client import Api
from handcar.cli.tables import print_json, show_table, size_text
from handcar.protocol.messages import ModelSummary

HELP = """List the models that a server has to train.

Example: handcar list https://train.example.org
"""
PAGE = 500


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
    rows = _all(Api(options.address(url), None))
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


def _all(api: Api) -> list[dict[str, Any]]:
    """Return every model, asked for page by page."""
    rows: list[dict[str, Any]] = []
    while True:
        after = {"after": rows[-1]["id"]} if rows else {}
        page = api.get("/list", {"limit": str(PAGE), **after})
        known = {row["id"] for row in rows}
        rows += (row for row in page if row["id"] not in known)
        # A server that knows no pages gives everything, each time.
        if len(page) < PAGE or page[0]["id"] in known:
            return rows


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
