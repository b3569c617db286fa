"""Publish, pause, finish, and speak to volunteers.

A model's state changes only in `move` here and in what `rounds` builds on it.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from handcar import files
from handcar.errors import StateConflict
from handcar.protocol import messages, problems
from handcar.protocol.messages import (
    BlobAnnouncement,
    ChunkEntry,
    Manifest,
    MessageRequest,
    PublishRequest,
)
from handcar.server import blobs
from handcar.server.accounts.models import Owner
from handcar.server.catalog import links, modelfiles
from handcar.server.catalog.modelfiles import Facts
from handcar.server.catalog.models import (
    BlobUpload,
    Chunk,
    Dataset,
    Message,
    Mirror,
    TrainingModel,
)
from handcar.server.problems import Refusal
from handcar.server.uploads import Upload

FROM_STATES: dict[str, tuple[str, ...]] = {
    "pending": ("preparing", "paused"),
    "paused": ("pending",),
    "finished": ("pending", "paused"),
    "failed": ("preparing",),
}
"""Which states a model may come from: finished and failed are for good."""

Here = dict[str, int]
"""The sizes of those chunks whose bytes are here, by digest: asked before any transaction."""


# -- publishing ------------------------------------------------------------------------------


def publish(owner: Owner, request: PublishRequest) -> tuple[TrainingModel, bool]:
    """Take a model and its data set, and say whether it is new.

    The same content again changes nothing but the links of its chunks.
    """
    facts = modelfiles.read(request.model_file.encode())
    if facts.dataset != request.manifest.name:
        raise Refusal(
            problems.BAD_REQUEST,
            f"the model file names the data set {facts.dataset}, the manifest "
            f"{request.manifest.name}: they must be the same",
        )
    here = blobs.sizes(chunk.sha256 for chunk in request.manifest.chunks)
    _expect_chunks(request.manifest, here)
    blobs.put(facts.canonical, public=True)
    blobs.make_public(
        chunk.sha256
        for chunk in request.manifest.chunks
        if chunk.split == "train" and _is_here(chunk, here)
    )
    try:
        return _note(owner, request, facts, here)
    except IntegrityError:  # another request has just made one of the same name
        return _note(owner, request, facts, here)


def _note(
    owner: Owner, request: PublishRequest, facts: Facts, here: Here
) -> tuple[TrainingModel, bool]:
    digest = files.digest(facts.canonical)
    with transaction.atomic():
        dataset = _dataset(owner, request.manifest, here)
        model = TrainingModel.objects.filter(id=facts.name).first()
        if model is None:
            return _create(owner, facts, dataset, digest), True
        _expect_same(model, owner, digest, dataset)
    return model, False


def _create(owner: Owner, facts: Facts, dataset: Dataset, digest: str) -> TrainingModel:
    return TrainingModel.objects.create(
        id=facts.name,
        description=facts.description,
        model_file=facts.canonical.decode(),
        model_file_digest=digest,
        model_file_size=len(facts.canonical),
        dataset=dataset,
        owner=owner,
        weights=facts.weights,
        batch_size=facts.batch_size,
        round_steps=facts.round_steps,
        round_seconds=facts.round_seconds,
        records_wanted=None if facts.epochs is None else int(facts.epochs * dataset.records),
    )


def _expect_same(model: TrainingModel, owner: Owner, digest: str, dataset: Dataset) -> None:
    same = model.model_file_digest == digest and model.dataset_id == dataset.pk
    if not same or model.owner_id != owner.pk:
        raise Refusal(
            problems.CONFLICT,
            f"a model named {model.id} is here already, with other content: "
            "change `name` in the model file",
        )


def _dataset(owner: Owner, manifest: Manifest, here: Here) -> Dataset:
    dataset = Dataset.objects.filter(name=manifest.name).first()
    content = content_digest(manifest)
    if dataset is None:
        return _create_dataset(owner, manifest, content, here)
    if dataset.content_digest != content or dataset.owner_id != owner.pk:
        raise Refusal(
            problems.CONFLICT,
            f"a data set named {manifest.name} is here already, with other content: "
            "choose another name for it",
        )
    _update_links(dataset, manifest, here)
    return dataset


def _create_dataset(owner: Owner, manifest: Manifest, content: str, here: Here) -> Dataset:
    dataset = Dataset.objects.create(
        name=manifest.name,
        description=manifest.description,
        licence=manifest.licence,
        content_digest=content,
        owner=owner,
        **_sizes(manifest),
    )
    Chunk.objects.bulk_create(
        [_chunk(dataset, index, entry, here) for index, entry in enumerate(manifest.chunks)],
        batch_size=500,
    )
    return dataset


def _sizes(manifest: Manifest) -> dict[str, int]:
    train = [chunk for chunk in manifest.chunks if chunk.split == "train"]
    return {
        "chunks": len(train),
        "size": sum(chunk.size for chunk in train),
        "records": sum(chunk.records for chunk in train),
        "first_size": train[0].size,
    }


def _chunk(dataset: Dataset, index: int, entry: ChunkEntry, here: Here) -> Chunk:
    return Chunk(
        dataset=dataset,
        index=index,
        split=entry.split,
        digest=entry.sha256,
        size=entry.size,
        records=entry.records,
        decoded=entry.decoded,
        file_name=entry.file_name,
        codec=entry.codec,
        urls=list(entry.urls),
        on_server=_is_here(entry, here),
    )


def _is_here(entry: ChunkEntry, here: Here) -> bool:
    # An owner may store it here as well as elsewhere: then this server is one mirror more.
    return here.get(entry.sha256) == entry.size


def _update_links(dataset: Dataset, manifest: Manifest, here: Here) -> None:
    moved = []
    for chunk in Chunk.objects.filter(dataset=dataset):
        entry = manifest.chunks[chunk.index]
        now = (list(entry.urls), chunk.on_server or _is_here(entry, here))
        if now != (chunk.urls, chunk.on_server):
            chunk.urls, chunk.on_server = now
            moved.append(chunk)
    Chunk.objects.bulk_update(moved, ["urls", "on_server"], batch_size=500)


def content_digest(manifest: Manifest) -> str:
    """Return the digest over what the chunks hold, wherever they lie."""
    rows = [
        [chunk.sha256, chunk.size, chunk.records, chunk.codec, chunk.split, chunk.file_name]
        for chunk in manifest.chunks
    ]
    return "sha256:" + hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _expect_chunks(manifest: Manifest, here: Here) -> None:
    """Refuse a manifest whose bytes nobody could fetch, or that holds nothing to train on."""
    if not any(chunk.split == "train" for chunk in manifest.chunks):
        raise Refusal(problems.BAD_REQUEST, "the data set has no chunk to train on")
    for chunk in manifest.chunks:
        for url in chunk.urls:
            links.expect(url, chunk.sha256)
        # The server reads validation chunks itself, so they must be here in any case.
        if chunk.urls and chunk.split == "train":
            continue
        if not _is_here(chunk, here):
            raise Refusal(
                problems.CONFLICT,
                f"{chunk.file_name} ({chunk.sha256}, {chunk.size} bytes) is not here: "
                "send its bytes first (POST /blobs)",
            )


# -- changing --------------------------------------------------------------------------------


def owned(owner: Owner, model_id: str) -> TrainingModel:
    """Return a model that this owner may change."""
    model = TrainingModel.objects.filter(id=model_id).first()
    if model is None:
        raise no_model(model_id)
    if model.owner_id != owner.pk and not owner.is_superuser:
        raise Refusal(problems.FORBIDDEN, f"{model_id} belongs to another owner")
    return model


def no_model(model_id: str) -> Refusal:
    """Say that there is no such model."""
    return Refusal(problems.NOT_FOUND, f"no model is named {model_id}; `handcar list` shows all")


def move(model_id: str, state: str, *, failure: str | None = None) -> None:
    """Change a model's state; a StateConflict when it may not come from where it is."""
    models = TrainingModel.objects.filter(id=model_id, state__in=FROM_STATES[state])
    if models.update(state=state, failure=failure) != 1:
        now = TrainingModel.objects.filter(id=model_id).values_list("state", flat=True).first()
        raise StateConflict(f"{model_id} is {now}, and can't become {state} from there")


