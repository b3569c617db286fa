"""How often one token and one address may ask: buckets that fill again, in this process's memory.

In memory, since counting must cost less than what it saves. With several web processes each
counts for itself, so that what one may do grows with them: these bounds are there against what
is a hundred times too much, and no honest volunteer comes near them.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from django.http import HttpRequest
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from handcar.server import metrics
from handcar.server.accounts.models import Owner, Volunteer

REMEMBERED = 100_000
NETWORK_BITS = 64
"""Of an IPv6 address: what one household has at least."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """So many at once, and so many a second after."""

    at_once: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Limit:
    """What one token, and one address, may do; none is no limit."""

    token: Bucket | None = None
    address: Bucket | None = None


LIMITS: dict[str, Limit] = {
    # A class that joins at once behind one address, then a machine every three seconds.
    "joins": Limit(address=Bucket(1_200, 1 / 3)),
    # Rounds of a second bring a heartbeat each; a university's machines share an address.
    "heartbeats": Limit(Bucket(120, 4), Bucket(5_000, 500)),
    "updates": Limit(Bucket(120, 4), Bucket(5_000, 300)),
    # Pieces of an upload, over a line that breaks again and again.
    "uploads": Limit(Bucket(600, 20), Bucket(20_000, 1_000)),
    "assignments": Limit(Bucket(60, 1), Bucket(2_000, 50)),
    "reads": Limit(address=Bucket(5_000, 200)),
    "downloads": Limit(address=Bucket(50_000, 1_000)),
    # A data set of 100,000 chunks, published over a fast line.
    "owners": Limit(Bucket(20_000, 1_000)),
    # Tokens that nobody has.
    "strangers": Limit(address=Bucket(300, 5)),
}


class Buckets:
    """How full each bucket is. Those that nobody used for long are full, and forgotten."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: dict[Hashable, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, key: Hashable, bucket: Bucket) -> float:
        """Take one out; return 0, or in how many seconds there will be one."""
        now = self._clock()
        with self._lock:
            level, at = self._levels.get(key, (bucket.at_once, now))
            level = min(bucket.at_once, level + (now - at) * bucket.per_second)
            if level < 1.0:
                return (1.0 - level) / bucket.per_second
            if key not in self._levels and len(self._levels) >= REMEMBERED:
                self._forget()
            self._levels[key] = (level - 1.0, now)
        return 0.0

    def clear(self) -> None:
        """Fill all of them."""
        with self._lock:
            self._levels.clear()

    def _forget(self) -> None:
        """Forget the half that was used least lately."""
        oldest = sorted(self._levels, key=lambda key: self._levels[key][1])
        for key in oldest[: REMEMBERED // 2]:
            del self._levels[key]


buckets = Buckets()


def wait_s(request: HttpRequest | Request, kind: str, who: object = None) -> float:
    """Count a request; return 0 if it may go on, else in how many seconds it may."""
    limit = LIMITS[kind]
    if limit.token is not None and isinstance(who, Volunteer | Owner):
        wait = buckets.take((kind, who.pk), limit.token)
        if wait:
            return _refused(kind, wait)
    if limit.address is not None and (address := address_of(request)) is not None:
        wait = buckets.take((kind, address), limit.address)
        if wait:
            return _refused(kind, wait)
    return 0.0


def address_of(request: HttpRequest | Request) -> str | None:
    """Return who is counted as one; none for this machine itself.

    Behind a proxy it is who the proxy names. Where one is not named in the settings everyone
    seems to come from this machine: rather nobody is limited then than everybody.
    """
    given = BaseThrottle().get_ident(request)  # type: ignore[arg-type] # both have META
    try:
        address = ipaddress.ip_address(given.strip().partition("%")[0])
    except (ValueError, AttributeError):
        return str(given)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            network = ipaddress.ip_network((address, NETWORK_BITS), strict=False)
            return None if address.is_loopback else str(network)
        address = address.ipv4_mapped
    return None if address.is_loopback else str(address)


class Throttle(BaseThrottle):
    """One kind of limit, as a view names it: `throttle_classes = (limiting.of("joins"),)`."""

    kind = ""

    def allow_request(self, request: Request, view: object) -> bool:
        """Say whether the request may go on."""
        self._wait_s = wait_s(request, self.kind, request.user)
        return not self._wait_s

    def wait(self) -> float:
        """Return in how many seconds it may."""
        return math.ceil(self._wait_s)


def of(kind: str) -> type[Throttle]:
    """Return the throttle of a kind."""
    return type(f"Throttle_{kind}", (Throttle,), {"kind": kind})


def _refused(kind: str, wait: float) -> float:
    metrics.limited(kind)
    return wait
