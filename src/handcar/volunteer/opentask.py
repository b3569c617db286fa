"""The task at hand: what the server assigned and what is on disk of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from handcar.errors import DiskFull
from handcar.modelfile.check import check
from handcar.modelfile.schema import ModelFile
from handcar.modelfile.shapes import infer
from handcar.protocol.messages import Assignment, ChunkLink, UpdateAnnouncement
from handcar.volunteer.folder import Task, free_bytes
from handcar.volunteer.journal import Journal, Recalled
from handcar.volunteer.weights import Keeper
from handcar.volunteer.words import size_text
from handcar.wire.layout import Layout

DECODED = 4
"""A guess at how much larger a chunk is once decoded: its size is not known before."""
KEPT_FREE = 32
"""Bytes a weight that chunks must leave on the disk, for versions, checkpoints and updates."""


@dataclass
class OpenTask:
    """The task at hand and what belongs to it."""

    folder: Task
    assignment: Assignment
    model_file: ModelFile
    layout: Layout
    keeper: Keeper
    journal: Journal
    recalled: Recalled
    announcements: dict[UUID, UpdateAnnouncement]


def open_task(folder: Task, assignment: Assignment, raw: bytes) -> OpenTask:
    """Read what is on disk of a task. The model file is checked as a stranger's: it is one."""
    model_file = check(raw)
    layout = infer(model_file).layout
    keeper = Keeper(folder.weights, layout)
    journal = Journal(folder.journal)
    recalled = journal.recall(-1 if keeper.version is None else keeper.version)
    for path in folder.update("").glob("*"):
        if path.name not in {str(id) for id in recalled.announcements}:
            path.unlink(missing_ok=True)
    return OpenTask(
        folder,
        assignment,
        model_file,
        layout,
        keeper,
        journal,
        recalled,
        dict(recalled.announcements),
    )


def what_it_takes(assignment: Assignment, layout: Layout, here: frozenset[str]) -> str:
    """Return, for a person, what a task will download and use."""
    links = assignment.dataset
    missing = [link for link in links if link.sha256 not in here]
    first = missing[0].size if missing and len(missing) == len(links) else 0
    weights = assignment.series.keyframe.size
    in_all = weights + sum(link.size for link in missing)
    disk = DECODED * sum(link.size for link in links) + KEPT_FREE * layout.size
    return (
        f"Training {assignment.id}: {layout.size:,} weights, {len(links)} chunks of data, "
        f"{len(missing)} of them to fetch. {size_text(weights + first)} to begin, "
        f"{size_text(in_all)} to download in all; about {size_text(disk)} of disk and, beside "
        f"Keras itself, {size_text(32 * layout.size)} of memory."
    )


def keep_room_for(folder: Path, link: ChunkLink, layout: Layout) -> None:
    """Raise DiskFull when a chunk would take the room that training itself needs."""
    needed = (1 + DECODED) * link.size + KEPT_FREE * layout.size
    free = free_bytes(folder)
    if free < needed:
        raise DiskFull(
            f"there is no room left on the disk for another chunk: {size_text(needed)} are "
            f"needed in {folder}, {size_text(free)} are free. Training uses the chunks that "
            "are here"
        )
