"""`handcar plan`: what a training will take, before it is begun."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handcar.cli import options
from handcar.cli.tables import print_json, show_table, size_text
from handcar.errors import BadInput

if TYPE_CHECKING:
    from handcar.modelfile.schema import ModelFile
    from handcar.simulation.planning import Crowd, Job, Outlook

HELP = """Tell how long a training will take with how many volunteers, and what goes over the lines.

Reckoned from what benchmarks measured; nothing is published. The speed of a volunteer is
measured on this machine unless it is given.

Example: handcar plan model.json --records 60000 --volunteers 20 --up 5 --down 25
"""
FIRST_CHUNK_BYTES = 256_000
"""What `handcar publish` makes the first chunks, where there is as much."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan", help=HELP)(plan)


def plan(  # noqa: PLR0913 - options of a command
    model: Annotated[Path, typer.Argument(help="The model file (JSON).")],
    *,
    records: Annotated[
        int | None, typer.Option(min=1, help="Records to train on; with the model's epochs.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Or the steps that one machine would make.")
    ] = None,
    data_size: Annotated[
        float, typer.Option(min=0, metavar="MB", help="Size of the data, cut into chunks.")
    ] = 0.0,
    volunteers: Annotated[int, typer.Option(min=1, max=100_000, help="How many will help.")] = 8,
    up: Annotated[float, typer.Option(min=0.001, metavar="MBIT", help="Their up-links.")] = 5.0,
    down: Annotated[
        float, typer.Option(min=0.001, metavar="MBIT", help="Their down-links.")
    ] = 25.0,
    speed: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Steps a second of a volunteer; measured here if not given."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Tell what a training will take."""
    from handcar.modelfile import check
    from handcar.simulation import planning

    try:
        model_file = check.check(model.read_bytes())
    except OSError as error:
        raise BadInput(f"can't read {model}: {error.strerror}") from error
    wanted = _steps(model_file, records, steps)
    rate = speed if speed is not None else _measured(model, quiet=json)
    job = _job(model_file, wanted, data_size * 1e6)
    crowd = planning.Crowd(volunteers, up, down, rate)
    if json:
        print_json(_facts(job, crowd))
    else:
        _show(job, crowd)


def _steps(model_file: ModelFile, records: int | None, steps: int | None) -> float:
    if steps is not None:
        return float(steps)
    if records is None:
        raise BadInput("how long is the training? Give --records, or --steps")
    if model_file.epochs is None:
        raise BadInput(
            "the model file has no epochs, so the training ends when you end it: "
            "add `epochs` to it, or give --steps"
        )
    return max(1.0, records * model_file.epochs / model_file.batch_size)


def _measured(model: Path, *, quiet: bool) -> float:
    from handcar.simulation import speed

    rate = speed.measured(model)
    if not quiet:
        print(f"This machine makes {rate:.3g} steps a second; volunteers are taken to be like it.")
    return rate


def _job(model_file: ModelFile, steps: float, dataset: float) -> Job:
    from handcar.modelfile.coding import update_step
    from handcar.modelfile.shapes import infer
    from handcar.protocol import limits
    from handcar.protocol.messages import RoundLimits
    from handcar.simulation.planning import Job

    return Job(
        weights=infer(model_file).layout.size,
        steps=steps,
        step_of_updates=update_step(model_file),
        dataset=dataset,
        first_chunk=min(dataset, FIRST_CHUNK_BYTES),
        round_limits=RoundLimits(
            max_steps=min(model_file.round.max_steps, limits.ROUND_STEPS),
            max_seconds=min(float(model_file.round.max_seconds), limits.ROUND_S),
        ),
    )


def _facts(job: Job, crowd: Crowd) -> dict[str, Any]:
    from handcar.simulation import planning

    return {
        "ok": True,
        "weights": job.weights,
        "steps": job.steps,
        "steps_per_second": crowd.steps_per_second,
        "newcomer_wait_s": planning.newcomer_wait_s(job, crowd),
        "begin_bytes": planning.keyframe(job.weights) + job.first_chunk,
        "most_that_help": planning.most_that_help(job, crowd),
        "expected": asdict(planning.outlook(job, crowd)),
        "crowds": [asdict(one) for one in planning.outlooks(job, crowd)],
    }


def _show(job: Job, crowd: Crowd) -> None:
    from handcar.simulation import planning
    from handcar.volunteer.words import duration

    begin = planning.keyframe(job.weights) + job.first_chunk
    wait = duration(planning.newcomer_wait_s(job, crowd))
    alone = duration(job.steps / crowd.steps_per_second)
    print(f"{job.weights:,} weights, {job.steps:,.0f} steps: {alone} on one machine.")
    print(f"A newcomer fetches {size_text(begin)} before its first step: {wait}.")
    columns = ("volunteers", "takes", "speed-up", "a round", "up each", "down each", "server")
    show_table(columns, [_row(one, crowd) for one in planning.outlooks(job, crowd)])
    most = planning.most_that_help(job, crowd)
    print(f"Up to about {most} volunteers help; with more, half as many again save little.")


def _row(one: Outlook, crowd: Crowd) -> tuple[str, ...]:
    from handcar.volunteer.words import duration

    mark = " <" if one.volunteers == crowd.volunteers else ""
    return (
        f"{one.volunteers}{mark}",
        duration(one.hours * 3600),
        f"{one.speedup:.1f}",
        duration(one.round_s),
        f"{size_text(one.up_an_hour)}/h",
        f"{size_text(one.down_an_hour)}/h",
        size_text(one.server_bytes),
    )
