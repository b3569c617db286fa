"""The bodies of requests and answers under /api/v1.

Field names of the first three answers come from the note of 2016 that this project
started from. Times are RFC 3339 in UTC, sizes bytes, digests `sha256:` and 64 hex digits.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from handcar.protocol import limits

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=limits.NAME_LENGTH)]
Text = Annotated[str, Field(max_length=limits.TEXT_LENGTH)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]

ModelState = Literal["preparing", "pending", "paused", "finished", "failed"]
UpdateState = Literal["announced", "received", "checked", "merged", "refused", "expired"]
Order = Literal["carry on", "pause", "stop", "switch", "upgrade"]


class Body(BaseModel):
    """Base of all bodies: immutable, and deaf to fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")


# -- joining ---------------------------------------------------------------------------------


class JoinRequest(Body):
    """`POST /volunteers`: who I am; no account is needed."""

    name: Annotated[str, Field(min_length=1, max_length=limits.NAME_LENGTH)]
    client_version: Annotated[str, Field(max_length=32)]
    protocol_version: Annotated[str, Field(max_length=16)] = limits.PROTOCOL_VERSION


class JoinReply(Body):
    """The volunteer's id and the token that it sends from now on."""

    volunteer_id: UUID
    token: str


# -- what to train ---------------------------------------------------------------------------


class DatasetSummary(Body):
    """Name and description of a data set."""

    name: str
    description: str = ""


class ModelSummary(Body):
    """One row of `GET /list`."""

    id: Name
    dataset: DatasetSummary
    model_description: str
    state: ModelState
    weights: Count
    """How many numbers the model has."""
    version: int
    """The newest version; -1 while the server prepares version 0."""
    dataset_bytes: Count
    dataset_records: Count
    begin_bytes: Count
    """What a newcomer downloads before the first step: weights and one chunk."""
    batch_size: int
    volunteers: Count
    """Machines training now."""
    updates_merged: Count
    records_merged: Count
    records_wanted: Count | None = None
    """How many records the whole training takes; none means until its owner stops it."""
    loss: Number | None = None
    accuracy: Number | None = None


class Link(Body):
    """Bytes to fetch: where, how many, and what they must be."""

    url: str
    sha256: Digest
    size: Count


class ChunkLink(Link):
    """One file of the data set."""

    file_name: str
    dataset_name: str
    mirrors: tuple[str, ...] = ()
    records: Count
    codec: str


class Frame(Link):
    """One frame of a version series: a keyframe, or the delta from the version before."""

    version: Count
    kind: Literal["keyframe", "delta"]
    weights_sha256: Digest
    """What the weights are after it."""


class Series(Body):
    """`GET /series/{model}`: the newest keyframe, every delta that is kept, oldest first."""

    model_id: Name
    newest: int
    keyframe: Frame
    deltas: tuple[Frame, ...] = ()


class RoundLimits(Body):
    """How long a round is, while the link and the server keep up with it."""

    max_steps: Annotated[int, Field(ge=1, le=limits.ROUND_STEPS)] = limits.ROUND_STEPS
    max_seconds: Annotated[float, Field(gt=0, le=limits.ROUND_S)] = limits.ROUND_S
    min_seconds: Annotated[float, Field(ge=0, le=limits.ROUND_S)] = 0.0
    """The shortest round with which the server keeps up, everyone counted."""


class Assignment(Body):
    """`GET /model` and `GET /default`: what to train, with what."""

    id: Name
    state: ModelState
    configuration: Link
    """The model file, in its canonical form."""
    dataset: tuple[ChunkLink, ...]
    """Training chunks in the order in which this volunteer should fetch them."""
    series: Series
    round: RoundLimits
    update_step: Annotated[float, Field(gt=0, le=16)] = 2.0
    """k of the step codec for updates: the quantisation step in units of a tensor's rms."""
    heartbeat_s: Seconds = limits.HEARTBEAT_S


# -- while training --------------------------------------------------------------------------


class Heartbeat(Body):
    """`POST /heartbeat`: I am here, and this is how far I am."""

    model_id: Name
    version: int
    step: Count
    """Steps made on this model so far, on this machine."""
    records: Count
    steps_per_second: Seconds = 0.0
    loss: Number | None = None
    chunks: Count = 0
    """Training chunks on disk."""
    activity: Literal["downloading", "training", "paused", "leaving"] = "training"
    bytes_up: Count = 0
    bytes_down: Count = 0
    pending: Annotated[tuple[UUID, ...], Field(max_length=64)] = ()
    """Own updates whose fate is not known yet."""
    seen_messages: Annotated[tuple[int, ...], Field(max_length=64)] = ()
    client_version: Annotated[str, Field(max_length=32)] = ""
    protocol_version: Annotated[str, Field(max_length=16)] = limits.PROTOCOL_VERSION


