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
HostName = Annotated[str, Field(pattern=limits.HOST_PATTERN)]
Text = Annotated[str, Field(max_length=limits.TEXT_LENGTH)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]

ModelState = Literal["preparing", "pending", "paused", "finished", "failed"]
UpdateState = Literal["announced", "received", "checked", "merged", "refused", "expired"]
Order = Literal["carry on", "pause", "stop", "switch", "upgrade"]
Starts = Literal["carried", "newest", "waits"]
"""From the newest version and the own updates that it lacks; from the newest version without
them; or the same, after a wait until the own update is merged or refused."""


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
    mirrors: tuple[str, ...] = ()
    """Where else the same bytes are."""


class ChunkLink(Link):
    """One file of the data set."""

    file_name: str
    dataset_name: str
    records: Count
    codec: str
    decoded: Count | None = None
    """Bytes that it takes of a volunteer's disk, as its owner says."""


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
    longest_steps: Annotated[int, Field(ge=1)] | None = None
    """A round of so many steps stands still while own updates wait to be merged: what is trained
    too far from the others is lost in a short training. None: it goes on meanwhile."""
    records_done: Count | None = None
    """Records merged into the newest version that the same answer names, where the schedule of
    the learning rate is; none: each volunteer follows it by its own steps."""
    others_records_per_second: Seconds = 0.0
    """What all the others train together; 0 for a volunteer that is alone."""
    rate_factor: Annotated[float, Field(gt=0, le=limits.RATE_FACTOR)] = 1.0
    """What the learning rate of the model file is multiplied by."""


class Signature(Body):
    """An Ed25519 signature and the key that it is checked with, in hex digits."""

    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


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
    starts: Starts = "carried"
    """What a round starts from, by the model's merging rule."""
    heartbeat_s: Seconds = limits.HEARTBEAT_S
    signature: Signature | None = None
    """The server's, under model, model file and chunks (protocol/signature.py)."""


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
    liars: Annotated[tuple[HostName, ...], Field(max_length=8)] = ()
    """Hosts that gave wrong bytes of a chunk or a frame to this machine in this run."""
    audits_on: Annotated[str, Field(max_length=16)] | None = None
    """Keras's backend, from a volunteer that trains rounds of others again when it is asked to."""
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


class DirectPart(Body):
    """One part of an update, and the link to PUT it to."""

    number: Annotated[int, Field(ge=1, le=10_000)]
    url: Annotated[str, Field(max_length=4_000)]


class DirectUpload(Body):
    """How to send an update straight to the server's store: PUT each part, then say so."""

    complete_url: str
    """POST there, without a body, when all parts are sent; the answer is an UpdateStatus."""
    part_bytes: Annotated[int, Field(ge=1, le=limits.FRAME_BYTES)]
    """Of each part but the last: part n begins at byte (n - 1) * part_bytes."""
    headers: Annotated[dict[str, str], Field(max_length=8)] = {}
    """To send with each part."""
    parts: Annotated[tuple[DirectPart, ...], Field(max_length=10_000)] = ()
    """Those that are not there yet."""


class UpdateStatus(Body):
    """Where one update is in its life."""

    id: UUID
    state: UpdateState
    offset: Count = 0
    """Bytes that the server holds; meaningful while announced."""
    upload_url: str | None = None
    direct: DirectUpload | None = None
    """A way for the bytes that does not lead through the server; `upload_url` goes too."""
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
    audit: UUID | None = None
    """A round of somebody else's to train again: `GET /audits/{id}` tells which."""
    heartbeat_s: Seconds = limits.HEARTBEAT_S


class DrawnChunk(Body):
    """A pass over a chunk of which some records were drawn."""

    chunk: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """The first digits of its digest."""
    opening: Count
    """Numbers the passes that one run of the client began."""
    draw: Count
    """The draw before which it was opened; the first draw for those that were open already."""
    taken: Count = 0
    """Records of this pass that were drawn before the first draw."""


