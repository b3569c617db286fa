"""The frames of a model's versions: made, listed, let go.

W are the exact weights that the server merges into, P the published ones that every holder
of a version has. A delta codes W' - P coarsely, so P follows W with what was rounded off
still to come: the server's own error feedback.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection
from datetime import datetime, timedelta

import numpy as np
from django.db.models import Max, Q, QuerySet, Sum
from django.utils import timezone

from handcar.errors import Corrupt
from handcar.protocol import messages, problems
from handcar.protocol.messages import Export, Frame, Link, Series
from handcar.server import blobs
from handcar.server.catalog import modelfiles
from handcar.server.catalog import services as catalog
from handcar.server.catalog.models import Mirror, TrainingModel
from handcar.server.problems import Refusal
from handcar.server.rounds.models import Version
from handcar.wire import container, frames
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Flat, Layout

DELTA_STEP = 1.4
"""k of the step codec for deltas."""
DELTAS_MOST = 20
"""Deltas between two keyframes at most."""
DELTAS_SHARE = 0.5
"""A keyframe is due when the deltas since the last come to this share of its size."""
RAW_KEPT = 2
"""Versions whose raw weights are kept."""
EXPORTS_KEPT = timedelta(days=1)
FRAMES_KEPT = timedelta(minutes=30)
"""How long a frame that is no longer listed can still be fetched."""
DIGESTS = (
    "delta_digest",
    "keyframe_digest",
    "export_digest",
    "master_digest",
    "published_digest",
    "reference_digest",
    "momentum_digest",
)
RAW = ("master_digest", "published_digest", "reference_digest", "momentum_digest")


# -- raw weights -----------------------------------------------------------------------------


def raw(digest: str | None) -> Flat:
    """Return weights from the server's own store, as they were put; not to be changed in place.

    Raises Corrupt.
    """
    if digest is None:
        raise Corrupt("the raw weights of this version are gone")
    flat = blobs.read_array(digest).view("<f4").astype(np.float32, copy=False)
    flat.flags.writeable = False
    return flat


def put_raw(weights: Flat) -> str:
    """Keep weights exactly and return their digest."""
    return blobs.put(np.ascontiguousarray(weights, dtype="<f4").view(np.uint8).data)


# -- making versions -------------------------------------------------------------------------


def first_version(model: TrainingModel, weights: Flat, now: datetime) -> Version:
    """Return version 0, its bytes stored; the caller saves the row."""
    weights = frames.round_keyframe(weights)
    digest = put_raw(weights)
    keyframe = frames.encode_keyframe(FrameFacts("keyframe", model.pk, 0, digest), weights)
    return Version(
        model=model,
        number=0,
        weights_sha256=digest,
        keyframe_digest=blobs.put(keyframe, public=True),
        keyframe_size=len(keyframe),
        begin_bytes=len(keyframe),
        master_digest=digest,
        published_digest=digest,
        published_at=now,
    )


def encode_next(
    model: TrainingModel, base: Version, master: Flat, layout: Layout, *, k: float = DELTA_STEP
) -> Version:
    """Return the version after `base`, its bytes stored; the caller describes and saves it."""
    published = raw(base.published_digest)
    facts = FrameFacts("delta", model.pk, base.number + 1)
    coded = frames.encode_difference(
        facts, frames.difference(master, published, layout), layout, k=k
    )
    is_keyframe = keyframe_is_due(model, len(coded))
    delta, published, digest = _finished(coded, published, layout, rounded=is_keyframe)
    version = Version(
        model=model,
        number=base.number + 1,
        weights_sha256=digest,
        delta_digest=blobs.put(delta, public=True),
        delta_size=len(delta),
        deltas_bytes=base.deltas_bytes + len(delta),
        begin_bytes=base.begin_bytes + len(delta),
        master_digest=put_raw(master),
        published_digest=digest,
    )
    if is_keyframe:
        _add_keyframe(version, published)
    return version


def _finished(
    coded: bytes, published: Flat, layout: Layout, *, rounded: bool
) -> tuple[bytes, Flat, str]:
    """Return a delta that says what it leads to, known only after decoding it.

    And just that, stored, and its digest.
    """
    header, sections = container.unpack(coded)
    header["rounded"] = rounded
    delta = container.pack(header, [bytes(section) for section in sections])
    weights = frames.lead(delta, published, layout)[1]
    header["weights_sha256"] = digest = put_raw(weights)  # what names a version, too
    return container.pack(header, [bytes(section) for section in sections]), weights, digest


def _add_keyframe(version: Version, published: Flat) -> None:
    facts = FrameFacts("keyframe", version.model_id, version.number, version.weights_sha256)
    keyframe = frames.encode_keyframe(facts, published)
    version.keyframe_digest = blobs.put(keyframe, public=True)
    version.keyframe_size = version.begin_bytes = len(keyframe)


def keyframe_is_due(model: TrainingModel, delta_bytes: int) -> bool:
    """Say whether the next version gets a keyframe beside its delta of so many bytes."""
    last = _keyframes(model.pk)[0]
    since = Version.objects.filter(model=model, number__gt=last.number)
    count = since.count() + 1
    size = (since.aggregate(size=Sum("delta_size"))["size"] or 0) + delta_bytes
    return count >= DELTAS_MOST or size > DELTAS_SHARE * (last.keyframe_size or 0)


# -- listing ---------------------------------------------------------------------------------


def newest_number(model_id: str) -> int:
    """Return the newest version's number; -1 while there is none."""
    newest = Version.objects.filter(model_id=model_id).aggregate(newest=Max("number"))["newest"]
    return -1 if newest is None else newest


