"""Fetching what the server's links name: from the best of its mirrors, and from another one
in mid-file when that is slow, gone, or a liar.

    Downloads    all downloads of one run; how many at once are worth it
    _Fetch       one file: which address next, and what is to be thrown away
    _Watch       one attempt at one address: measures it, and leaves it when it is too slow
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2

from handcar import files
from handcar.errors import (
    Corrupt,
    Forbidden,
    HandcarError,
    LinkGone,
    Problem,
    TooSlow,
    Unreachable,
    WebPage,
)
from handcar.protocol import limits
from handcar.protocol.messages import Link
from handcar.stores import links
from handcar.stores.http import Download, Pace, Patience
from handcar.volunteer.hosts import Hosts, host_of
from handcar.volunteer.line import Line

log = logging.getLogger(__name__)

AT_ONCE, MOST_AT_ONCE = 2, 4
"""Downloads at once to begin with, and at most: no host is asked for more at a time."""
FASTER = 1.1
"""One more at a time must bring so many times the bytes."""
TELLING_S = 2.0
SETTLED = 16
"""After one more brought nothing it is tried again that many measurements later."""
LOOK_S = 2.0
"""A download's rate is judged over so many seconds."""
SLOW = 0.25
"""A mirror is left when it gives less than that of what another one should give."""
FLOOR_BYTES_PER_S = 50_000
"""Below that it is worth to see what a mirror gives that was never measured."""
IMPATIENT_S = 10.0
"""How long to wait for a byte where there is another mirror."""
PROGRESS_BYTES = 64 * files.KB
"""A connection that broke after so many bytes is made anew at once."""
HOST = re.compile(limits.HOST_PATTERN)
FAULTS = (Corrupt, Unreachable, Problem, Forbidden)


class AtOnce:
    """How many downloads at once: one more while that brings more bytes a second in all.

    On a thin line two are enough, so that one is under way while the next is asked for; where
    each stream is slow, as over an ocean, more bring more.
    """

    def __init__(self) -> None:
        self.count = AT_ONCE
        self._rates: dict[int, float] = {}
        self._settled = 0

    def note(self, bytes_per_s: float) -> None:
        """Take what so many together brought, and choose anew."""
        before = self._rates.get(self.count, bytes_per_s)
        self._rates[self.count] = rate = (before + bytes_per_s) / 2
        fewer = self._rates.get(self.count - 1)
        if fewer is not None and rate < FASTER * fewer:
            self.count -= 1
            self._settled = SETTLED
            self._rates = {self.count: fewer}
        elif self._settled:
            self._settled -= 1
        elif self.count < MOST_AT_ONCE:
            self.count += 1


@dataclass
class _Stretch:
    """What all downloads together brought since some moment."""

    since: float
    count: int = 0
    files: int = 0