class Drawn(Body):
    """Batches as one run of the client drew them, so that they can be drawn again."""

    seed: Count
    """With the number of the draw, it gives which chunk each record is of; with that of the
    opening, the order of a chunk's records."""
    draw: Count
    """The number of the first draw: the first of those that make the first piece."""
    skip: Annotated[int, Field(ge=0, lt=limits.BATCHES_A_PIECE)] = 0
    """Batches of the first piece that were used before."""
    pieces: Annotated[
        tuple[
            tuple[
                Annotated[int, Field(ge=1, le=limits.STEPS_AN_UPDATE)],
                Annotated[int, Field(ge=1, le=limits.BATCHES_A_PIECE)],
            ],
            ...,
        ],
        Field(min_length=1, max_length=limits.RECIPE_RUNS),
    ]
    """How many pieces of how many batches, in turn."""
    chunks: Annotated[tuple[DrawnChunk, ...], Field(min_length=1, max_length=limits.RECIPE_CHUNKS)]
    steps: Annotated[int, Field(ge=1, le=limits.STEPS_AN_UPDATE)]


class RatePlan(Body):
    """Where a round is in the schedule: at `first` + s * `pace` after s of its steps."""

    first: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] = 0.0
    pace: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 1.0
    factor: Annotated[float, Field(gt=0, le=limits.RATE_FACTOR)] = 1.0


class Start(Body):
    """What a round started from, or went on from in its middle, and for how long."""

    base_version: Count
    carried: Annotated[tuple[UUID, ...], Field(max_length=64)] = ()
    """Own updates, not in the base version, that were added to it."""
    steps: Annotated[int, Field(ge=0, le=limits.STEPS_AN_UPDATE)]
    """Made from there."""


class Recipe(Body):
    """How a round was trained, so that who has its chunks can train it again.

    It begins at the base version and the carried updates, added in their order; what layers
    draw by chance follows from the announcement's seed. Where it has earlier starts it began
    at the first of them, and what its steps had changed went over to each next one.
    """

    backend: Annotated[str, Field(max_length=16)]
    """Keras's: on another one, layers such as Dropout draw other numbers."""
    drawn: Annotated[tuple[Drawn, ...], Field(min_length=1, max_length=limits.RECIPE_PARTS)]
    """More than one where the client was restarted in the round."""
    rate: RatePlan = RatePlan()
    after: Annotated[tuple[UUID, ...], Field(max_length=limits.RECIPE_ROUNDS)] = ()
    """The own rounds before this one since the optimizer began afresh, oldest first; then the
    volunteer also owed nothing of what coding had dropped."""
    update_step: Annotated[float, Field(gt=0, le=16)] = 2.0
    """k of the step codec, with which the update is coded."""
    earlier_starts: Annotated[tuple[Start, ...], Field(max_length=limits.RECIPE_STARTS)] = ()
    """Oldest first; the last of all is the announcement's own, with the steps that are left."""


class UpdateAnnouncement(Body):
    """`POST /updates`: an update that I would like to send. Repeating it is harmless."""

    id: UUID
    model_id: Name
    base_version: Count
    carried: Annotated[tuple[UUID, ...], Field(max_length=64)] = ()
    """Own updates, not in the base version, that were added to it where the round started."""
    seed: Count
    steps: Annotated[int, Field(ge=1, le=limits.STEPS_AN_UPDATE)]
    records: Annotated[int, Field(ge=1, le=2**53)]
    seconds: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
    chunks: Count = 0
    size: Annotated[int, Field(ge=1, le=limits.FRAME_BYTES)]
    sha256: Digest
    loss: Number | None = None
    recipe: Recipe | None = None

    def starts(self) -> tuple[Start, ...]:
        """Return all that the round started from, oldest first: its own comes last."""
        earlier = self.recipe.earlier_starts if self.recipe else ()
        left = max(0, self.steps - sum(one.steps for one in earlier))
        own = Start(base_version=self.base_version, carried=self.carried, steps=left)
        return (*earlier, own)


# -- audits ----------------------------------------------------------------------------------


class SentUpdate(Body):
    """An update as it was sent; its bytes are at `GET /audits/{audit}/updates/{id}`."""

    id: UUID
    sha256: Digest
    size: Annotated[int, Field(ge=1, le=limits.FRAME_BYTES)]


