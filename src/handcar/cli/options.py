"""Options that several commands share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from handcar import files
from handcar.errors import BadInput

DEFAULT_SERVER = "http://127.0.0.1:8000"

Server = Annotated[
    str,
    typer.Option("--server", "-s", envvar="HANDCAR_SERVER", help="Address of the server."),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="HANDCAR_TOKEN",
        help="An owner's token; `handcar serve` keeps its own where these commands find it.",
    ),
]
UpShare = Annotated[
    float,
    typer.Option(
        min=1,
        max=100,
        metavar="PERCENT",
        help="Make rounds so long that sending an update takes this share of one, if they can be.",
    ),
]
UpRate = Annotated[
    float | None,
    typer.Option(min=0.05, metavar="MBIT/S", help="Never send faster than this."),
]
DownRate = Annotated[
    float | None,
    typer.Option(min=0.05, metavar="MBIT/S", help="Never fetch faster than this."),
]
UpDaily = Annotated[
    float | None,
    typer.Option(min=0, metavar="GB", help="Send no more than this a day, from midnight on."),
]
DownDaily = Annotated[
    float | None,
    typer.Option(min=0, metavar="GB", help="Fetch no more than this a day, from midnight on."),
]
Disk = Annotated[
    float | None,
    typer.Option(
        min=0.001, metavar="GB", help="Keep no more chunks of data on this disk than so much."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


def address(url: str) -> str:
    """Return a server's address in full: a bare host gets https, or http on this machine."""
    if "://" not in url:
        host = url.split("/", maxsplit=1)[0].split(":", maxsplit=1)[0]
        url = ("http://" if host in ("localhost", "127.0.0.1") else "https://") + url
    return url.rstrip("/")


def home() -> Path:
    """Return the folder for what Handcar keeps: HANDCAR_HOME, or the system's data folder."""
    if given := os.environ.get("HANDCAR_HOME"):
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("handcar"))


def remember_owner_token(server: str, token: str) -> None:
    """Keep an owner's token for a server, readable by this user alone."""
    tokens = _owner_tokens() | {server: token}
    path = home() / "owner-tokens.json"
    files.write_json(path, tokens)
    path.chmod(0o600)


def owner_token(server: str, given: str | None) -> str | None:
    """Return the owner's token to use with a server, or none."""
    return given or _owner_tokens().get(server.rstrip("/"))


def known_owner_token(server: str, given: str | None) -> str:
    """Return the owner's token to use with a server. Raises BadInput when there is none."""
    token = owner_token(server, given)
    if token is None:
        raise BadInput(
            f"no owner's token for {server} is known here: give it with --token or HANDCAR_TOKEN. "
            "`handcar serve` keeps its own on the server's machine"
        )
    return token


def _owner_tokens() -> dict[str, str]:
    path = home() / "owner-tokens.json"
    if not path.is_file():
        return {}
    return dict(json.loads(path.read_text()))
