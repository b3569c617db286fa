"""The round under way, saved now and then: after a kill -9 at most one interval is lost."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from handcar import files
from handcar.errors import FrameError
from handcar.protocol.messages import Drawn, RatePlan, Start
from handcar.wire import container
from handcar.wire.layout import Flat

log = logging.getLogger(__name__)


@dataclass
class Round:
    """A volunteer's training between two updates."""

    number: int
    base_version: int
    carried: tuple[UUID, ...]
    """Own updates, not in the base version, that its start has on top."""
    start: Flat
    seed: int
    """Of what layers such as Dropout draw."""
    rate: RatePlan = field(default_factory=RatePlan)
    after: tuple[UUID, ...] = ()
    """The rounds before it since the optimizer began afresh, and their steps together."""
    after_steps: int = 0
    drawn: list[Drawn | None] = field(default_factory=list)
    """What earlier runs of this program trained on in it; none where that can't be said."""
    earlier_starts: tuple[Start, ...] = ()
    """What it started from before it went on from a newer version."""
    steps: int = 0
    records: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    """Sum over the steps of each step's mean loss."""

    def steps_from_here(self) -> int:
        """Return the steps made since its start, or since it went on from a newer version."""
        return self.steps - sum(one.steps for one in self.earlier_starts)

    def loss(self) -> float | None:
        """Return the mean loss over the round's steps so far."""
        return self.loss_sum / self.steps if self.steps else None


@dataclass(frozen=True)
class Checkpoint:
    """A round as far as it is, the weights now, and what the optimizer remembers."""

    round: Round
    weights: Flat
    optimizer: list[NDArray[Any]] = field(default_factory=list)
    passes: dict[str, int] = field(default_factory=dict)
    """How often each chunk has been gone through."""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole. Raises DiskFull."""
    now = checkpoint.round
    header = {
        "kind": "checkpoint",
        "round": {
            "number": now.number,
            "base_version": now.base_version,
            "carried": [str(update) for update in now.carried],
            "seed": now.seed,
            "rate": now.rate.model_dump(),
            "after": [str(update) for update in now.after],
            "after_steps": now.after_steps,
            "drawn": [drawn and drawn.model_dump() for drawn in now.drawn],
            "earlier_starts": [one.model_dump(mode="json") for one in now.earlier_starts],
            "steps": now.steps,
            "records": now.records,
            "seconds": now.seconds,
            "loss_sum": now.loss_sum,
        },
        "passes": checkpoint.passes,
        "optimizer": [[array.dtype.str, list(array.shape)] for array in checkpoint.optimizer],
    }
    arrays: Sequence[NDArray[Any]] = [now.start, checkpoint.weights, *checkpoint.optimizer]
    files.write(path, container.pack(header, [array.tobytes() for array in arrays]))


def load(path: Path, size: int) -> Checkpoint | None:
    """Return the checkpoint of a model of `size` numbers, or none when there is no sound one."""
    if not path.is_file():
        return None
    try:
        return _read(path.read_bytes(), size)
    except (FrameError, KeyError, TypeError, ValueError) as error:
        log.warning("the checkpoint %s can't be read (%s) and is not used", path, error)
        return None


def _read(data: bytes, size: int) -> Checkpoint:
    header, sections = container.unpack(data)
    facts = dict(header["round"])
    start, weights = (np.frombuffer(section, dtype=np.float32) for section in sections[:2])
    if start.size != size or weights.size != size:
        raise FrameError(f"expected {size} numbers, got {weights.size}")
    optimizer = [
        np.frombuffer(section, dtype=np.dtype(kind)).reshape(shape)
        for section, (kind, shape) in zip(sections[2:], header["optimizer"], strict=True)
    ]
    facts["carried"] = tuple(map(UUID, facts["carried"]))
    facts["after"] = tuple(map(UUID, facts["after"]))
    facts["rate"] = RatePlan.model_validate(facts["rate"])
    facts["drawn"] = [drawn and Drawn.model_validate(drawn) for drawn in facts["drawn"]]
    earlier = facts.get("earlier_starts", ())
    facts["earlier_starts"] = tuple(map(Start.model_validate, earlier))
    return Checkpoint(Round(start=start, **facts), weights, optimizer, header["passes"])
