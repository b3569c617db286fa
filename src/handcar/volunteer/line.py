"""The volunteer's own internet line: how fast it is, and what of it may be used.

Everything that streams bytes asks here piece by piece. A limit makes the thread that sends
or fetches wait, never another one; short messages are counted and never held up.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from handcar import files
from handcar.errors import DiskFull, HandcarError, Unreachable
from handcar.volunteer.budget import DAY_S, Allowance
from handcar.volunteer.words import size_text

log = logging.getLogger(__name__)

Way = Literal["up", "down"]

BURST_S = 0.25
"""How much idle time a rate limit makes up for."""
LARGEST_PIECE = 16 * files.KB
HALF_LIFE_S = 30.0
HALF_LIFE_TRANSFERS = 8
"""What was measured counts half after so much sending, or so many transfers."""
TELLING_BYTES = 64 * files.KB
TELLING_S = 0.5
"""From a transfer of less of both, one can't tell a line's rate from its delay."""
MEASURED_FIRST_S = 1.0
MEASURED_EVERY_S = 5.0
KEEP_EVERY_S = 5.0
"""A program that is killed forgets so much of what it used today."""


class UsedUp(HandcarError):
    """What a volunteer allows a day is used up; `after_s` until the next day begins."""

    def __init__(self, way: Way, a_day: float, after_s: float) -> None:
        self.way = way
        self.after_s = after_s
        doing = "sent" if way == "up" else "fetched"
        super().__init__(
            f"The {size_text(a_day)} a day that you allow {way} are used up. Until midnight "
            f"nothing more is {doing} but short messages; training goes on with what is here."
        )


class Bucket:
    """A rate with a small burst. Not safe to share between threads; the time is passed in."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = float("-inf")

    def take(self, count: int, now: float) -> float:
        """Note that `count` bytes go; return the seconds to wait before they may."""
        self._free_at = max(self._free_at, now - BURST_S) + count / self._bytes_per_s
        return max(0.0, self._free_at - now)


class Meter:
    """A smoothed bytes a second, of transfers that were made anyway."""

    def __init__(self) -> None:
        self._bytes = 0.0
        self._seconds = 0.0

    def note(self, count: int, seconds: float) -> None:
        """Count one transfer, or a stretch of one, that tells more of the rate than of delay."""
        if count < TELLING_BYTES and seconds < TELLING_S:
            return
        kept = 0.5 ** max(seconds / HALF_LIFE_S, 1 / HALF_LIFE_TRANSFERS)
        self._bytes = kept * self._bytes + count
        self._seconds = kept * self._seconds + seconds

    @property
    def bytes_per_s(self) -> float | None:
        """The rate; None while nothing was measured."""
        return self._bytes / self._seconds if self._bytes else None


@dataclass(frozen=True, slots=True)
class Used:
    """Bytes used on one day."""

    day: str
    up: int = 0
    down: int = 0


class Ledger:
    """What was used today, in a small file, so that a restart does not forget."""

    def __init__(self, path: Path, *, clock: Callable[[], datetime]) -> None:
        self._path = path
        self._clock = clock
        self.down_bytes_per_s: float | None = None
        """How fast the line was when that was last measured, in an earlier run perhaps."""
        self._used = self._read()
        self._kept_at = clock()

    def add(self, *, up: int = 0, down: int = 0) -> None:
        """Count bytes; the file follows every few seconds."""
        used = self.today()
        self._used = Used(used.day, used.up + up, used.down + down)
        if abs(self._clock() - self._kept_at) >= timedelta(seconds=KEEP_EVERY_S):
            self.keep()

    def today(self) -> Used:
        """Return what was used today so far."""
        day = self._clock().date().isoformat()
        if self._used.day != day:
            self._used = Used(day)
        return self._used

    def seconds_left(self) -> float:
        """Return the seconds until the next day begins, at least one."""
        now = self._clock()
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return max(1.0, DAY_S - (now - midnight).total_seconds())

    def keep(self) -> None:
        """Write the file; a full disk must not end a transfer."""
        self._kept_at = self._clock()
        used = self._used
        kept = {"day": used.day, "up": used.up, "down": used.down}
        kept |= {"down_bytes_per_s": self.down_bytes_per_s}
        with suppress(DiskFull):
            files.write_json(self._path, kept)

    def _read(self) -> Used:
        try:
            found = json.loads(self._path.read_bytes())
            rate = found.get("down_bytes_per_s")
            self.down_bytes_per_s = float(rate) if rate else None
            return Used(str(found["day"]), int(found["up"]), int(found["down"]))
        except FileNotFoundError:
            return Used("")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is damaged and starts afresh: %s", self._path, error)
            return Used("")


