"""Which bytes the rows name: what must be kept, copied, or may be swept away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db import DEFAULT_DB_ALIAS
from django.db.models import Max, Q

from handcar.server.catalog.models import Chunk, TrainingModel
from handcar.server.rounds import series, services
from handcar.server.rounds.models import (
    ANNOUNCED,
    MERGED,
    UNFINISHED,
    Update,
    Version,
)

PUBLIC_FRAMES = ("delta_digest", "keyframe_digest", "export_digest")


@dataclass(frozen=True, slots=True)
class Names:
    """Digests that a database names, all at one moment."""

    public: frozenset[str]
    """What everyone may have."""
    private: frozenset[str]
    merged: frozenset[str]
    """Updates that may be looked at again, if their bytes are still kept."""

    @property
    def needed(self) -> frozenset[str]:
        """What must be there."""
        return self.public | self.private

    @property
    def all(self) -> frozenset[str]:
        """What is not to be swept away."""
        return self.needed | self.merged


def names(using: str = DEFAULT_DB_ALIAS) -> Names:
    """Return what the rows of a database name. Several reads: of one moment in a transaction."""
    public = set(_chunks("train", using)) | set(_versions(PUBLIC_FRAMES, using))
    public |= set(TrainingModel.objects.using(using).values_list("model_file_digest", flat=True))
    private = set(_chunks("validation", using)) | set(_versions(series.RAW, using))
    waiting = Update.objects.using(using).filter(state__in=set(UNFINISHED) - {ANNOUNCED})
    private |= set(waiting.values_list("sha256", flat=True))
    return Names(frozenset(public), frozenset(private - public), frozenset(_merged(using)))


def is_named(digest: str) -> bool:
    """Say whether anything still needs these bytes."""
    return (
        Chunk.objects.filter(digest=digest).exists()
        or TrainingModel.objects.filter(model_file_digest=digest).exists()
        or services.is_named(digest)
        or series.is_named(digest)
    )


def _chunks(split: str, using: str) -> Iterator[str]:
    rows = Chunk.objects.using(using).filter(split=split, on_server=True)
    return rows.values_list("digest", flat=True).iterator()


def _versions(fields: tuple[str, ...], using: str) -> Iterator[str]:
    for field in fields:
        rows = Version.objects.using(using).filter(Q(**{f"{field}__isnull": False}))
        yield from rows.values_list(field, flat=True).iterator()


def _merged(using: str) -> Iterator[str]:
    newest = Version.objects.using(using).order_by().values("model_id").annotate(n=Max("number"))
    for row in newest:
        oldest = row["n"] - services.MERGED_KEPT
        merged = Update.objects.using(using).filter(
            model_id=row["model_id"], state=MERGED, version__number__gt=oldest
        )
        yield from merged.values_list("sha256", flat=True).iterator()