class Downloads:
    """All downloads of one run. Safe to use from several threads."""

    def __init__(
        self,
        client: httpx2.Client,
        line: Line,
        hosts: Hosts,
        *,
        say: Callable[[str], None],
        stop: threading.Event | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.client = client
        self.line = line
        self.hosts = hosts
        self.stop = stop or threading.Event()
        self.patience = patience or Patience()
        self.liars: list[str] = []
        """The hosts that gave wrong bytes, in the order in which that was found out."""
        self._say = say
        self._lock = threading.Lock()
        self._told = 0
        self._at_once = AtOnce()
        self._under_way = 0
        self._stretch = _Stretch(0.0)

    @property
    def at_once(self) -> int:
        """How many downloads at once are worth it, by what was measured."""
        return self._at_once.count

    @property
    def under_way(self) -> int:
        """How many downloads are under way."""
        return self._under_way

    def fetch(self, link: Link, path: Path) -> None:
        """Fetch what a link names to `path`, verified, from wherever it comes best.

        Raises Unreachable when trying again later may help (what came is kept), LinkGone when
        fresh links may, Corrupt when the bytes are wrong everywhere, Problem when every server
        says no, Forbidden when none may be asked, UsedUp, DiskFull.
        """
        download = Download(
            self.client,
            path,
            size=link.size,
            sha256=link.sha256,
            on_bytes=self._received,
            stop=self.stop,
        )
        if download.is_done():
            return
        with self.line.transfer("down"):
            self._begin()
            try:
                _Fetch(self, link, download).run()
            finally:
                self._end()

    def expected(self, addresses: list[str]) -> float:
        """Return the bytes a second that the best of these should give, if it were asked now."""
        # As if each had been measured alone: what is shared out now is the line.
        sharing = max(1, self._under_way)
        line = (self.line.bytes_per_s("down") or 0.0) / sharing
        new = max(line, FLOOR_BYTES_PER_S / SLOW)
        rates = (self.hosts.bytes_per_s(one) for one in addresses)
        return max((new if rate is None else rate / sharing for rate in rates), default=0.0)

    def found_out(self, address: str) -> None:
        """Note that a host gave wrong bytes; the person hears of it once."""
        if not self.hosts.lied(address):
            return
        host = host_of(address)
        self.liars.append(host)
        self._say(
            f"{host} gave other bytes than the data set's list says. They were thrown away; "
            "from now on it is asked last."
        )

    def untold_liars(self) -> list[str]:
        """Return the hosts found out since the last call, for the server to hear of once."""
        with self._lock:
            news, self._told = self.liars[self._told :], len(self.liars)
        return [host for host in news if HOST.fullmatch(host)][:8]

    def _received(self, count: int) -> None:
        with self._lock:
            self._stretch.count += count
        self.line.received(count)

    def _begin(self) -> None:
        with self._lock:
            if self._under_way == 0:
                self._stretch = _Stretch(time.monotonic())
            self._under_way += 1

    def _end(self) -> None:
        with self._lock:
            self._under_way -= 1
            self._stretch.files += 1
            stretch, now = self._stretch, time.monotonic()
            seconds = now - stretch.since
            # Two at least: the time between two downloads counts as well.
            if stretch.files >= 2 and seconds >= TELLING_S:
                self._at_once.note(stretch.count / seconds)
                self._stretch = _Stretch(now)


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stretch of the file, and who gave it: none for an earlier run's."""

    address: str | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Suspect:
    """A stretch of a file that came out wrong, by someone who may be to blame for that."""

    segment: _Segment
    sha256: str


class _Fetch:
    """One file on its way, from one address or several."""

    def __init__(self, downloads: Downloads, link: Link, download: Download) -> None:
        self._all = downloads
        self._link = link
        self._download = download
        self._addresses = list(dict.fromkeys((link.url, *link.mirrors)))
        self._left: set[str] = set()
        """The addresses that are not asked again for this file."""
        self._slow: list[str] = []
        """Those that were left for being slow only."""
        self._settled = False
        """Whether to stay with whoever is asked, however slow: all others were tried."""
        self._alone = False
        """Whether the file has to come from one address only, so that a liar shows."""
        self._faults: list[HandcarError] = []
        self._segments: list[_Segment] = []
        self._suspects: list[_Suspect] = []
        self._broke_at: dict[str, int] = {}
        """How much each address had given when its connection last broke."""
        self._odd: list[str] = []
        """Those that could not go on from where the file was."""
        self._later: list[str] = []
        """The addresses that may give it another time."""
        if offset := download.offset():
            self._segments.append(_Segment(None, 0, offset))

    def run(self) -> None:
        """Fetch it. Raises what `Downloads.fetch` does."""
        while not self._finished():
            address = self._next()
            if self._alone:
                self._begin_anew_unless_from(address)
            try:
                self._take(address, address)
            except FAULTS as fault:
                if self._all.stop.is_set():
                    raise
                self._note(address, fault)

    # -- which address

    def _next(self) -> str:
        """Return the address to ask. Raises the most hopeful fault when none is left."""
        size = self._download.size - self._download.offset()
        open_ones = [one for one in self._addresses if one not in self._left]
        chosen = self._all.hosts.choose(open_ones, size)
        if chosen is None and self._slow:
            # Better slowly than not at all; the one that was left last may be the slowest.
            self._settled = True
            self._left -= set(self._slow)
            chosen = self._all.hosts.choose(self._slow, size)
            self._slow = []
        if chosen is None and self._odd:
            # Perhaps they can't go on from the middle, or the part is of no good.
            self._begin_anew()
            self._left -= set(self._odd)
            chosen = self._all.hosts.choose(self._odd, self._download.size)
            self._odd = []
        if chosen is None:
            raise self._verdict(open_ones)
        return chosen

    def _others(self, address: str) -> list[str]:
        """Return the other addresses that could be asked now."""
        hosts = self._all.hosts
        others = [one for one in self._addresses if one not in self._left and one != address]
        return [one for one in others if not hosts.rest_s([one])]

    def _verdict(self, resting: list[str]) -> HandcarError:
        """Return the fault to tell: what one server refuses for good, another may have later."""
        later = [*self._later, *resting]
        if resting and not self._later:
            hosts = ", ".join(sorted({host_of(one) for one in resting}))
            self._faults.append(Unreachable(f"{hosts} is to be left alone for now"))
        kinds = (LinkGone, Unreachable, Corrupt, Problem, Forbidden)
        fault = min(
            self._faults, key=lambda fault: [isinstance(fault, kind) for kind in kinds].index(True)
        )
        if isinstance(fault, Unreachable):
            fault.retry_after_s = self._all.hosts.rest_s(later)
        return fault

    # -- one attempt

    def _take(self, address: str, url: str) -> None:
        """Fetch the rest, or a part of it, of `address`, which a page may have led to `url`."""
        watch = _Watch(self._all, address, self._compared(address))
        silent_s = self._all.patience.silent_s
        if self._others(address):
            silent_s = min(IMPATIENT_S, silent_s)
        try:
            self._download.take(url, watch, silent_s=silent_s)
        except WebPage as page:
            self._pass_page(address, url, page)
        finally:
            watch.close()
            self._note_segment(address)

    def _compared(self, address: str) -> Callable[[], float]:
        """Return what tells how fast another mirror should be, in bytes a second."""
        if self._settled or self._alone:
            return lambda: 0.0
        others = self._others(address)
        return lambda: self._all.expected(others) if others else 0.0

    def _pass_page(self, address: str, url: str, page: WebPage) -> None:
        behind = links.follow_page(page.head, page.url) if url == address else None
        if behind is None:
            raise page
        self._take(address, behind)

    def _note_segment(self, address: str) -> None:
        start, end = self._download.began_at, self._download.offset()
        if start is None:
            return
        self._segments = [segment for segment in self._segments if segment.end <= start]
        if end > start:
            self._segments.append(_Segment(address, start, end))

    def _note(self, address: str, fault: HandcarError) -> None:
        """Decide what a fault means for the address and its host."""
        log.info("%s: %s", address, fault)
        if isinstance(fault, TooSlow) and not self._settled:
            self._slow.append(address)
        elif isinstance(fault, Unreachable):
            again = fault.retry_after_s is None and self._has_given_more(address)
            self._all.hosts.failed(address, asked_s=fault.retry_after_s, rest=not again)
            if again and not self._alone:
                return
            self._later.append(address)
        else:
            self._all.hosts.failed(address, rest=False)
            if isinstance(fault, Corrupt):
                self._throw_away(address)
        self._left.add(address)
        self._faults.append(fault)

    def _throw_away(self, address: str) -> None:
        """Keep nothing of what a server sent that does not keep to the protocol."""
        if self._download.began_at is None and self._download.offset():
            self._odd.append(address)
        self._download.cut_back()
        end = self._download.offset()
        self._segments = [segment for segment in self._segments if segment.end <= end]

    def _has_given_more(self, address: str) -> bool:
        """Say whether this address has given enough since it last broke to be asked again."""
        given = sum(part.end - part.start for part in self._segments if part.address == address)
        before = self._broke_at.get(address, 0)
        self._broke_at[address] = given
        return given - before >= PROGRESS_BYTES

    # -- the digest

    def _finished(self) -> bool:
        """Verify what is here if it is all of it; what is wrong is thrown away."""
        download = self._download
        if download.offset() < download.size:
            return False
        try:
            download.finish()
        except Corrupt as fault:
            self._suspect(fault)
            return False
        self._blame()
        for address in {segment.address for segment in self._segments}:
            if address is not None:
                self._all.hosts.served(address)
        return True

    def _suspect(self, fault: Corrupt) -> None:
        """Throw away a file that came out wrong; find out whose fault it is, now or later."""
        download = self._download
        sources = [segment.address for segment in self._segments]
        self._suspects += [
            _Suspect(segment, _digest_of(download.part, segment))
            for segment in self._segments
            if segment.address is not None
        ]
        self._begin_anew()
        address = sources[0]
        if address is None or set(sources) != {address}:
            self._alone = True
            return
        self._left.add(address)
        self._faults.append(Corrupt(f"{address}: {fault}"))
        self._all.found_out(address)

    def _blame(self) -> None:
        """Compare what came out wrong with the right file, now that it is here."""
        for suspect in self._suspects:
            right = _digest_of(self._download.path, suspect.segment)
            if suspect.segment.address is not None and right != suspect.sha256:
                self._all.found_out(suspect.segment.address)

    def _begin_anew_unless_from(self, address: str) -> None:
        if {segment.address for segment in self._segments} - {address}:
            self._begin_anew()

    def _begin_anew(self) -> None:
        self._download.discard()
        self._segments.clear()


class _Watch(Pace):
    """Looks on while one address gives: measures its host, leaves it when it is too slow."""

    def __init__(self, downloads: Downloads, address: str, expected: Callable[[], float]) -> None:
        super().__init__(downloads.patience)
        self.count = 0
        self._hosts = downloads.hosts
        self._address = address
        self._expected = expected
        self._look_s = min(LOOK_S, downloads.patience.slowest_s)
        self._now = [0, 0.0]

    def answered(self, seconds: float) -> None:
        """Measure the delay."""
        self._hosts.answered(self._address, seconds)

    def received(self, count: int, seconds: float) -> None:
        """Measure the rate. Raises TooSlow when another mirror should be much faster."""
        self.count += count
        self._now[0] += count
        self._now[1] += seconds
        if self._now[1] >= self._look_s:
            rate = self._now[0] / self._now[1]
            self.close()
            if rate < SLOW * self._expected():
                raise TooSlow(f"{host_of(self._address)} gives only {rate / 1000:.1f} kB/s")
        super().received(count, seconds)

    def close(self) -> None:
        """Tell what was measured."""
        count, seconds = self._now
        self._hosts.received(self._address, int(count), seconds)
        self._now = [0, 0.0]


def _digest_of(path: Path, segment: _Segment) -> str:
    with path.open("rb") as file:
        file.seek(segment.start)
        return files.digest(file.read(segment.end - segment.start))
