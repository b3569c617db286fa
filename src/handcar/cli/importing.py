"""The owner's data for `handcar publish`: how it is read, what is shown, what is told."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from handcar.errors import BadInput, DataError
from handcar.protocol.limits import TEXT_LENGTH

if TYPE_CHECKING:
    from handcar.data.cut import CutChunk
    from handcar.data.reading import Options, Progress
    from handcar.data.sources import Source
    from handcar.modelfile.schema import ModelFile, Network

LINE_S = 5.0
SHOWN_S = 0.1
PANEL = "Reading the data"
SIZE = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?")

Label = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A table's label column, by name or number; by default label, class, target, y, "
        "or the last.",
        rich_help_panel=PANEL,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="WxH", help="Resize pictures to this width and height.", rich_help_panel=PANEL
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        min=1, max=1_000_000, help="Tokens in one record of text [64].", rich_help_panel=PANEL
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A tokenizer.json that makes tokens of text; by default characters.",
        rich_help_panel=PANEL,
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        max=3600,
        help="Make each sound so long; by default as the longest.",
        rich_help_panel=PANEL,
    ),
]
Test = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Data of the same kind to measure on, instead of a share of the training data.",
        rich_help_panel=PANEL,
    ),
]

LossyQuality = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100,
        help="Code pictures as JPEG of this quality: fewer bytes, but not exactly your pictures.",
        rich_help_panel=PANEL,
    ),
]


@dataclass(frozen=True)
class Wanted:
    """What the command line says of the data; what it leaves open the model file may say."""

    label: str | None = None
    size: str | None = None
    window: int | None = None
    tokenizer: Path | None = None
    seconds: float | None = None
    test: Path | None = None
    lossy_quality: int | None = None
    bar: bool = True


def read(
    path: Path, wanted: Wanted, model: Path, model_file: ModelFile | None, folder: Path
) -> Source:
    """Read the data, showing how far it is. Raises BadInput, DiskFull."""
    from handcar.data import importers

    options = options_of(wanted, model, model_file)
    with progress(path, wanted.bar) as told:
        return importers.read(path, options, folder=folder, on_progress=told)


def options_of(wanted: Wanted, model: Path, model_file: ModelFile | None) -> Options:
    """Return how to read: what the command line says comes before what the model file says."""
    from handcar.data.reading import WINDOW, Options
    from handcar.modelfile.schema import DatasetSpec

    said = DatasetSpec(name="") if model_file is None else model_file.dataset
    width, height = said.size or (0, 0)
    size = (width, height) if said.size else None
    return Options(
        label=wanted.label or said.label,
        size=size if wanted.size is None else _size(wanted.size),
        window=wanted.window or said.window or WINDOW,
        tokenizer=wanted.tokenizer or _beside(model, said.tokenizer),
        seconds=wanted.seconds or said.seconds,
        test=wanted.test or _beside(model, said.test),
        validation=said.validation,
    )


def _beside(model: Path, name: str | None) -> Path | None:
    return None if name is None else model.parent / name


def _size(text: str) -> tuple[int, int]:
    match = SIZE.fullmatch(text.lower())
    width = int(match[1]) if match else 0
    height = int(match[2] or width) if match else 0
    if not width or not height:
        raise BadInput(
            f"--size {text}: expected a width and a height such as 64x48, or 64 for both"
        )
    return width, height


# -- cutting ---------------------------------------------------------------------------------


def cut(source: Source, model_file: ModelFile, wanted: Wanted, folder: Path) -> list[CutChunk]:
    """Cut the data into chunks. Raises BadInput where pictures were to lose, and none do."""
    from handcar.data import cut

    quality = wanted.lossy_quality
    validation = model_file.dataset.validation
    chunks = cut.cut(source, folder, validation=validation, lossy_quality=quality)
    if quality is not None and not any("lossy" in chunk.codec for chunk in chunks):
        raise BadInput(
            f"--lossy-quality {quality}: this data has no pictures that could be coded so "
            "(JPEG files stay as they are): leave it out"
        )
    return chunks


# -- what does not fit -----------------------------------------------------------------------


def misfits(model_file: ModelFile, source: Source) -> list[str]:
    """Say what does not fit between model and data, a line each; closes the data if so."""
    from handcar.data.fit import Expected, check_fits
    from handcar.modelfile.shapes import infer

    sizes = infer(model_file)
    expected = Expected(
        input_shape=sizes.input_shape,
        output_shape=sizes.output_shape,
        loss=model_file.loss.name,
        input_dtype=model_file.network.input.dtype,
        loss_config=model_file.loss.config,
        tokens=_tokens(model_file.network),
    )
    try:
        check_fits(source, expected)
    except DataError as error:
        source.close()
        return str(error).splitlines()
    return []


def _tokens(network: Network) -> int | None:
    """Return how many tokens the model knows: the `input_dim` of an Embedding of its input."""
    for layer in network.layers:
        reads = {tensor.layer for call in layer.calls for tensor in call}
        if layer.class_name == "Embedding" and network.input.name in reads:
            known = layer.config["input_dim"]
            return known if isinstance(known, int) else None
    return None


# -- what is told ----------------------------------------------------------------------------


def description(said: str, source: Source) -> str:
    """Return the owner's description with what the data's numbers stand for, if there is room."""
    parts = [said] if said else []
    for key in source.legend():
        room = TEXT_LENGTH - len("\n".join([*parts, ""]))
        if len(key) <= room:
            parts.append(key)
        elif room > 100:
            parts.append(key[: room - 4] + " ...")
    return "\n".join(parts)


def facts(source: Source) -> dict[str, object]:
    """Return what the data's numbers stand for, where the data says, for programs."""
    known = {"class_names": source.class_names, "columns": source.columns}
    return {name: list(names) for name, names in known.items() if names}


@contextmanager
def progress(path: Path, bar: bool) -> Iterator[Progress]:
    """Show a bar on a terminal, a line now and then elsewhere, or nothing."""
    if not bar:
        yield lambda done, total: None
    elif not sys.stdout.isatty():
        yield _seldom(
            lambda done, total: print(f"Read {done / total:.0%} of {path}", flush=True), LINE_S
        )
    else:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

        columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress("Reading", *columns, transient=True) as progress:
            task = progress.add_task("", total=None)
            yield _seldom(
                lambda done, total: progress.update(task, completed=done, total=total), SHOWN_S
            )


def _seldom(show: Callable[[int, int], None], every_s: float) -> Progress:
    shown_at = time.monotonic()

    def told(done: int, total: int) -> None:
        nonlocal shown_at
        if total and time.monotonic() - shown_at >= every_s:
            shown_at = time.monotonic()
            show(done, total)

    return told