class _Direction:
    """One way of the line."""

    def __init__(self, way: Way, bytes_per_s: float | None, a_day: float | None) -> None:
        self._way = way
        self.bucket = None if bytes_per_s is None else Bucket(bytes_per_s)
        self.a_day = a_day
        self.passed = 0
        self.meter = Meter()
        self.transfers = 0
        self._since = 0.0
        self._bytes = 0
        self._is_silent = True
        """Whether nothing passed yet since the first of the transfers under way began."""

    def begin(self, now: float) -> None:
        """Begin a transfer; several at once are measured as one."""
        if self.transfers == 0:
            self._since, self._bytes, self._is_silent = now, 0, True
        self.transfers += 1

    def end(self, now: float) -> None:
        """End a transfer."""
        self.measure(now, after_s=0.0)
        self.transfers -= 1

    def add(self, count: int, now: float) -> None:
        """Count bytes.

        The clock begins with the first of a transfer: until then it was the other side's delay,
        which would make rounds of minutes of a small frame from a busy server.
        """
        self.passed += count
        if self._is_silent:
            self._since, self._is_silent = now, False
            if self._way == "down":
                return  # these bytes came before the clock began
        self._bytes += count

    def measure(self, now: float, *, after_s: float | None = None) -> None:
        """Take the rate of what is under way, if that is for so long."""
        seconds = now - self._since
        if after_s is None:  # what was never measured is wanted soon
            known = self.meter.bytes_per_s is not None
            after_s = MEASURED_EVERY_S if known else MEASURED_FIRST_S
        # What is handed over waits in the system's buffers: going up, seconds without a byte count.
        tells = self._bytes or (self._way == "up" and not self._is_silent)
        if self.transfers and tells and seconds > after_s:
            self.meter.note(self._bytes, seconds)
            self._since, self._bytes = now, 0


class Line:
    """What may go up and down, and what did. Safe to use from several threads."""

    def __init__(
        self,
        allowance: Allowance,
        path: Path,
        *,
        stop: threading.Event | None = None,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.allowance = allowance
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self._ledger = Ledger(path, clock=clock)
        self._ways: dict[Way, _Direction] = {
            "up": _Direction("up", allowance.up_bytes_per_s, allowance.up_bytes_a_day),
            "down": _Direction("down", allowance.down_bytes_per_s, allowance.down_bytes_a_day),
        }

    @property
    def up(self) -> int:
        """Bytes of bodies sent."""
        return self._ways["up"].passed

    @property
    def down(self) -> int:
        """Bytes of bodies received."""
        return self._ways["down"].passed

    @property
    def is_ending(self) -> bool:
        """Whether this program ends, so that nothing is worth another attempt."""
        return self._stop.is_set()

    @property
    def piece_bytes(self) -> int:
        """In pieces of how many bytes to send: no more than a limit's burst, if there is one."""
        rate = self.allowance.up_bytes_per_s
        return LARGEST_PIECE if rate is None else max(512, min(LARGEST_PIECE, int(rate * BURST_S)))

    @contextmanager
    def transfer(self, way: Way) -> Iterator[None]:
        """Measure the line during this block. Raises UsedUp when today has no room."""
        self.expect_room(way)
        direction = self._ways[way]
        with self._lock:
            direction.begin(time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                direction.end(time.monotonic())

    def count(self, *, up: int = 0, down: int = 0) -> None:
        """Count bytes that are not held up; what streams after them waits for them too."""
        with self._lock:
            self._add("up", up)
            self._add("down", down)

    def send(self, count: int) -> None:
        """Count `count` bytes, and wait until they may go up. Raises UsedUp, Unreachable."""
        self.expect_room("up", count)
        with self._lock:
            wait_s = self._add("up", count)
        self._wait(wait_s)

    def received(self, count: int) -> None:
        """Count bytes that came, and wait until more may. Raises UsedUp, Unreachable."""
        with self._lock:
            wait_s = self._add("down", count)
        self._wait(wait_s)
        self.expect_room("down")

    def expect_room(self, way: Way, count: int = 1) -> None:
        """Raise UsedUp unless today has room for so many more bytes."""
        a_day = self._ways[way].a_day
        if a_day is None:
            return
        with self._lock:
            today = self._ledger.today()
            after_s = self._ledger.seconds_left()
        if (today.up if way == "up" else today.down) + count > a_day:
            raise UsedUp(way, a_day, after_s)

    def bytes_per_s(self, way: Way) -> float | None:
        """Return how fast the line is; None while it is not known."""
        with self._lock:
            return self._ways[way].meter.bytes_per_s

    def down_expected(self) -> float | None:
        """Return the bytes a second that may be expected down, by this run or the last one.

        None while nothing is known; never more than what is allowed.
        """
        with self._lock:
            known = self._ways["down"].meter.bytes_per_s or self._ledger.down_bytes_per_s
        rates = [rate for rate in (known, self.allowance.down_bytes_per_s) if rate]
        return min(rates) if known else self.allowance.down_bytes_per_s

    def used_today(self) -> tuple[int, int, float]:
        """Return the bytes that went up and came down today, and the day's seconds left."""
        with self._lock:
            today = self._ledger.today()
            return today.up, today.down, self._ledger.seconds_left()

    def close(self) -> None:
        """Keep what was used today."""
        with self._lock:
            self._ledger.keep()

    def _add(self, way: Way, count: int) -> float:
        """Count bytes; return the seconds that a limit asks to wait."""
        direction, now = self._ways[way], time.monotonic()
        direction.add(count, now)
        direction.measure(now)
        if way == "down" and direction.meter.bytes_per_s:
            self._ledger.down_bytes_per_s = direction.meter.bytes_per_s
        self._ledger.add(**{way: count})
        return direction.bucket.take(count, now) if direction.bucket else 0.0

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Unreachable("this program is ending; what was transferred is kept")
