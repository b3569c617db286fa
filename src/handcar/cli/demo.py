"""`handcar demo`: the whole job on this machine, in about a minute and a half."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handcar.cli import options
from handcar.cli.tables import print_json, size_text

if TYPE_CHECKING:
    from handcar.simulation.demo import Outcome, View

HELP = """Train a small model with a server and three volunteers on this machine.

Each volunteer sits behind a line of 1 Mbit/s up. It ends by itself; the exit code is 1 if
the merged model is no better than what one volunteer reaches alone with its first chunk.

Example: handcar demo --json
"""
BARS = "▁▂▃▄▅▆▇█"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", help=HELP)(demo)


def demo(
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write the trained model.")
    ] = Path("digits.keras"),
    json: options.Json = False,
) -> None:
    """Train a small model with a server and three volunteers on this machine."""
    from handcar.simulation.demo import run
    from handcar.volunteer import backend

    backend.choose()
    with _shower(json) as show:
        outcome = run(output, show)
    if json:
        print_json(asdict(outcome))
    else:
        print(_ending(outcome))
    if outcome.accuracy <= outcome.accuracy_alone:
        raise typer.Exit(1)


@contextmanager
def _shower(json: bool) -> Iterator[Any]:
    if json:
        yield lambda view: None
    elif sys.stdout.isatty():
        from rich.live import Live

        with Live(refresh_per_second=4) as live:
            yield lambda view: live.update(_table(view))
    else:
        yield _Lines().show


class _Lines:
    """One line a version, where there is no terminal."""

    def __init__(self) -> None:
        self._last: tuple[object, ...] = ()

    def show(self, view: View) -> None:
        """Print what is new."""
        version = view.status.version if view.status else None
        accuracy = _accuracy(view)
        news = (view.doing, version, accuracy)
        if news == self._last:
            return
        self._last = news
        if view.status is None:
            print(f"{view.seconds:5.1f} s  {view.doing}  {view.page}".rstrip(), flush=True)
        else:
            score = "" if accuracy is None else f", accuracy {accuracy:.1%}"
            print(
                f"{view.seconds:5.1f} s  {view.doing}: version {version}{score}, "
                f"{view.status.volunteers} volunteers, {size_text(view.bytes_up)} up, "
                f"{size_text(view.bytes_down)} down  {view.page}",
                flush=True,
            )


def _table(view: View) -> Any:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    table.add_row("Handcar demo", f"{view.doing}, {view.seconds:.0f} s")
    table.add_row("page", view.page or "starting")
    if view.status:
        accuracy = _accuracy(view)
        table.add_row("version", str(view.status.version))
        table.add_row(
            "accuracy", f"{_curve(view)}  " + ("-" if accuracy is None else f"{accuracy:.1%}")
        )
        for volunteer in view.status.training:
            table.add_row(
                volunteer.name,
                f"{volunteer.activity}, {volunteer.chunks} chunks, "
                f"{volunteer.steps_per_second:.0f} steps/s, "
                f"{volunteer.updates_merged} updates merged",
            )
    table.add_row("lines", f"{size_text(view.bytes_up)} up, {size_text(view.bytes_down)} down")
    return table


def _accuracy(view: View) -> float | None:
    return _accuracies(view)[-1] if _accuracies(view) else None


def _accuracies(view: View) -> list[float]:
    history = view.status.history if view.status else ()
    return [version.accuracy for version in history if version.accuracy is not None]


def _curve(view: View) -> str:
    top = len(BARS) - 1
    return "".join(BARS[min(top, int(value * len(BARS)))] for value in _accuracies(view)[-40:])


def _ending(outcome: Outcome) -> str:
    return (
        f"\nAccuracy of the merged model:             {outcome.accuracy:.1%}\n"
        f"One volunteer alone, with its first chunk: {outcome.accuracy_alone:.1%}\n"
        f"{outcome.versions} versions from {outcome.updates_merged} updates in "
        f"{outcome.seconds:.0f} s; {size_text(outcome.bytes_up)} up and "
        f"{size_text(outcome.bytes_down)} down over three lines.\n"
        f"The trained model: {outcome.export}  (keras.models.load_model opens it)"
    )
