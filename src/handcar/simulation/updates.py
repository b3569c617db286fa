"""What passes between simulated volunteers and their server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from handcar.merging.sketch import Sketch
from handcar.protocol.messages import UpdateState
from handcar.wire.layout import Flat


@dataclass(eq=False)
class Update:
    """One round's result, and what became of it."""

    id: UUID
    volunteer: int
    base_version: int
    steps: int
    seconds: float
    change: Flat
    """As it arrives."""
    bytes: int
    computed_again: Callable[[], Flat]
    """Gives what an auditor finds who makes the round again: what an honest one would send."""
    is_honest: bool = True
    state: UpdateState = "announced"
    version: int | None = None
    reason: str | None = None
    late_weight: float = 1.0
    factor: float = 1.0
    sketch: Sketch | None = None
    received_at: float = 0.0


@dataclass(frozen=True)
class Version:
    """What volunteers fetch."""

    number: int
    published: Flat
    published_at: float
    delta_bytes: int
    keyframe_bytes: int | None


@dataclass(frozen=True)
class Pace:
    """How far everyone is, as of some time: what schedules go by."""

    steps: float
    steps_per_second: float
    at: float
    rate_factor: float = 1.0
    """By how much inner rates grow with the volunteers."""

    def steps_at(self, now: float) -> float:
        """Return everyone's steps at a time, at this pace."""
        return self.steps + self.steps_per_second * (now - self.at)
