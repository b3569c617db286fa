"""`handcar publish --dry-run`: what a data set costs volunteers and owner in bytes and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from handcar.cli.tables import size_text

SPEEDS = (2, 8, 25, 100)
"""Mbit/s of the lines that are told of: thin, ordinary, good, fibre."""
KEYFRAME_BYTES_A_WEIGHT = 1.41
"""What a keyframe of freshly drawn weights takes: bfloat16, its exponents coded. 1.36 for
uniformly drawn ones; `encode_keyframe` of a million (decision 9)."""
WEIGHTS_ON_DISK = 3
"""Float32 copies of the weights on a volunteer's disk: its version, and checkpoints."""
SMALL = 1.5
"""The server begins with a chunk of at most so many times the smallest."""
OVERHEAD = 1.03
"""Bytes on the line to bytes of files: headers of HTTP, TLS and TCP."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What there is to move and to keep, in bytes."""

    model_file: int
    weights: int
    """How many numbers the model has."""
    train: tuple[int, ...]
    """Of each chunk to train on."""
    validation: int
    decoded: int
    """Of all training records, as they lie decoded on a volunteer's disk."""
    stores: int = 1
    """In how many places the training chunks are stored."""

    @property
    def keyframe(self) -> int:
        """About what the weights take on the line."""
        return round(self.weights * KEYFRAME_BYTES_A_WEIGHT)

    @property
    def begin(self) -> int:
        """What a volunteer fetches before its first step."""
        return self.model_file + self.keyframe + self.first_chunk

    @property
    def first_chunk(self) -> int:
        """About what the small chunk takes that a volunteer begins with."""
        return max((size for size in self.train if size <= SMALL * min(self.train)), default=0)

    @property
    def all(self) -> int:
        """What a volunteer fetches in all, to begin with."""
        return self.model_file + self.keyframe + sum(self.train)

    @property
    def disk(self) -> int:
        """What a volunteer's disk holds when all chunks are there and decoded."""
        return self.decoded + max(self.train, default=0) + 4 * WEIGHTS_ON_DISK * self.weights

    @property
    def up(self) -> int:
        """What the owner sends."""
        return sum(self.train) * self.stores + self.validation


@dataclass(frozen=True, slots=True)
class Line:
    """How long things take over a line of some speed, start-up of programs aside."""

    mbit_per_s: int
    first_step_s: float
    all_s: float
    upload_s: float


def lines(sizes: Sizes) -> list[Line]:
    """Return a line of the table for each speed."""
    return [
        Line(
            speed,
            _seconds(sizes.begin, speed),
            _seconds(sizes.all, speed),
            _seconds(sizes.up, speed),
        )
        for speed in SPEEDS
    ]


def _seconds(count: int, mbit_per_s: int) -> float:
    return round(8 * OVERHEAD * count / (mbit_per_s * 1e6), 1)


def facts(sizes: Sizes, found: dict[str, Any]) -> dict[str, Any]:
    """Return it all for programs."""
    return {
        "ok": True,
        **found,
        "chunks": len(sizes.train),
        "train_bytes": sum(sizes.train),
        "validation_bytes": sizes.validation,
        "keyframe_bytes": sizes.keyframe,
        "begin_bytes": sizes.begin,
        "all_bytes": sizes.all,
        "disk_bytes": sizes.disk,
        "upload_bytes": sizes.up,
        "lines": [asdict(line) for line in lines(sizes)],
    }


def text(sizes: Sizes) -> str:
    """Return it all for people."""
    rows = [
        (f"{line.mbit_per_s} Mbit/s", *map(_time, (line.first_step_s, line.all_s, line.upload_s)))
        for line in lines(sizes)
    ]
    return "\n".join(
        [
            f"A volunteer fetches {size_text(sizes.begin)} before its first step (of that about "
            f"{size_text(sizes.keyframe)} the weights), {size_text(sizes.all)} in all, and needs "
            f"{size_text(sizes.disk)} of disk for everything.",
            f"You send {size_text(sizes.up)}.",
            "",
            *_table(("line", "first step after", "all after", "your upload"), rows),
            "",
            "Times are the line's alone: Keras takes some seconds more to start.",
            "Nothing was sent.",
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    ]


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{max(seconds, 0.1):.3g} s"