def newest(model_id: str) -> Version:
    """Return the newest version; a Refusal while there is none."""
    version = Version.objects.filter(model_id=model_id).order_by("-number").first()
    if version is None:
        raise Refusal(
            problems.NOTHING_TO_TRAIN, f"{model_id} is still being prepared: try again in a minute"
        )
    return version


def of(model_id: str, root: str) -> Series:
    """Return the newest keyframe and every delta that is kept, oldest first."""
    if not TrainingModel.objects.filter(id=model_id).exists():
        raise catalog.no_model(model_id)
    number = newest(model_id).number
    # What is published while we read is left out, so that the list is of one moment.
    rows = Version.objects.filter(model_id=model_id, number__lte=number)
    keyframe = rows.filter(keyframe_digest__isnull=False).order_by("-number")[0]
    deltas = rows.filter(delta_digest__isnull=False, number__gt=_listed_after(model_id))
    mirrors = catalog.mirrors(model_id, timezone.now())
    listed = _listed(model_id, number, keyframe, deltas, root)
    return listed.model_copy(
        update={
            "keyframe": _mirrored(listed.keyframe, mirrors),
            "deltas": tuple(_mirrored(frame, mirrors) for frame in listed.deltas),
        }
    )


def way_to(model: TrainingModel, numbers: Collection[int], root: str) -> Series:
    """Return the frames that lead to some versions; a Refusal when they are no longer kept."""
    first, last = min(numbers), max(numbers)
    keyframe = _keyframes(model.pk).filter(number__lte=first).first()
    after = keyframe.number if keyframe else first
    deltas = Version.objects.filter(model=model, number__gt=after, number__lte=last)
    if keyframe is None or deltas.filter(delta_digest__isnull=True).exists():
        raise Refusal(problems.GONE, f"the frames that lead to version {first} are no longer kept")
    return _listed(model.pk, last, keyframe, deltas, root)


def _listed(
    model_id: str, newest: int, keyframe: Version, deltas: QuerySet[Version], root: str
) -> Series:
    """Return a keyframe and the deltas after it as they are told."""
    return Series(
        model_id=model_id,
        newest=newest,
        keyframe=_frame(
            keyframe, "keyframe", keyframe.keyframe_digest, keyframe.keyframe_size, root
        ),
        deltas=tuple(
            _frame(row, "delta", row.delta_digest, row.delta_size, root)
            for row in deltas.order_by("number")
        ),
    )


def _mirrored(frame: messages.Frame, mirrors: dict[str, tuple[str, ...]]) -> messages.Frame:
    return frame.model_copy(update={"mirrors": mirrors.get(frame.sha256, ())})


def mirrored(model: TrainingModel) -> set[str]:
    """Return the digests of what an owner may hold as well: the frames listed, the model file."""
    listed = of(model.pk, "")
    frames = {frame.sha256 for frame in (listed.keyframe, *listed.deltas)}
    return {model.model_file_digest, *frames}


def _listed_after(model_id: str) -> int:
    """Return the version after which deltas are listed: the older of the last two keyframes.

    Deltas from before it may still be kept, for those who were told of them a moment ago.
    """
    return int(list(_keyframes(model_id)[:2])[-1].number)


def link(digest: str | None, size: int | None, root: str) -> Link:
    """Return the link to bytes that this server holds for everyone."""
    if digest is None or size is None:
        raise Corrupt("bytes that are gone can't be linked to")
    return Link(url=blobs.link(digest, root), sha256=digest, size=size)


def _frame(
    version: Version, kind: str, digest: str | None, size: int | None, root: str
) -> messages.Frame:
    return Frame(
        **link(digest, size, root).model_dump(),
        version=version.number,
        kind=kind,  # type: ignore[arg-type] # keyframe or delta, checked by pydantic
        weights_sha256=version.weights_sha256,
    )


def _keyframes(model_id: str) -> QuerySet[Version]:
    """Return the versions that have a keyframe, newest first."""
    rows = Version.objects.filter(model_id=model_id, keyframe_digest__isnull=False)
    return rows.order_by("-number")


# -- exporting -------------------------------------------------------------------------------


