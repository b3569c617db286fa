"""What a volunteer is told to do by its state; plain data, run by `join.py` and the simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from handcar.protocol.messages import ChunkLink


@dataclass(frozen=True, slots=True)
class AskAssignment:
    """Ask the server what to train."""


@dataclass(frozen=True, slots=True)
class FetchChunk:
    """Fetch one chunk."""

    link: ChunkLink


@dataclass(frozen=True, slots=True)
class FetchWeights:
    """Fetch the weights of a version; `merged` own updates are part of it."""

    version: int
    merged: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make the model ready to train on chunks like this one, while the weights come in."""

    digest: str


@dataclass(frozen=True, slots=True)
class BeginTraining:
    """Start the training thread on the version held, carrying these own updates."""

    pending: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class AddChunk:
    """Let the training use one more chunk from now on."""

    digest: str


@dataclass(frozen=True, slots=True)
class RemoveChunk:
    """Let the training expect a chunk no more."""

    digest: str


@dataclass(frozen=True, slots=True)
class TakeUp:
    """Go on from this version as soon as it helps, without the `merged` updates to carry."""

    version: int
    merged: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget own updates that will never be merged, and why."""

    ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class SendUpdate:
    """Announce one update and send its bytes."""

    id: UUID


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    """Say where we are, and hear what is new."""

    pending: tuple[UUID, ...]
    seen: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainAgain:
    """Train a round of another volunteer again, for the server, between two of our own."""

    id: UUID


@dataclass(frozen=True, slots=True)
class Hold:
    """Stop training until told otherwise."""


@dataclass(frozen=True, slots=True)
class GoOn:
    """Train again after Hold."""


@dataclass(frozen=True, slots=True)
class StopTraining:
    """Save a checkpoint and end the training thread."""


@dataclass(frozen=True, slots=True)
class Show:
    """Tell the person something."""

    text: str
    level: Literal["info", "warning", "error"] = "info"
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """Say goodbye and end the program."""

    text: str
    exit_code: int = 0
    again: bool = False
    """Ask the server for something else to train."""


Instruction = (
    AskAssignment
    | FetchChunk
    | FetchWeights
    | Prepare
    | BeginTraining
    | AddChunk
    | RemoveChunk
    | TakeUp
    | Drop
    | SendUpdate
    | SendHeartbeat
    | TrainAgain
    | Hold
    | GoOn
    | StopTraining
    | Show
    | Leave
)


def key_of(instruction: Instruction) -> str:
    """Return what a failure of this instruction is counted under."""
    match instruction:
        case AskAssignment():
            return "assignment"
        case FetchChunk(link):
            return f"chunk {link.sha256}"
        case FetchWeights():
            return "weights"
        case SendUpdate():
            return "update"
        case SendHeartbeat():
            return "heartbeat"
        case _:
            return type(instruction).__name__