# -- bytes -----------------------------------------------------------------------------------


def announce_blob(owner: Owner, announcement: BlobAnnouncement) -> Upload:
    """Note that an owner will send these bytes."""
    if not blobs.present(announcement.sha256) and not blobs.room_for(announcement.size):
        raise Refusal(
            problems.SERVER_FULL, f"the server has no room for {announcement.size} more bytes"
        )
    BlobUpload.objects.update_or_create(
        owner=owner, digest=announcement.sha256, defaults={"size": announcement.size}
    )
    return blob_upload(owner, announcement.sha256)


def blob_upload(owner: Owner, digest: str) -> Upload:
    """Return an owner's upload that was announced."""
    row = BlobUpload.objects.filter(owner=owner, digest=digest).first()
    if row is None:
        raise Refusal(problems.NOT_FOUND, "these bytes were not announced: POST /blobs first")
    # Each owner has a part file of its own: one can't spoil what another sends.
    name = digest.removeprefix(blobs.PREFIX)
    return Upload(f"blob-{owner.pk}-{name}", row.size, digest, asks=True)


# -- mirrors of the versions ----------------------------------------------------------------


def keep_mirrors(model: TrainingModel, told: dict[str, list[str]]) -> None:
    """Keep where else a model's bytes are; no address takes back what was told."""
    for digest, urls in told.items():
        for url in urls:
            links.expect(url, digest)
    with transaction.atomic():
        for digest, urls in told.items():
            if urls:
                Mirror.objects.update_or_create(model=model, digest=digest, defaults={"urls": urls})
            else:
                Mirror.objects.filter(model=model, digest=digest).delete()


def mirrors(model_id: str, now: datetime) -> dict[str, tuple[str, ...]]:
    """Return where else a model's bytes are, by digest."""
    rows = Mirror.objects.filter(model_id=model_id).values_list("digest", "urls")
    return {digest: tuple(links.given(urls, now)) for digest, urls in rows}


# -- messages --------------------------------------------------------------------------------


def send_message(owner: Owner, request: MessageRequest) -> Message:
    """Say something to those who train a model, or to everyone."""
    if request.model_id is None and not owner.is_superuser:
        raise Refusal(problems.FORBIDDEN, "only the server's own owner may speak to everyone")
    model = owned(owner, request.model_id) if request.model_id else None
    return Message.objects.create(
        text=request.text,
        level=request.level,
        link=request.link,
        order=request.order,
        model=model,
        owner=owner,
        sent_at=timezone.now(),
    )


def messages_to(model_id: str) -> QuerySet[Message]:
    """Return what was said to those who train a model, and to everyone, oldest first."""
    to_it = Q(model__isnull=True) | Q(model_id=model_id)
    return Message.objects.filter(to_it).order_by("id")


def as_message(row: Message) -> messages.Message:
    """Return a message as the protocol says it."""
    return messages.Message.model_validate(row, from_attributes=True)
