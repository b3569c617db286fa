"""The small file that says what to simulate, checked.

docs/reference/scenarios.md explains each field. Two ways to say what lines carry: as shares
of a round, which holds at any scale, or as rates, where the coded bytes decide.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from handcar.errors import BadInput
from handcar.merging.rules import RULES, Rule, Starts

Share = Annotated[float, Field(ge=0, le=1)]
Range = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]]
Attack = Literal[
    "flip", "noise", "x10", "-x10", "replay", "zeros", "nan", "wrong labels", "alie", "backdoor"
]


class Part(BaseModel):
    """Base of all parts: immutable, and no field that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Volunteers(Part):
    """Who takes part: how many, how fast, how steadily."""

    count: Annotated[int, Field(ge=1, le=10_000)] = 8
    steps_per_second: Annotated[float, Field(gt=0)] = 10.0
    """The mean over all."""
    spread: Annotated[float, Field(ge=1)] = 10.0
    """The fastest is so many times as fast as the slowest; speeds lie evenly on a log scale."""
    leave: Share = 0.1
    """The chance that one leaves in the middle of a round, whose work is lost."""
    away_rounds: Annotated[float, Field(ge=0)] = 2.0
    """How long it stays away on average, in rounds."""


class Lines(Part):
    """What the volunteers' lines carry, spread evenly over each range and then jittered."""

    upload_share: Range | None = (0.05, 0.3)
    """Of a round, that sending an update takes."""
    download_share: Range | None = (0.02, 0.1)
    """Of a round, that fetching a version takes."""
    up_mbit_per_s: Range | None = None
    down_mbit_per_s: Range | None = None
    latency_s: Annotated[float, Field(ge=0)] = 0.05
    jitter: Share = 0.3

    @model_validator(mode="after")
    def _one_way(self) -> Lines:
        if (self.up_mbit_per_s is None) != (self.down_mbit_per_s is None):
            raise ValueError("give both up_mbit_per_s and down_mbit_per_s, or none of them")
        return self

    @property
    def has_rates(self) -> bool:
        """Whether the coded bytes decide how long things take."""
        return self.up_mbit_per_s is not None


class Data(Part):
    """How the records come to the volunteers."""

    chunks: Annotated[int, Field(ge=1)] = 64
    first: Annotated[int, Field(ge=1)] = 4
    """Chunks that each volunteer has at the start."""
    next_rounds: Annotated[float, Field(gt=0)] = 0.2
    """Each next chunk takes so many rounds."""


class Coding(Part):
    """How coarsely weights travel; none is exact float32."""

    up: Annotated[float, Field(gt=0, le=16)] | None = None
    down: Annotated[float, Field(gt=0, le=16)] | None = 1.4
    usual: bool = True
    """Take the product's own step for the model where `up` is not given."""


class Attackers(Part):
    """Those who send what is no honest work."""

    kind: Attack
    share: Share = 0.2
    honest_first: Annotated[int, Field(ge=0)] = 0
    """Rounds of honest work by which each earns its standing before it attacks."""


class Merging(Part):
    """By which rule versions are made and, for measuring, what to change of it."""

    rule: Literal["share", "average", "diloco", "fedbuff"] = "share"
    share_to_merge: Annotated[float, Field(gt=0, le=4)] | None = None
    clips: bool | None = None
    momentum: Share | None = None
    gain: Annotated[float, Field(gt=0)] | None = None

    def of_product(self) -> Rule:
        """Return the product's rule with what is changed."""
        changed = {
            name: value
            for name in ("share_to_merge", "clips", "momentum")
            if (value := getattr(self, name)) is not None
        }
        return replace(RULES[self.rule], **changed)


class Scenario(Part):
    """A whole simulation."""

    model: str | None = None
    """The model file, beside the scenario's own."""
    data: str | None = None
    """The data, if not where the model file says."""
    seed: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[int, Field(ge=1)] = 2000
    """Merged steps after which the training is over."""
    round_seconds: Annotated[float, Field(gt=0)] = 60.0
    volunteers: Volunteers = Volunteers()
    lines: Lines = Lines()
    records: Data = Data()
    coding: Coding = Coding()
    merging: Merging = Merging()
    rate_factor: Annotated[float, Field(gt=0)] | None = None
    """Multiple of the model file's learning rate; none leaves it to the effective volunteers."""
    optimizer: Literal["kept", "reset"] = "kept"
    """What a volunteer's inner optimizer remembers from round to round."""
    takes_up: Literal["next round", "at once"] = "at once"
    """When a volunteer goes on from a new version."""
    heartbeat_rounds: Annotated[float, Field(gt=0)] = 0.25
    """How often a volunteer asks for what is new, in rounds."""
    attackers: Attackers | None = None
    checks: Literal["none", "cheap", "all"] = "cheap"
    """What updates must pass before they count; `all` judges and audits them, and is slow."""
    points: Annotated[int, Field(ge=1, le=1000)] = 20
    """On how many versions the curve is measured."""

    @property
    def starts(self) -> Starts:
        """What a volunteer's next round starts from."""
        return RULES[self.merging.rule].starts


def read(path: Path) -> Scenario:
    """Return a scenario from its file. Raises BadInput with every problem, one a line."""
    try:
        return Scenario.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: can't be read: {error.strerror}") from error
    except ValidationError as error:
        lines = [f"{path}: {_place(one['loc'])}{one['msg']}" for one in error.errors()]
        raise BadInput("\n".join(lines)) from error


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) + ": " if location else ""