class Message(Body):
    """A text from the server's people, shown once."""

    id: int
    level: Literal["info", "warning", "error"] = "info"
    text: Text
    link: str | None = None
    order: Order = "carry on"
    sent_at: datetime


class UpdateStatus(Body):
    """Where one update is in its life."""

    id: UUID
    state: UpdateState
    offset: Count = 0
    """Bytes that the server holds; meaningful while announced."""
    upload_url: str | None = None
    version: int | None = None
    """The version it was merged in."""
    reason: str | None = None
    """Why it was refused or not wanted, for a person."""


class HeartbeatReply(Body):
    """Where everything stands.

    `newest` was read before the states in `updates`: an update that they call merged in a
    version above `newest` is not in `newest`, and one not called merged is not in it either.
    """

    newest: int
    model_state: ModelState
    order: Order = "carry on"
    reason: str | None = None
    messages: tuple[Message, ...] = ()
    updates: tuple[UpdateStatus, ...] = ()
    round: RoundLimits | None = None
    """How long rounds are from now on; none: as before."""
    heartbeat_s: Seconds = limits.HEARTBEAT_S


class UpdateAnnouncement(Body):
    """`POST /updates`: an update that I would like to send. Repeating it is harmless."""

    id: UUID
    model_id: Name
    base_version: Count
    carried: Annotated[tuple[UUID, ...], Field(max_length=64)] = ()
    """Own updates, not in the base version, that were added to it at the start of the round."""
    seed: Count
    steps: Annotated[int, Field(ge=1, le=limits.STEPS_AN_UPDATE)]
    records: Annotated[int, Field(ge=1, le=2**53)]
    seconds: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
    chunks: Count = 0
    size: Annotated[int, Field(ge=1, le=limits.FRAME_BYTES)]
    sha256: Digest
    loss: Number | None = None


# -- what the owner asks ---------------------------------------------------------------------


class BlobAnnouncement(Body):
    """`POST /blobs`: bytes that I would like to store, before they are sent."""

    sha256: Digest
    size: Annotated[int, Field(ge=1, le=limits.FRAME_BYTES)]


class BlobStatus(Body):
    """Whether the bytes are here already, and where and from which offset to send them."""

    sha256: Digest
    present: bool
    offset: Count = 0
    upload_url: str | None = None


class ChunkEntry(Body):
    """One chunk of a manifest."""

    sha256: Digest
    size: Annotated[int, Field(ge=1, le=limits.CHUNK_BYTES)]
    records: Annotated[int, Field(ge=1)]
    file_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
    codec: Annotated[str, Field(max_length=32)]
    split: Literal["train", "validation"] = "train"
    urls: Annotated[tuple[str, ...], Field(max_length=8)] = ()
    """Where the owner stores it; none means on the server."""


class Manifest(Body):
    """A data set as its owner publishes it."""

    name: Name
    description: Text = ""
    licence: Text = ""
    chunks: Annotated[tuple[ChunkEntry, ...], Field(min_length=1, max_length=100_000)]


class PublishRequest(Body):
    """`POST /models`: a model file (as text) and the manifest of its data set."""

    model_file: Annotated[str, Field(max_length=limits.MODEL_FILE_BYTES)]
    manifest: Manifest


class ModelChange(Body):
    """`PATCH /models/{id}`: pause, go on, finish."""

    state: Literal["pending", "paused", "finished"]


class MessageRequest(Body):
    """`POST /messages`: say something to volunteers."""

    text: Annotated[str, Field(min_length=1, max_length=limits.TEXT_LENGTH)]
    level: Literal["info", "warning", "error"] = "info"
    link: Annotated[str, Field(pattern=r"^https?://", max_length=500)] | None = None
    order: Order = "carry on"
    model_id: Name | None = None
    """Only to those who train this model; none means to everyone."""


class Export(Body):
    """`GET /models/{id}/export`: the newest version as a keyframe, and the model file."""

    version: Count
    weights: Link
    configuration: Link


class VersionInfo(Body):
    """One version of a model, as history tells it."""

    number: int
    published_at: datetime
    updates: Count
    records_merged: Count
    loss: Number | None = None
    accuracy: Number | None = None
    delta_bytes: Count
    keyframe_bytes: Count | None = None


class VolunteerInfo(Body):
    """One machine as the status page shows it."""

    name: str
    activity: str
    version: int
    steps_per_second: float
    loss: float | None = None
    chunks: int
    updates_merged: int
    bytes_up: int
    bytes_down: int
    heard_at: datetime


class ModelStatus(ModelSummary):
    """`GET /models/{id}`: the summary, its history and who trains."""

    failure: str | None = None
    history: tuple[VersionInfo, ...] = ()
    training: tuple[VolunteerInfo, ...] = ()
    updates_waiting: Count = 0
    updates_refused: Count = 0
    bytes_up: Count = 0
    """Bytes of all the updates received."""
