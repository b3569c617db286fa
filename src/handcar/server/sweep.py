"""What crashes leave behind: bytes that no row names. Looked for once a day."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from handcar.protocol import limits
from handcar.server import blobs
from handcar.server.catalog.models import BlobUpload, Chunk, TrainingModel
from handcar.server.rounds import series
from handcar.server.rounds.models import UNFINISHED, Update

OLD_S = 7 * 24 * 3600.0
"""Younger bytes may belong to a publication that is still going on."""


def sweep() -> None:
    """Remove old bytes without an owner, parts of uploads that were given up, and their rows."""
    for path in _old(settings.HANDCAR_HOME.blobs, "*/*", OLD_S):
        if not is_named(blobs.PREFIX + path.name):
            _remove(path)
    for path in _old(settings.HANDCAR_HOME.uploads, "*.part", OLD_S):
        _remove(path)
    before = timezone.now() - timedelta(seconds=max(OLD_S, limits.UPLOAD_EXPIRES_S))
    BlobUpload.objects.filter(announced_at__lt=before).delete()


def is_named(digest: str) -> bool:
    """Say whether anything still needs these bytes."""
    return (
        Chunk.objects.filter(digest=digest).exists()
        or TrainingModel.objects.filter(model_file_digest=digest).exists()
        or Update.objects.filter(sha256=digest, state__in=UNFINISHED).exists()
        or series.is_named(digest)
    )


def _old(folder: Path, pattern: str, age_s: float) -> Iterator[Path]:
    before = time.time() - age_s
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                yield path


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