def export(model: TrainingModel, number: int | None, root: str) -> Export:
    """Return a keyframe of one version, made if need be, and the model file that it fits."""
    version = newest(model.pk) if number is None else _version(model, number)
    if version.keyframe_digest is None and version.export_digest is None:
        _make_export(model, version)
    if version.keyframe_digest is not None:
        weights = link(version.keyframe_digest, version.keyframe_size, root)
    else:
        weights = link(version.export_digest, version.export_size, root)
    return Export(version=version.number, weights=weights, configuration=configuration(model, root))


def configuration(model: TrainingModel, root: str) -> Link:
    """Return the link to a model's file."""
    found = link(model.model_file_digest, model.model_file_size, root)
    mirrors = catalog.mirrors(model.pk, timezone.now()).get(found.sha256, ())
    return found.model_copy(update={"mirrors": mirrors})


def _version(model: TrainingModel, number: int) -> Version:
    version = Version.objects.filter(model=model, number=number).first()
    if version is None:
        raise Refusal(problems.NOT_FOUND, f"{model.pk} has no version {number}")
    return version


def _make_export(model: TrainingModel, version: Version) -> None:
    weights = weights_of(model, version)
    facts = FrameFacts("keyframe", model.pk, version.number, version.weights_sha256)
    frame = frames.encode_keyframe(facts, weights)
    version.export_digest = blobs.put(frame, public=True)
    version.export_size = len(frame)
    version.exported_at = timezone.now()
    version.save(update_fields=("export_digest", "export_size", "exported_at"))


def can_be_reached(model: TrainingModel, version: Version) -> bool:
    """Say whether enough is kept of a version to have its weights again."""
    if version.published_digest is not None:
        return True
    before = _keyframes(model.pk).filter(number__lte=version.number).first()
    if before is None:
        return False
    between = Version.objects.filter(
        model=model, number__gt=before.number, number__lte=version.number
    )
    return not between.filter(delta_digest__isnull=True).exists()


def weights_of(
    model: TrainingModel, version: Version, *, held: tuple[int, Flat] | None = None
) -> Flat:
    """Return the published weights of a version from what is still kept of it.

    Those of a version before it, if they are at hand, can shorten the way.
    """
    if version.published_digest is not None:
        return raw(version.published_digest)
    before = _keyframes(model.pk).filter(number__lte=version.number).first()
    if before is None:
        raise Refusal(
            problems.GONE, f"the frames that lead to version {version.number} are no longer kept"
        )
    if held is None or not before.number <= held[0] <= version.number:
        layout = modelfiles.layout(model.model_file)
        data = blobs.read(str(before.keyframe_digest))
        held = before.number, frames.decode_keyframe(data, layout)[1]
    return _replay(model, *held, version)


def _replay(model: TrainingModel, number: int, weights: Flat, version: Version) -> Flat:
    """Return the weights of a version from those of one before it."""
    layout = modelfiles.layout(model.model_file)
    deltas = Version.objects.filter(model=model, number__gt=number, number__lte=version.number)
    for row in deltas.order_by("number"):
        if row.delta_digest is None:
            raise Refusal(
                problems.GONE,
                f"the frames that lead to version {version.number} are no longer kept",
            )
        weights = frames.lead(blobs.read(row.delta_digest), weights, layout)[1]
    return weights


# -- letting go ------------------------------------------------------------------------------


def prune(model: TrainingModel) -> None:
    """Let go of what nobody needs: rows first, then bytes, so that no row names what is gone.

    Kept are the raw weights of the last two versions, the last two keyframes, and the
    deltas after the older of them: who was away for less than that fetches deltas only.
    """
    rows = Version.objects.filter(model=model)
    gone = _clear(
        rows.filter(number__lte=newest_number(model.pk) - RAW_KEPT),
        *RAW,
    )
    # Who was told of a frame a moment ago is still fetching it: a frame goes only when it has
    # been off the list for a while.
    settled = _keyframes(model.pk).filter(published_at__lt=timezone.now() - FRAMES_KEPT)
    if len(last_two := settled[:2]) == 2:
        oldest = last_two[1].number
        gone += _clear(rows.filter(number__lt=oldest), "keyframe_digest")
        gone += _clear(rows.filter(number__lte=oldest), "delta_digest")
    gone += _clear(rows.filter(exported_at__lt=timezone.now() - EXPORTS_KEPT), "export_digest")
    for digest in gone:
        if not is_named(digest):
            Mirror.objects.filter(digest=digest).delete()
            blobs.remove(digest)


def is_named(digest: str) -> bool:
    """Say whether a version still names these bytes."""
    names = [Q(**{field: digest}) for field in DIGESTS]
    return Version.objects.filter(functools.reduce(operator.or_, names)).exists()


def _clear(rows: QuerySet[Version], *fields: str) -> list[str]:
    digests: list[str] = []
    for field in fields:
        named = rows.filter(**{f"{field}__isnull": False})
        digests += named.values_list(field, flat=True)
        named.update(**{field: None})
    return digests
