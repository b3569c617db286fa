"""What a person sees of a volunteer: one interface, plain lines and JSON lines.

The live screen for a terminal is in `terminal.py`.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Protocol, TextIO

from handcar.volunteer.training import Progress
from handcar.volunteer.words import rate_text, size_text

EVERY_S = 30.0
JSON_EVERY_S = 1.0


@dataclass(frozen=True)
class Sending:
    """An update on its way up."""

    bytes_sent: int
    bytes_in_all: int


@dataclass(frozen=True)
class Snapshot:
    """What a screen shows of a volunteer at one moment."""

    model_id: str | None = None
    version: int | None = None
    progress: Progress = field(default_factory=Progress)
    chunks: int = 0
    chunks_in_all: int = 0
    waiting_updates: int = 0
    merged_updates: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    bytes_saved: int = 0
    """What the updates would have taken as plain float32 weights, less what they took."""
    up_bytes_per_s: float | None = None
    down_bytes_per_s: float | None = None
    """The line as measured; none while nothing was."""
    sending: Sending | None = None
    round_seconds: float = 0.0
    """How long a round lasts at least, so that line, day and server carry its update."""
    held: bool = False


class Screen(Protocol):
    """Where a person sees what goes on: a live screen, lines of text, or JSON lines."""

    def say(self, text: str, level: str = "info", link: str | None = None) -> None:
        """Show a text."""

    def show(self, snapshot: Snapshot) -> None:
        """Show how things stand."""


class Plain:
    """Lines of text: for logs, services, and whoever pipes the output elsewhere."""

    def __init__(self, out: TextIO = sys.stdout, *, every_s: float = EVERY_S) -> None:
        self._out = out
        self._every_s = every_s
        self._shown_at = 0.0
        self._shown_version: int | None = None

    def say(self, text: str, level: str = "info", link: str | None = None) -> None:
        """Print one line."""
        prefix = "" if level == "info" else f"{level}: "
        self._print(f"{prefix}{text}" + (f" ({link})" if link else ""))

    def show(self, snapshot: Snapshot) -> None:
        """Print where things stand, now and then and at each new version."""
        now = time.monotonic()
        new_version = snapshot.version != self._shown_version
        if snapshot.model_id and (new_version or now - self._shown_at >= self._every_s):
            self._shown_at, self._shown_version = now, snapshot.version
            self._print(line_of(snapshot))

    def _print(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {text}", file=self._out, flush=True)


class JsonLines:
    """One JSON object a line, for programs."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._shown_at = 0.0

    def say(self, text: str, level: str = "info", link: str | None = None) -> None:
        """Print a `said` object."""
        self._print({"said": text, "level": level, "link": link})

    def show(self, snapshot: Snapshot) -> None:
        """Print the snapshot, at most once a second."""
        now = time.monotonic()
        if now - self._shown_at >= JSON_EVERY_S:
            self._shown_at = now
            self._print(asdict(snapshot))

    def _print(self, value: object) -> None:
        print(json.dumps(value), file=self._out, flush=True)


def line_of(snapshot: Snapshot) -> str:
    """Return how things stand, in one line."""
    progress = snapshot.progress
    loss = "" if progress.loss is None else f", loss {progress.loss:.4f}"
    version = "no version yet" if snapshot.version is None else f"version {snapshot.version}"
    return (
        f"{snapshot.model_id}: {version}, step {progress.steps:,}{loss}, "
        f"{progress.steps_per_second:.0f} steps/s, chunks {snapshot.chunks}/"
        f"{snapshot.chunks_in_all}, {snapshot.merged_updates} updates merged, "
        f"{size_text(snapshot.bytes_up)} up, {size_text(snapshot.bytes_down)} down, "
        f"{size_text(snapshot.bytes_saved)} saved"
        + (f", {sending_text(snapshot.sending)}" if snapshot.sending else "")
    )


def sending_text(sending: Sending) -> str:
    """Return how far an update is on its way."""
    return (
        f"sending {size_text(sending.bytes_sent)} of {size_text(sending.bytes_in_all)} "
        f"({sending.bytes_sent / sending.bytes_in_all:.0%})"
    )


def line_text(snapshot: Snapshot) -> str:
    """Return how fast the line is, as far as it is known."""
    rates = (("up", snapshot.up_bytes_per_s), ("down", snapshot.down_bytes_per_s))
    return "   ".join(f"{rate_text(rate)} {way}" for way, rate in rates if rate)
