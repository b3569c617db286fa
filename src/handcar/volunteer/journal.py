"""What a volunteer knows after a kill -9: an append-only file of JSON lines.

    {"event": "made", ...}       an update was encoded; its frame file is on disk
    {"event": "sent", "id"}      the server acknowledged its bytes
    {"event": "merged", "version", "ids"}   these own updates are part of that version
    {"event": "dropped", "ids"}  these will never be part of any version

A line is flushed to the disk before what it says is acted upon. A last line cut short by a
crash is ignored: what it would have said was not acted upon either.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from handcar import files
from handcar.protocol.messages import UpdateAnnouncement

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recalled:
    """What the journal says, read against the version whose weights are on disk."""

    announcements: dict[UUID, UpdateAnnouncement] = field(default_factory=dict)
    """Every update that still matters, oldest first."""
    unsent: tuple[UUID, ...] = ()
    pending: tuple[UUID, ...] = ()
    """Own updates that the version on disk lacks and that may still be merged."""
    last_round: int = 0
    steps: int = 0
    records: int = 0
    """Done on this model in finished rounds, over all runs."""


class Journal:
    """The journal of one volunteer for one model. Safe to append to from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)

    def made(self, announcement: UpdateAnnouncement, *, round_number: int) -> None:
        """Say that an update's frame is whole on disk."""
        body = announcement.model_dump(mode="json")
        self._append({"event": "made", "round": round_number, "update": body})

    def sent(self, update: UUID) -> None:
        """Say that the server acknowledged the bytes of an update."""
        self._append({"event": "sent", "id": str(update)})

    def merged(self, version: int, updates: Iterable[UUID]) -> None:
        """Say, before the weights of `version` are kept, which own updates it has."""
        ids = [str(update) for update in updates]
        self._append({"event": "merged", "version": version, "ids": ids})

    def dropped(self, updates: Iterable[UUID]) -> None:
        """Say that these updates will never be merged."""
        self._append({"event": "dropped", "ids": [str(update) for update in updates]})

    def recall(self, version: int) -> Recalled:
        """Return what is known, given the version whose weights are on disk; then tidy up.

        A `merged` line for a later version than that is not yet true here: its weights
        were announced but never kept.
        """
        told: dict[UUID, tuple[int, UpdateAnnouncement]] = {}
        sent: set[UUID] = set()
        gone: set[UUID] = set()
        counts = {"round": 0, "steps": 0, "records": 0}
        for line in self._lines():
            match line:
                case {"event": "totals"}:
                    counts = {name: int(line[name]) for name in counts}
                case {"event": "made", "round": number, "update": body}:
                    announcement = UpdateAnnouncement.model_validate(body)
                    told[announcement.id] = (number, announcement)
                    counts["round"] = max(counts["round"], number)
                    counts["steps"] += announcement.steps
                    counts["records"] += announcement.records
                case {"event": "sent", "id": update}:
                    sent.add(UUID(update))
                case {"event": "merged", "version": at, "ids": ids} if at <= version:
                    gone |= set(map(UUID, ids))
                case {"event": "dropped", "ids": ids}:
                    gone |= set(map(UUID, ids))
        alive = {key: value for key, value in told.items() if key not in gone}
        self._tidy(alive, sent, counts)
        return Recalled(
            announcements={key: announcement for key, (_, announcement) in alive.items()},
            unsent=tuple(key for key in alive if key not in sent),
            pending=tuple(alive),
            last_round=counts["round"],
            steps=counts["steps"],
            records=counts["records"],
        )

    def _tidy(
        self,
        alive: dict[UUID, tuple[int, UpdateAnnouncement]],
        sent: set[UUID],
        counts: dict[str, int],
    ) -> None:
        # The totals count what is forgotten; what is kept is counted again from its line.
        kept = [announcement for _, announcement in alive.values()]
        totals = {
            "event": "totals",
            "round": counts["round"],
            "steps": counts["steps"] - sum(one.steps for one in kept),
            "records": counts["records"] - sum(one.records for one in kept),
        }
        lines: list[dict[str, Any]] = [totals]
        for key, (number, announcement) in alive.items():
            body = announcement.model_dump(mode="json")
            lines.append({"event": "made", "round": number, "update": body})
            if key in sent:
                lines.append({"event": "sent", "id": str(key)})
        with self._lock:
            files.write(self._path, b"".join(map(_line, lines)))

    def _append(self, fact: dict[str, Any]) -> None:
        with self._lock:
            files.append(self._path, _line(fact))

    def _lines(self) -> Iterable[dict[str, Any]]:
        if not self._path.is_file():
            return
        for number, raw in enumerate(self._path.read_bytes().split(b"\n"), start=1):
            if not raw:
                continue
            try:
                yield json.loads(raw)
            except ValueError:
                log.warning("line %d of %s was cut short and is ignored", number, self._path)


def _line(fact: dict[str, Any]) -> bytes:
    return json.dumps(fact, separators=(",", ":")).encode() + b"\n"
