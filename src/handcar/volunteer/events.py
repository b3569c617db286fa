"""What a volunteer's state is told of: what was found, what came, what failed; plain data."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from handcar.protocol import limits
from handcar.protocol.messages import Assignment, HeartbeatReply, UpdateStatus
from handcar.volunteer.instructions import FetchChunk, Instruction

AT_ONCE = 2
"""Chunks at once, until it was measured what is worth it."""
SOON_S = 1.0
"""After a connection that stood was lost, the first pause."""


@dataclass(frozen=True, slots=True)
class Started:
    """The program runs; this is what it found on disk."""

    version: int | None = None
    chunks: frozenset[str] = frozenset()
    unsent: tuple[UUID, ...] = ()
    pending: tuple[UUID, ...] = ()
    assignment: Assignment | None = None


@dataclass(frozen=True, slots=True)
class Assigned:
    """The server said what to train."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class ChunkHere:
    """A chunk is on disk, verified and decoded."""

    digest: str
    at_once: int = AT_ONCE
    """How many chunks are worth fetching at once, by what was measured."""


@dataclass(frozen=True, slots=True)
class ChunksGone:
    """Of these chunks nothing is on disk any more: they made room, or were damaged."""

    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NoRoom:
    """A chunk was not fetched, since the disk's share is used up by chunks still to be used."""

    instruction: FetchChunk
    reason: str


@dataclass(frozen=True, slots=True)
class WeightsHere:
    """The weights of a version are on disk, verified; `merged` own updates are part of it."""

    version: int
    merged: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class UpdateMade:
    """A round ended; its update is on disk and in the journal."""

    id: UUID


@dataclass(frozen=True, slots=True)
class UpdateAnswered:
    """The server took an update's bytes, or said that it does not want them."""

    status: UpdateStatus


@dataclass(frozen=True, slots=True)
class HeartbeatAnswered:
    """The server answered a heartbeat."""

    reply: HeartbeatReply


@dataclass(frozen=True, slots=True)
class Audited:
    """A round of another volunteer was trained again, or could not be: `text` says it."""

    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """An instruction failed; `retry` false means that trying again won't help."""

    instruction: Instruction
    reason: str
    retry: bool = True
    after_s: float | None = None
    """How long the other side asked us to wait."""
    broke: bool = False
    """Whether a connection that stood was lost: a bad line, not a server in trouble."""

    @property
    def first_s(self) -> float:
        """The pause after the first failure; it doubles from there."""
        return SOON_S if self.broke else limits.RETRY_FIRST_S


@dataclass(frozen=True, slots=True)
class LinksExpired:
    """A chunk was not to be had by its links, which lead nowhere, or no longer."""

    instruction: FetchChunk
    reason: str


@dataclass(frozen=True, slots=True)
class UsedUp:
    """An instruction was not run to its end: what the person allows today is used up."""

    instruction: Instruction
    text: str
    after_s: float
    """Seconds until the next day begins."""


@dataclass(frozen=True, slots=True)
class TrainingEnded:
    """The training thread has stopped; a reason if it was not asked to."""

    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The person pressed Ctrl-C, or the system asks the program to end."""


Event = (
    Started
    | Assigned
    | ChunkHere
    | ChunksGone
    | NoRoom
    | WeightsHere
    | UpdateMade
    | UpdateAnswered
    | HeartbeatAnswered
    | Audited
    | Failed
    | LinksExpired
    | UsedUp
    | TrainingEnded
    | Tick
    | StopAsked
)
