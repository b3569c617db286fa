"""The task at hand: what the server assigned and what is on disk of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from uuid import UUID

from handcar.modelfile.check import check
from handcar.modelfile.schema import ModelFile
from handcar.modelfile.shapes import infer
from handcar.protocol.messages import Assignment, ChunkLink, UpdateAnnouncement
from handcar.volunteer.folder import Task
from handcar.volunteer.journal import Journal, Recalled
from handcar.volunteer.schedule import Schedule
from handcar.volunteer.weights import Keeper, cheapest
from handcar.volunteer.words import duration, rate_text, size_text
from handcar.wire.layout import Layout

DECODED = 4
"""A guess at how much larger a chunk is once decoded, where its owner did not say."""
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
    schedule: Schedule


def open_task(folder: Task, assignment: Assignment, raw: bytes) -> OpenTask:
    """Read what is on disk of a task. The model file is checked as a stranger's: it is one."""
    model_file = check(raw)
    layout = infer(model_file).layout
    keeper = Keeper(folder.weights, layout)
    journal = Journal(folder.journal)
    recalled = journal.recall(-1 if keeper.version is None else keeper.version)
    schedule = Schedule(model_file.batch_size)
    schedule.hear(assignment.series.newest, assignment.round)
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
        schedule,
    )


@dataclass(frozen=True, slots=True)
class Needs:
    """What a task downloads and uses, in bytes."""

    model_id: str
    weights: int
    """How many numbers the network has."""
    chunks: int
    missing: int
    begin: int
    """To download before the first step."""
    in_all: int
    disk: int
    goes_round: bool = False
    """Whether the chunks alone are more than they may take of the disk."""


def needs_of(
    assignment: Assignment, layout: Layout, here: frozenset[str], disk_bytes: float = math.inf
) -> Needs:
    """Return what a task takes of a newcomer that holds these chunks already.

    `disk_bytes` is what chunks may take of its disk.
    """
    links = assignment.dataset
    missing = [link for link in links if link.sha256 not in here]
    first = missing[0].size if missing and len(missing) == len(links) else 0
    series = assignment.series
    frames = cheapest(series, series.newest, held=None)
    weights = sum(frame.size for frame in frames)
    return Needs(
        model_id=assignment.id,
        weights=layout.size,
        chunks=len(links),
        missing=len(missing),
        begin=weights + first,
        in_all=weights + sum(link.size for link in missing),
        disk=round(min(sum(map(_on_disk, links)), disk_bytes)) + KEPT_FREE * layout.size,
        goes_round=sum(link.size for link in links) > disk_bytes,
    )


def _on_disk(link: ChunkLink) -> int:
    """Return about what a chunk takes once decoded."""
    return DECODED * link.size if link.decoded is None else link.decoded


def what_it_takes(needs: Needs) -> str:
    """Return, for a person, what a task will download and use."""
    again = (
        " The data is larger than the disk it may take: its chunks go round, and each is "
        "downloaded again when its turn comes; --down-daily limits that."
    )
    return (
        f"Training {needs.model_id}: {needs.weights:,} weights, {needs.chunks} chunks of data, "
        f"{needs.missing} of them to fetch. {size_text(needs.begin)} to begin, "
        f"{size_text(needs.in_all)} to download in all; about {size_text(needs.disk)} of disk "
        f"and, beside Keras itself, {size_text(32 * needs.weights)} of memory."
        f"{again if needs.goes_round else ''}"
    )


def how_long_it_takes(needs: Needs, bytes_per_s: float) -> str:
    """Return, for a person, how soon training begins over a line of that speed."""
    begin, in_all = needs.begin / bytes_per_s, needs.in_all / bytes_per_s
    return (
        f"Your line brings about {rate_text(bytes_per_s)}: what is needed to begin takes "
        f"{duration(begin)}, all of it {duration(in_all)}, while it trains. The first step comes "
        "as soon as Keras has started as well."
    )
