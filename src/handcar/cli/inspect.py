"""`handcar inspect`: what a frame is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handcar import files
from handcar.cli import options
from handcar.cli.tables import print_json, show_table, size_text
from handcar.errors import BadInput, FrameError

if TYPE_CHECKING:
    from handcar.wire.frames import Description

HELP = """Explain a frame: an update, a delta or a keyframe, as volunteers and server keep them.

Exit code 0, or 2 when the file is no frame or is damaged.

Example: handcar inspect update.bin
"""
KINDS = {
    "keyframe": "keyframe: all weights of version {version}",
    "delta": "delta: leads from version {before} to version {version}",
    "update": "update: what a round that started from version {version} changed",
}
CODECS = {
    "planes": "exact float32, in byte planes under Zstandard",
    "bf16": "exact bfloat16, in byte planes under Zstandard",
    "step": "whole numbers of one step a tensor",
}
STAGES: dict[str | None, tuple[str, ...]] = {
    "packed": ("four numbers a byte", "numbers beyond 1"),
    "context": ("levels", "frequencies", "states", "coded numbers", "numbers beyond 3"),
    None: ("weights",),
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect", help=HELP)(inspect)


def inspect(
    file: Annotated[Path, typer.Argument(help="The file.")], *, json: options.Json = False
) -> None:
    """Explain a frame."""
    from handcar.wire import frames

    data = _read(file)
    try:
        told = frames.describe(data)
    except FrameError as error:
        raise BadInput(f"{file} is no sound frame: {error}") from error
    if json:
        print_json(_facts(told) | {"sha256": files.digest(data)})
    else:
        _show(told, files.digest(data))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadInput(f"can't read {file}: {error.strerror}") from error


def _facts(told: Description) -> dict[str, Any]:
    return {
        "kind": told.facts.kind,
        "model": told.facts.model,
        "version": told.facts.version,
        "weights": told.weights,
        "weights_sha256": told.facts.weights_sha256 or None,
        "rounded": told.facts.rounded,
        "codec": told.codec,
        "entropy": told.entropy,
        "scales": list(told.scales),
        "sections": dict(zip(_names(told), told.sections, strict=False)),
        "bytes": told.bytes,
        "bits_a_weight": _bits(told),
    }


def _show(told: Description, digest: str) -> None:
    version = told.facts.version
    kind = KINDS[told.facts.kind].format(version=version, before=version - 1)
    print(f"{kind} of {told.facts.model}")
    print(f"  {size_text(told.bytes)}, {_bits(told):.2f} bits a weight, {told.weights:,} weights")
    plain = 4 * told.weights
    print(f"  {plain / told.bytes:.1f} times smaller than float32, which is {size_text(plain)}")
    print(f"  {CODECS.get(told.codec, told.codec)}" + (f", {told.entropy}" if told.entropy else ""))
    if told.scales:
        print(f"  steps from {min(told.scales):.3g} to {max(told.scales):.3g}")
    if told.facts.rounded:
        print("  the weights that it leads to are then rounded to bfloat16")
    if told.facts.weights_sha256:
        print(f"  leads to weights {told.facts.weights_sha256}")
    print(f"  the file's digest is {digest}")
    rows = zip(_names(told), (size_text(size) for size in told.sections), strict=False)
    show_table(("section", "size"), list(rows))


def _names(told: Description) -> tuple[str, ...]:
    names = STAGES.get(told.entropy, ())
    return (*names, "statistics") if told.entropy else names


def _bits(told: Description) -> float:
    return 8 * told.bytes / max(told.weights, 1)
