"""Updates that go straight into the bucket, without passing through a web worker.

A volunteer gets links that are good for one object named by its update, in one piece or in
parts; nobody gets a link to where verified bytes lie. `complete` acknowledges only what is
there, in full, and right: the bucket has checked the digest that was signed into the link, or,
for parts and for stores that don't check, the object is read once. docs/decisions/0017-bytes.md
"""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import datetime

from handcar.errors import StoreAway
from handcar.files import MB
from handcar.protocol import problems
from handcar.protocol.messages import DirectPart, DirectUpload
from handcar.server import blobs
from handcar.server.blobs_bucket import EXPIRES_S, BucketBlobs, hour
from handcar.server.problems import Refusal
from handcar.server.uploads import Upload
from handcar.stores.bucket import CHECKSUM, Head, Part, checksum_of
from handcar.stores.signing import Wanted

log = logging.getLogger(__name__)

SINGLE_BYTES = 5 * MB
"""Up to so much goes in one piece: S3 takes no smaller parts."""
PARTS_MOST = 200


def offer(upload: Upload, now: datetime, complete_url: str) -> DirectUpload | None:
    """Return where the bytes of an update are to be sent; none where there is no bucket."""
    bucket = blobs.bucket()
    if bucket is None:
        return None
    parts, headers = _parts(bucket, upload, now)
    return DirectUpload(
        complete_url=complete_url,
        part_bytes=part_bytes(upload.size),
        headers=headers,
        parts=tuple(parts),
    )


def complete(upload: Upload) -> bool:
    """Keep an update whose bytes are all in the bucket; say whether they were.

    To repeat it is harmless until `done`. Raises StoreAway, and Refusal (BAD_DIGEST) when they
    are wrong, which throws them away.
    """
    bucket = blobs.bucket()
    if bucket is None:
        return False
    head = bucket.bucket.head(bucket.incoming(upload.key)) or _joined(bucket, upload)
    if head is None:
        return False
    if head.size != upload.size or _digest(bucket, upload, head) != upload.digest:
        forget(upload)
        raise Refusal(
            problems.BAD_DIGEST,
            f"expected {upload.size} bytes with the digest {upload.digest}; what came was thrown "
            "away: send it again",
        )
    return bucket.adopt_incoming(upload.key, upload.digest, head.etag)


def done(upload: Upload) -> None:
    """Let go of what came, once it is received."""
    bucket = blobs.bucket()
    if bucket is not None:
        with suppress(StoreAway):  # the sweep finds it
            bucket.bucket.remove(bucket.incoming(upload.key))


def forget(upload: Upload) -> None:
    """Throw away what came; what can't be now is left for the sweep."""
    bucket = blobs.bucket()
    if bucket is None:
        return
    key = bucket.incoming(upload.key)
    try:
        bucket.bucket.remove(key)
        for unfinished in bucket.bucket.unfinished(key) if _is_large(upload) else ():
            bucket.bucket.abort(unfinished.key, unfinished.id)
    except StoreAway as error:
        log.warning("%s is left for the sweep: %s", key, error)


def part_bytes(size: int) -> int:
    """Return how large the parts of so many bytes are, all but the last."""
    if size <= SINGLE_BYTES:
        return size
    return max(SINGLE_BYTES, -(-size // PARTS_MOST))


def _is_large(upload: Upload) -> bool:
    return upload.size > SINGLE_BYTES


# -- links -----------------------------------------------------------------------------------


def _parts(
    bucket: BucketBlobs, upload: Upload, now: datetime
) -> tuple[list[DirectPart], dict[str, str]]:
    """Return a link for each part that is not there, and the headers to send with it."""
    if not _is_large(upload):
        headers = {CHECKSUM: checksum_of(upload.digest)}
        wanted = Wanted("PUT", headers=tuple(headers.items()))
        return [DirectPart(number=1, url=_sign(bucket, upload, now, wanted))], headers
    id = _begun(bucket, upload) or bucket.bucket.begin(bucket.incoming(upload.key))
    there = {part.number for part in _right(bucket, upload, id)}
    count = -(-upload.size // part_bytes(upload.size))
    missing = [number for number in range(1, count + 1) if number not in there]
    return [_part(bucket, upload, now, id, number) for number in missing], {}


def _part(bucket: BucketBlobs, upload: Upload, now: datetime, id: str, number: int) -> DirectPart:
    wanted = Wanted("PUT", query=(("partNumber", str(number)), ("uploadId", id)))
    return DirectPart(number=number, url=_sign(bucket, upload, now, wanted))


def _sign(bucket: BucketBlobs, upload: Upload, now: datetime, wanted: Wanted) -> str:
    key = bucket.incoming(upload.key)
    return bucket.bucket.sign(key, hour(now), expires_s=EXPIRES_S, wanted=wanted)


# -- what is there ---------------------------------------------------------------------------


def _begun(bucket: BucketBlobs, upload: Upload) -> str | None:
    """Return the id of its upload in parts; the bucket knows, so that no row need be kept."""
    key = bucket.incoming(upload.key)
    return next((one.id for one in bucket.bucket.unfinished(key) if one.key == key), None)


def _right(bucket: BucketBlobs, upload: Upload, id: str) -> list[Part]:
    """Return the parts that are there, each with its full size."""
    each = part_bytes(upload.size)

    def size_of(number: int) -> int:
        return min(each, upload.size - each * (number - 1))

    parts = bucket.bucket.parts(bucket.incoming(upload.key), id)
    return [part for part in parts if part.size == size_of(part.number)]


def _joined(bucket: BucketBlobs, upload: Upload) -> Head | None:
    """Make one object of an update's parts, when all are there."""
    id = _begun(bucket, upload) if _is_large(upload) else None
    if id is None:
        return None
    parts = _right(bucket, upload, id)
    if sum(part.size for part in parts) != upload.size:
        return None
    key = bucket.incoming(upload.key)
    bucket.bucket.complete(key, id, parts)
    return bucket.bucket.head(key)


def _digest(bucket: BucketBlobs, upload: Upload, head: Head) -> str | None:
    """Return the digest of what came, by the bucket's own check where it makes one."""
    if head.digest is not None and not _is_large(upload) and bucket.bucket.checks_digests:
        return head.digest
    return bucket.bucket.digest(bucket.incoming(upload.key), head.etag)
