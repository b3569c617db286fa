"""`handcar rollback`: go back to an earlier version."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from handcar.cli import options
from handcar.cli.client import Api
from handcar.cli.tables import print_json
from handcar.errors import HandcarError
from handcar.protocol.messages import ModelStatus, RollbackReply, RollbackRequest

HELP = """Go back to an earlier version of a model.

The next version gets the weights of the earlier one. What was merged between is looked at
again, and merged again if it stands. Volunteers follow by themselves; their work goes on.

Example: handcar rollback digits 41
"""
WAIT_S = 120.0
POLL_S = 0.5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rollback", help=HELP)(rollback)


def rollback(
    model: Annotated[str, typer.Argument(help="The model's id.")],
    version: Annotated[
        int | None,
        typer.Argument(help="The version to go back to; by default the one before the newest."),
    ] = None,
    *,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    json: options.Json = False,
) -> None:
    """Go back to an earlier version of a model."""
    url = options.address(server)
    api = Api(url, options.owner_token(url, token))
    asked = RollbackRequest(version=version)
    told = RollbackReply.model_validate(api.post(f"/models/{model}/rollback", asked))
    made = _wait(api, model, told)
    if json:
        print_json({"version": made, "weights_of": told.version})
    else:
        print(f"Version {made} of {model} has the weights of version {told.version}.")


def _wait(api: Api, model: str, told: RollbackReply) -> int:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        stands = ModelStatus.model_validate(api.get(f"/models/{model}"))
        for row in stands.history:
            if row.number > told.newest and row.rolled_back_to == told.version:
                return row.number
        time.sleep(POLL_S)
    raise HandcarError(
        f"{model} is to go back to version {told.version}, but the server's worker has not done "
        f"it within {WAIT_S:g} s: is it running, and what does its log say?"
    )
