"""What crashes leave behind: bytes that no row names. Looked for once a day."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from handcar.protocol import limits
from handcar.server import blobs, naming
from handcar.server.blobs_bucket import BucketBlobs
from handcar.server.catalog.models import BlobUpload
from handcar.server.naming import Names

OLD_S = 7 * 24 * 3600.0
"""Younger bytes may belong to a publication that is still going on."""
KINDS = ("public/", "private/", "incoming/")
"""Only under these, since a bucket may hold what is no business of ours."""


def sweep() -> None:
    """Remove old bytes without an owner, parts of uploads that were given up, and their rows."""
    named = naming.names()
    for path in _old(settings.HANDCAR_HOME.blobs, "*/*", OLD_S):
        if _is_orphan(blobs.PREFIX + path.name, named):
            _remove(path)
    for path in _old(settings.HANDCAR_HOME.uploads, "*.part", OLD_S):
        _remove(path)
    if (bucket := blobs.bucket()) is not None:
        sweep_bucket(bucket, named, timezone.now() - timedelta(seconds=OLD_S))
    before = timezone.now() - timedelta(seconds=max(OLD_S, limits.UPLOAD_EXPIRES_S))
    BlobUpload.objects.filter(announced_at__lt=before).delete()


def sweep_bucket(bucket: BucketBlobs, named: Names, before: datetime) -> None:
    """Remove from a bucket what nobody names since then. Raises StoreAway."""
    for kind in KINDS:
        for found in bucket.bucket.objects(bucket.prefix + kind):
            if found.modified < before and _is_forgotten(found.key, kind, named):
                bucket.bucket.remove(found.key)
        for unfinished in bucket.bucket.unfinished(bucket.prefix + kind):
            if unfinished.began < before:
                bucket.bucket.abort(unfinished.key, unfinished.id)


def _is_forgotten(key: str, kind: str, named: Names) -> bool:
    # Nothing that is still wanted arrives for so long: updates expire long before.
    return kind == "incoming/" or _is_orphan(blobs.PREFIX + key.rpartition("/")[2], named)


def _is_orphan(digest: str, named: Names) -> bool:
    # Asked again, since the names were read a while ago.
    return digest not in named.all and not naming.is_named(digest)


def _old(folder: Path, pattern: str, age_s: float) -> Iterator[Path]:
    before = time.time() - age_s
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                yield path


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
