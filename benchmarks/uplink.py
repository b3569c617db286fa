"""How well a line that breaks is used to send one update, against starting again each time.

An update of random bytes goes up over a throttled line with a delay of 200 ms each way, on
which all connections are reset whenever it has carried ten seconds' worth: once by the
volunteer's own uploader, once by a single PATCH that starts again from zero after each
reset. Goodput is the share of what the line could have carried in that time which was
useful bytes; resent is the share of the update that was sent more than once.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

from common import Bar, arguments, model_file, pictures, publish, report
from handcar.errors import Unreachable
from handcar.protocol.messages import UpdateAnnouncement
from handcar.simulation.network import ThrottledLink
from handcar.simulation.stage import Stage
from handcar.volunteer import uploads
from handcar.volunteer.budget import Allowance
from handcar.volunteer.line import Line
from handcar.volunteer.talk import Server

UNITS = 2000
"""1.6 million weights: an update may have 8 MB."""
DELAY_S = 0.2
RESET_EVERY_S = 10.0
"""Of carrying at the line's full rate."""
LOOK_S = 0.02
GIVE_UP = 1.0
"""The plain sender begins no more after so many times the seconds that the line needs."""


@dataclass(frozen=True)
class Setting:
    """One line: its speed, and what goes up."""

    megabits: float
    megabytes: float

    @property
    def size(self) -> int:
        return round(self.megabytes * 1e6)

    @property
    def needed_s(self) -> float:
        return self.size * 8 / (self.megabits * 1e6)


@dataclass(frozen=True)
class Outcome:
    """What one way of sending achieved."""

    seconds: float
    stored: int
    sent: int
    resets: int

    def goodput(self, setting: Setting) -> float:
        return self.stored * 8 / (self.seconds * setting.megabits * 1e6)

    def resent(self, setting: Setting) -> float:
        return max(0.0, self.sent - self.stored) / setting.size


@contextmanager
def resets(link: ThrottledLink, every_bytes: float) -> Iterator[list[int]]:
    """Reset all connections each time that so many bytes have gone up; counts how often."""
    ended, hits = threading.Event(), [0]

    def work() -> None:
        before = link.bytes_up
        # By bytes, not by the clock: a busy machine would meet more resets than a free one.
        while not ended.wait(LOOK_S):
            if link.bytes_up - before >= every_bytes:
                hits[0] += link.cut() > 0
                before = link.bytes_up

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield hits
    finally:
        ended.set()
        thread.join()


def announcement(path: Path) -> UpdateAnnouncement:
    data = path.read_bytes()
    return UpdateAnnouncement(
        id=uuid4(),
        model_id="bench",
        base_version=0,
        seed=0,
        steps=10,
        records=320,
        seconds=10.0,
        size=len(data),
        sha256=f"sha256:{hashlib.sha256(data).hexdigest()}",
    )


def by_handcar(server: Server, path: Path, _setting: Setting) -> int:
    """Send with the product's uploader; after a pause again, as a volunteer does."""
    update = announcement(path)
    while True:
        try:
            status = uploads.send(server, update, path, lambda count: None)
        except Unreachable:
            time.sleep(1.0)
        else:
            # Random bytes are no update: the server has them all, and may have refused them.
            assert status.state in ("received", "refused"), status
            return update.size


def from_zero(server: Server, path: Path, setting: Setting) -> int:
    """Send in one PATCH from the start, again from the start after each reset.

    Each attempt is another update, so that the server forgets what came: returns the bytes
    that count, none when the line never held long enough.
    """
    ends = time.monotonic() + GIVE_UP * setting.needed_s
    while time.monotonic() < ends:
        try:
            status = server.announce(announcement(path))
            assert status.upload_url
            server.upload(status.upload_url, path, 0, lambda count: None)
        except Unreachable:
            continue
        return path.stat().st_size
    return 0


def measure(stage: Stage, setting: Setting, way: object) -> Outcome:
    """Send one update over the line."""
    parts = urlsplit(stage.url)
    link = ThrottledLink(
        (parts.hostname or "", parts.port or 0),
        up_bits_per_s=setting.megabits * 1e6,
        down_bits_per_s=10 * setting.megabits * 1e6,
        latency_s=DELAY_S,
    )
    path = stage.folder / "update"
    path.write_bytes(os.urandom(setting.size))
    with link:
        # Who we are is told before the clock starts: a volunteer asks for it once in its life.
        server = Server(link.url, Line(Allowance(), stage.folder / "line.json"))
        server.use_token(server.join("bench").token)
        before = link.bytes_taken_up
        with resets(link, RESET_EVERY_S * setting.megabits * 1e6 / 8) as hits:
            began = time.monotonic()
            stored = way(server, path, setting)  # type: ignore[operator]
            seconds = time.monotonic() - began
        sent = link.bytes_taken_up - before
        server.close()
    return Outcome(seconds, stored, sent, hits[0])


def is_ready(stage: Stage) -> bool:
    status = stage.status("bench")
    return status is not None and status.version >= 0


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    settings = [Setting(2.0, 3.75)]
    if not wanted.quick:
        settings += [Setting(1.0, 6.0), Setting(0.5, 3.0)]
    x, y, _ = pictures(2000)
    rows, ours = [], []
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage:
        publish(stage, model_file(units=UNITS), x, y)
        stage.until(lambda: is_ready(stage), "version 0 is there")
        for setting in settings:
            for name, way in (("Handcar", by_handcar), ("from zero", from_zero)):
                outcome = measure(stage, setting, way)
                shares = (outcome.goodput(setting), outcome.resent(setting))
                rows.append(
                    (
                        name,
                        setting.megabits,
                        setting.megabytes,
                        outcome.resets,
                        outcome.seconds,
                        *shares,
                    )
                )
                if way is by_handcar:
                    ours.append(shares)
    report(
        wanted,
        f"One update over a line that is reset, {DELAY_S * 1000:.0f} ms away",
        ("sender", "Mbit/s", "MB", "resets", "seconds", "goodput", "resent"),
        rows,
        [
            Bar("uplink.goodput", min(goodput for goodput, _ in ours), "of the line"),
            Bar("uplink.resent", max(resent for _, resent in ours), "of the update"),
        ],
    )


if __name__ == "__main__":
    main()
