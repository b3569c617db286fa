"""`handcar simulate`: a whole crowd's training on this machine, in virtual time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from handcar import files
from handcar.cli import options
from handcar.cli.tables import print_json, show_table, size_text

if TYPE_CHECKING:
    from handcar.simulation.run import Result
    from handcar.simulation.scenario import Scenario

HELP = """Train a model as a crowd of volunteers would, on this machine, in virtual time.

The scenario is a small JSON file: how many volunteers, how fast, on what lines, how steady, who
attacks. Training, coding and merging are real; only the time is not. Needs TensorFlow.

Exit code 0, or 2 when the scenario, the model file or the data can't be used.

Example: handcar simulate examples/simulate.json --picture curve.svg
"""
HOUR_S = 3600.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate", help=HELP)(simulate)


def simulate(
    scenario: Annotated[Path, typer.Argument(help="The scenario, a JSON file.")],
    *,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Draw the held-out loss over time into this file."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Simulate a scenario."""
    from handcar.simulation import problems, run
    from handcar.simulation import scenario as scenarios

    wanted = scenarios.read(scenario)
    problem = problems.read(wanted, scenario)
    result = run.simulate(wanted, problem)
    if picture is not None:
        files.write(picture, _drawn(wanted, result, problem.model_file.name).encode())
    if json:
        print_json(asdict(result) | {"hours": result.seconds / HOUR_S})
    else:
        _show(wanted, result)


def _drawn(wanted: Scenario, result: Result, name: str) -> str:
    from handcar.simulation.picture import Axis, Line, draw

    points = [(point.seconds / HOUR_S, point.loss) for point in result.curve]
    title = f"{name}: {wanted.volunteers.count} volunteers, rule {wanted.merging.rule}"
    return draw(title, [Line(points)], Axis("hours"), Axis("held-out loss", logarithmic=True))


def _show(wanted: Scenario, result: Result) -> None:
    rows = [
        (
            f"{point.seconds / HOUR_S:.3g}",
            f"{point.steps:,.0f}",
            f"{point.loss:.4f}",
            "" if point.accuracy is None else f"{point.accuracy:.1%}",
        )
        for point in result.curve
    ]
    show_table(("hours", "steps merged", "held-out loss", "accuracy"), rows)
    crowd, hours = wanted.volunteers.count, result.seconds / HOUR_S
    print()
    print(
        f"{result.versions} versions from {result.updates} updates of {crowd} volunteers "
        f"({result.volunteers:.1f} in effect) in {hours:.3g} hours."
    )
    print(
        f"{result.kept:.0%} of what all machines could have done in that time was merged; an "
        f"update was {result.staleness:.1f} versions old on average."
    )
    print(
        f"Each volunteer sent {size_text(result.bytes_up / crowd)} and fetched "
        f"{size_text(result.bytes_down / crowd)} of weights: "
        f"{size_text(result.bytes_up / crowd / hours)} and "
        f"{size_text(result.bytes_down / crowd / hours)} an hour."
    )
    print(f"{result.refused} updates were refused; {result.honest_refused:.1%} of the honest ones.")
    if result.caught is not None:
        print(f"Of the attackers' updates {result.caught:.0%} were refused.")
    if result.opened is not None:
        print(f"Their backdoor opens {result.opened:.0%} of the time.")
