"""Links to what lies elsewhere: which are taken, and how those to private buckets are signed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.conf import settings

from handcar.protocol import problems
from handcar.server import blobs
from handcar.server.problems import Refusal
from handcar.stores import signing
from handcar.stores.signing import Signer

EXPIRES_S = 24 * 3600
"""For how long a signed link is good; whoever comes later asks the server again."""


def expect(url: str, digest: str) -> None:
    """Refuse what is no web address, and no object that this server may sign for.

    An object must be named by its digest: whoever does not know the bytes can have nothing
    signed, whatever else these credentials open.
    """
    if url.startswith(("http://", "https://")):
        return
    place = signing.parse(url)
    if place is None:
        raise Refusal(
            problems.BAD_REQUEST,
            f"{url[:200]}: a link must be an http or https address, or s3://bucket/name",
        )
    if place[1].rpartition("/")[2] != digest.removeprefix(blobs.PREFIX):
        raise Refusal(
            problems.BAD_REQUEST, f"{url[:200]}: the object must be named by its digest, {digest}"
        )
    if signer() is None:
        raise Refusal(
            problems.CONFLICT,
            "this server has no credentials to sign links to private buckets: whoever runs it sets "
            "HANDCAR_S3_KEY, HANDCAR_S3_SECRET, HANDCAR_S3_REGION and HANDCAR_S3_ENDPOINT. Without "
            "it use a public bucket, or --s3-links signed and publish again within seven days",
        )


def given(urls: Iterable[str], now: datetime) -> list[str]:
    """Return the links that a volunteer gets: those to private buckets signed.

    Signing is plain arithmetic here, without asking anyone, some ten microseconds a link. The
    time in it is the hour's, so that everyone gets the same link, which caches like.
    """
    by = signer()
    hour = now.replace(minute=0, second=0, microsecond=0)
    found = []
    for url in urls:
        place = signing.parse(url)
        if place is None:
            found.append(url)
        elif by is not None:
            found.append(by.sign(*place, hour, expires_s=EXPIRES_S))
    return found


def signer() -> Signer | None:
    """Return who signs; none when this server has no credentials."""
    signer: Signer | None = settings.HANDCAR_S3
    return signer
