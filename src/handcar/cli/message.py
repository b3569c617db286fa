"""`handcar message`, `pause`, `resume` and `finish`: what an owner says to volunteers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from handcar.cli import options
from handcar.cli.client import Api
from handcar.cli.tables import print_json
from handcar.errors import BadInput
from handcar.protocol.messages import MessageRequest

HELP = """Send a text to the volunteers; each sees it once, within a minute.

Example: handcar message "Thanks! 90% reached." --model digits
"""


class Level(StrEnum):
    """How loud a message is."""

    info = "info"
    warning = "warning"
    error = "error"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("message", help=HELP)(message)
    for name, state, what in (
        ("pause", "paused", "Pause a model: volunteers wait until `handcar resume`."),
        ("resume", "pending", "Let a paused model be trained again."),
        ("finish", "finished", "End a model's training: volunteers stop, the model stays."),
    ):
        app.command(name, help=f"{what}\n\nExample: handcar {name} digits")(_change(state))


def message(  # noqa: PLR0913 - options of a command
    text: Annotated[str, typer.Argument(help="The text, at most 2,000 characters.")],
    *,
    model: Annotated[str | None, typer.Option(help="Only to who trains this model.")] = None,
    level: Annotated[Level, typer.Option(help="How it is shown.")] = Level.info,
    link: Annotated[str | None, typer.Option(help="An address to show with it.")] = None,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    json: options.Json = False,
) -> None:
    """Send a text to the volunteers."""
    try:
        body = MessageRequest.model_validate(
            {"text": text, "level": level.value, "link": link, "model_id": model}
        )
    except ValueError as error:
        raise BadInput(f"this can't be sent: {error}") from error
    answer = _owner(server, token).post("/messages", body)
    if json:
        print_json(answer)
    else:
        print("Sent. Volunteers see it with their next heartbeat.")


def _change(state: str):  # type: ignore[no-untyped-def]  # a command, which Typer inspects
    def change(
        model: Annotated[str, typer.Argument(help="The model's id.")],
        *,
        server: options.Server = options.DEFAULT_SERVER,
        token: options.Token = None,
        json: options.Json = False,
    ) -> None:
        answer = _owner(server, token).patch(f"/models/{model}", {"state": state})
        if json:
            print_json(answer)
        else:
            print(f"{model} is {state} now.")

    return change


def _owner(server: str, token: str | None) -> Api:
    url = options.address(server)
    return Api(url, options.owner_token(url, token))