class AuditTask(Body):
    """`GET /audits/{id}`: what one volunteer trains again of another one's rounds.

    What the other one sent of the last round is not told: who has not trained can't answer.
    """

    model_id: Name
    seconds_left: Seconds
    """Until nobody waits for the answer any more."""
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """Of the image to answer with."""
    rounds: Annotated[
        tuple[UpdateAnnouncement, ...],
        Field(min_length=1, max_length=limits.RECIPE_ROUNDS + 1),
    ]
    """The one in question comes last, after those that its optimizer remembered."""
    series: Series
    """Frames that lead to the versions that the rounds began with."""
    updates: tuple[SentUpdate, ...] = ()
    """Those that the rounds carried, or that came before the last."""


class AuditAnswer(Body):
    """`POST /audits/{id}`: what came of it, or why it could not be done."""

    image: (
        Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=limits.IMAGE_LENGTH)]
        | None
    ) = None
    """What an honest volunteer would have sent of the last round, as 2,048 float32, little end
    first, in base 64: its count sketch under the key (`merging/sketch.py`)."""
    reason: Text | None = None


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
    decoded: Annotated[int, Field(ge=1, le=2**32)] | None = None
    """Bytes once decoded."""
    file_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
    codec: Annotated[str, Field(max_length=32)]
    split: Literal["train", "validation"] = "train"
    urls: Annotated[tuple[str, ...], Field(max_length=8)] = ()
    """Where the owner stores it; none means on the server. `s3://bucket/name` is an object of
    a private bucket, which the server signs links to."""


class LinkRequest(Body):
    """`POST /links`: would you sign a link to this object, `s3://bucket/name`?"""

    url: Annotated[str, Field(max_length=1000)]
    sha256: Digest


class SignedLink(Body):
    """The link that volunteers would get."""

    url: str


class MirrorsRequest(Body):
    """`POST /models/{id}/mirrors`: I hold these frames, or the model file, there as well."""

    links: Annotated[
        dict[Digest, Annotated[tuple[str, ...], Field(max_length=8)]], Field(max_length=1000)
    ]
    """Addresses by digest; no address takes back those that were told."""


class MirrorsReply(Body):
    """Those that volunteers are told of; others are not listed any more."""

    told: tuple[Digest, ...] = ()


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


class RollbackRequest(Body):
    """`POST /models/{id}/rollback`: go back to the weights of an earlier version."""

    version: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """None means the one before the newest."""


class RollbackReply(Body):
    """The version that the next one will have the weights of; it comes within moments."""

    version: Count
    newest: Count
    """The newest version when it was asked."""


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
    rolled_back_to: int | None = None
    """The earlier version whose weights this one has again."""
    undone: bool = False
    """Whether a later version went back to before this one."""


class VolunteerInfo(Body):
    """One machine as the status page shows it."""

    name: str
    activity: str
    version: int
    steps_per_second: float
    loss: float | None = None
    chunks: int
    updates_merged: int
    updates_refused: int = 0
    standing: str = "new"
    """What its work counts by now: new, known, trusted, or under suspicion."""
    audits: Count = 0
    """Rounds of others that it trained again for the server."""
    bytes_up: int
    bytes_down: int
    heard_at: datetime


class RefusalInfo(Body):
    """One update that did not count, and why."""

    at: datetime
    name: str
    """Of the machine."""
    steps: Count
    reason: str


class AlertInfo(Body):
    """Something that the model's owner should look at."""

    kind: str
    text: str
    raised_at: datetime
    ended_at: datetime | None = None
    """None while it goes on."""


class ModelStatus(ModelSummary):
    """`GET /models/{id}`: the summary, its history and who trains."""

    failure: str | None = None
    history: tuple[VersionInfo, ...] = ()
    training: tuple[VolunteerInfo, ...] = ()
    updates_waiting: Count = 0
    updates_refused: Count = 0
    bytes_up: Count = 0
    """Bytes of all the updates received."""
    refusals: tuple[RefusalInfo, ...] = ()
    """The last ones, newest first."""
    alerts: tuple[AlertInfo, ...] = ()
    """Those that go on, and those that ended lately, newest first."""
