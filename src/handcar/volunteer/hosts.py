"""How each host has served this machine: measured, remembered, and left in peace when it asks.

A host is the part of an address between the slashes, port included. What was measured is kept
over restarts in a small file; nothing depends on it.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from handcar import files
from handcar.errors import DiskFull
from handcar.volunteer.retry import pause

log = logging.getLogger(__name__)

MOST_KEPT = 64
NEW_COUNTS = 0.3
"""What the newest latency counts in the running mean."""
HALF_LIFE_BYTES = 8 * files.MB
"""A rate counts half after so many more bytes."""
TELLING_BYTES = 32 * files.KB
"""From fewer one learns of a host's delay, not of its rate."""
FAILURE_COSTS_S = 10.0
"""A failure in a row makes a host look so much slower than it is."""
EXPLORE = 0.05
"""Of all choices so many fall on another host, which may have become better."""
EXPLORE_NEW = 0.25
"""Of those that may fall on a host never measured."""
FIRST_REST_S = 2.0
"""A host that failed is left alone so long, then twice as long, up to a quarter of an hour."""


@dataclass(slots=True)
class Host:
    """What is known of one host; times by the system's clock, in seconds since 1970."""

    latency_s: float | None = None
    """From the question to the first byte of the answer."""
    bytes_per_s: float | None = None
    """Of one download, smoothed."""
    measured: float = 0.0
    """The bytes behind that, those of long ago counting less."""
    failures: int = 0
    """In a row."""
    rests_until: float = 0.0
    lied: bool = False
    """Whether it gave wrong bytes in this run."""

    def seconds_for(self, size: int, otherwise: float) -> float:
        """Return how long `size` bytes may take, at `otherwise` bytes a second if unknown."""
        rate = self.bytes_per_s or otherwise
        return (self.latency_s or 0.0) + size / rate + FAILURE_COSTS_S * self.failures


def host_of(url: str) -> str:
    """Return the host of an address, as it is counted here; never a name with a password."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2].lower()
    except ValueError:  # no address at all, as will be said when it is asked
        return url[:100]


class Hosts:
    """All hosts that this machine fetches from. Safe to use from several threads."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._path = path
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, and which mirror
        self._lock = threading.Lock()
        self._hosts = self._read()

    # -- which

    def choose(self, addresses: Sequence[str], size: int) -> str | None:
        """Return the address to fetch `size` bytes from; none while all of them rest.

        The one that should be fastest, the earlier one where nothing tells them apart, and now
        and then another. One that gave wrong bytes comes last.
        """
        with self._lock:
            awake = [one for one in addresses if self._host(one).rests_until <= self._clock()]
            honest = [one for one in awake if not self._host(one).lied] or awake
            if len(honest) < 2:
                return honest[0] if honest else None
            return self._explored(honest) or self._fastest(honest, size)

    def _fastest(self, addresses: Sequence[str], size: int) -> str:
        rates = [rate for one in addresses if (rate := self._host(one).bytes_per_s)]
        # Half of what is usual: new ones are tried by chance, or where the others fail.
        new = sum(rates) / len(rates) / 2 if rates else 1.0
        return min(addresses, key=lambda one: self._host(one).seconds_for(size, new))

    def _explored(self, addresses: Sequence[str]) -> str | None:
        new = [one for one in addresses if self._host(one).bytes_per_s is None]
        if 0 < len(new) < len(addresses) and self._rng.random() < EXPLORE_NEW:
            return self._rng.choice(new)
        if self._rng.random() < EXPLORE and len(new) < len(addresses):
            return self._rng.choice(addresses)
        return None

    def rest_s(self, addresses: Sequence[str]) -> float:
        """Return in how many seconds the first of these may be asked again."""
        with self._lock:
            ends = [self._host(one).rests_until for one in addresses]
            return max(0.0, min(ends, default=0.0) - self._clock())

    def seconds_for(self, addresses: Sequence[str], size: int, otherwise: float) -> float:
        """Return how long `size` bytes take from the best of these.

        `otherwise` is the rate, in bytes a second, of a host that was not measured.
        """
        with self._lock:
            return min(self._host(one).seconds_for(size, otherwise) for one in addresses)

    def bytes_per_s(self, address: str) -> float | None:
        """Return how fast a download from there has been; none where nothing was measured."""
        with self._lock:
            return self._host(address).bytes_per_s

    # -- what was seen

    def answered(self, address: str, seconds: float) -> None:
        """Note how long an answer took to begin."""
        with self._lock:
            host = self._host(address)
            before = seconds if host.latency_s is None else host.latency_s
            host.latency_s = (1 - NEW_COUNTS) * before + NEW_COUNTS * seconds

    def received(self, address: str, count: int, seconds: float) -> None:
        """Note what one download brought, in so many seconds of waiting for the network."""
        if count < TELLING_BYTES or seconds <= 0:
            return
        with self._lock:
            host = self._host(address)
            kept = host.measured * 0.5 ** (count / HALF_LIFE_BYTES)
            before = kept / host.bytes_per_s if host.bytes_per_s else 0.0
            host.measured = kept + count
            host.bytes_per_s = (kept + count) / (before + seconds)

    def served(self, address: str) -> None:
        """Note that a file came whole and right."""
        with self._lock:
            self._host(address).failures = 0

    def failed(self, address: str, *, asked_s: float | None = None, rest: bool = True) -> None:
        """Note a failure: the host rests as long as it asked for, else longer each time.

        Without `rest` it may be asked again at once, though others come first.
        """
        with self._lock:
            host = self._host(address)
            host.failures = min(host.failures + 1, 20)
            if not rest:
                return
            wait_s = pause(host.failures, self._rng, first_s=FIRST_REST_S)
            if asked_s is not None:
                # Never all at the same moment, and never sooner than asked.
                wait_s = asked_s * (1 + 0.1 * self._rng.random())
            host.rests_until = max(host.rests_until, self._clock() + wait_s)

    def lied(self, address: str) -> bool:
        """Note wrong bytes; say whether that is news of this host."""
        with self._lock:
            host = self._host(address)
            news, host.lied = not host.lied, True
            return news

    # -- what is kept

    def keep(self) -> None:
        """Write the file; a full disk must not end anything."""
        if self._path is None:
            return
        with self._lock:
            newest = list(self._hosts.items())[-MOST_KEPT:]
            kept = {name: asdict(host) for name, host in newest if host.latency_s is not None}
        with suppress(DiskFull):
            files.write_json(self._path, kept)

    def _host(self, address: str) -> Host:
        return self._hosts.setdefault(host_of(address), Host())

    def _read(self) -> dict[str, Host]:
        if self._path is None:
            return {}
        try:
            found = json.loads(self._path.read_bytes())
            return {str(name): self._remembered(facts) for name, facts in found.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is damaged and starts afresh: %s", self._path, error)
            return {}

    def _remembered(self, facts: dict[str, float | None]) -> Host:
        # Not that it failed or lied: a restart is a new chance. But what it asked for holds.
        rate = facts["bytes_per_s"]
        return Host(
            latency_s=float(facts["latency_s"] or 0.0),
            bytes_per_s=float(rate) if rate else None,
            measured=min(float(facts["measured"] or 0.0), HALF_LIFE_BYTES),
            rests_until=float(facts["rests_until"] or 0.0),
        )
