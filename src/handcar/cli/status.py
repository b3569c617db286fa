"""`handcar status`: how one model does."""

from __future__ import annotations

from typing import Annotated

import typer

from handcar.cli import options
from handcar.cli.client import Api
from handcar.cli.tables import print_json, show_table, size_text
from handcar.protocol.messages import ModelStatus, VersionInfo

HELP = """Show how a model's training stands: progress, versions, who trains.

Exit code 0 while it can be trained or is finished, 1 if it failed.

Example: handcar status digits --server https://train.example.org
"""
SHOWN_VERSIONS = 8
SHOWN_REFUSALS = 5


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("status", help=HELP)(status)


def status(
    model: Annotated[str, typer.Argument(help="The model's id, as `handcar list` shows it.")],
    *,
    server: options.Server = options.DEFAULT_SERVER,
    json: options.Json = False,
) -> None:
    """Show how a model's training stands."""
    raw = Api(options.address(server), None).get(f"/models/{model}")
    stands = ModelStatus.model_validate(raw)
    if json:
        print_json(raw)
    else:
        _show(stands)
    if stands.state == "failed":
        raise typer.Exit(1)


def _show(stands: ModelStatus) -> None:
    print(f"{stands.id}: {stands.state}, version {stands.version}" + _score(stands))
    if stands.failure:
        print(f"  failed: {stands.failure}")
    wanted = stands.records_wanted
    share = f" of {wanted:,} ({stands.records_merged / wanted:.0%})" if wanted else ""
    print(f"  {stands.records_merged:,} records merged{share}, {stands.updates_merged:,} updates")
    print(f"  {stands.updates_waiting} waiting, {stands.updates_refused} refused")
    for alert in stands.alerts:
        print(f"  {'over' if alert.ended_at else 'look'}: {alert.text}")
    if stands.history:
        show_table(
            ("version", "updates", "loss", "accuracy", "delta", ""),
            [_version_row(version) for version in stands.history[-SHOWN_VERSIONS:]],
        )
    if stands.training:
        show_table(
            ("volunteer", "doing", "version", "steps/s", "chunks", "merged", "refused")
            + ("audits", "standing"),
            [
                (v.name, v.activity, str(v.version), f"{v.steps_per_second:.0f}")
                + (str(v.chunks), str(v.updates_merged), str(v.updates_refused))
                + (str(v.audits), v.standing)
                for v in stands.training
            ],
        )
    if stands.refusals:
        show_table(
            ("refused of", "steps", "why"),
            [(row.name, str(row.steps), row.reason) for row in stands.refusals[:SHOWN_REFUSALS]],
        )


def _score(stands: ModelStatus) -> str:
    loss = "" if stands.loss is None else f", loss {stands.loss:.4f}"
    return loss + ("" if stands.accuracy is None else f", accuracy {stands.accuracy:.1%}")


def _version_row(version: VersionInfo) -> tuple[str, ...]:
    return (
        str(version.number),
        str(version.updates),
        "-" if version.loss is None else f"{version.loss:.4f}",
        "-" if version.accuracy is None else f"{version.accuracy:.1%}",
        size_text(version.delta_bytes),
        _going_back(version),
    )


def _going_back(version: VersionInfo) -> str:
    if version.rolled_back_to is not None:
        return f"back to {version.rolled_back_to}"
    return "undone" if version.undone else ""
