"""What to throw away when the disk's share is used up: what is cheapest to get back.

    1  all of a chunk that the task at hand does not use
    2  a decoded block whose chunk file is here: it is decoded again when it is its turn.
       The block that was used last goes first, for its next turn is furthest away:
       passes go through all blocks
    3  whole chunks that can be fetched again, those gone through most first, and of these
       the quickest by the byte

A block in use is never touched. Chunk files are kept before blocks since they hold the same
in a fraction of the bytes. But a new chunk is let in only while all that is here could still
be opened, some blocks at a time: else training would end where its disk does. Nor is one that
was not gone through since it came given up for a new one: so a data set larger than the disk's
share goes round, and each chunk is used before it goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

OPEN_BLOCKS = 5
"""So many blocks may be open at once: the sampler's four, and one that is to be the next."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One chunk as it lies on the disk."""

    digest: str
    block_bytes: int = 0
    """Of its decoded block; 0 when that is not here."""
    chunk_bytes: int = 0
    """Of its chunk file; 0 when that is not here."""
    used_at: float = 0.0
    """When its block was last opened; larger is later."""
    in_use: bool = False
    wanted: bool = True
    """Whether the task at hand uses it."""
    fetch_s: float | None = None
    """How long fetching it again would take; none: it is not to be fetched again."""
    passes: int = 0
    """How often it was gone through since it came."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """What goes of one chunk."""

    digest: str
    block: bool
    chunk: bool
    size: int


Keep = Literal["both", "block"]


def how_to_keep(entries: Sequence[Entry], new: Entry, limit: int) -> Keep | None:
    """Return what of a new chunk may be kept within `limit` bytes in all.

    `both` its file and its block, `block` that alone, none neither: there is no room for it
    that the others do not need.
    """
    least = sum(map(_least_bytes, entries))
    largest = max((entry.block_bytes for entry in entries), default=new.block_bytes)
    decoded = [
        entry.block_bytes or largest
        for entry in entries
        if entry.chunk_bytes and _least_bytes(entry)
    ]
    if least + new.chunk_bytes + _open_bytes([*decoded, new.block_bytes]) <= limit:
        return "both"
    return "block" if least + new.block_bytes + _open_bytes(decoded) <= limit else None


def _least_bytes(entry: Entry) -> int:
    """Return what must stay of a chunk when nothing is open."""
    if not entry.in_use and (not entry.wanted or _may_make_room(entry)):
        return 0
    return entry.chunk_bytes or entry.block_bytes


def _open_bytes(decoded: list[int]) -> int:
    """Return what the largest blocks that may be open at once take beside chunk files."""
    return sum(sorted(decoded)[-OPEN_BLOCKS:])


def _may_make_room(entry: Entry) -> bool:
    """Say whether a chunk may go for a new one."""
    return entry.fetch_s is not None and entry.passes > 0


def whose_turn(
    since: Mapping[str, int], leaving: Iterable[str], sizes: Mapping[str, int]
) -> tuple[str | None, str | None]:
    """Return the chunk that training is to use no more, and the one that it is to use again.

    `since` says of those in use how often each was gone through since it came. Who was most
    leaves, but for the last one. Where that is too large for another beside it, the smallest of
    those that are `leaving` comes back, so that the large one has its turn to go.
    """
    most = max(since, key=since.__getitem__, default=None)
    if most is not None and since[most] and len(since) > 1:
        return most, None
    smallest = min(leaving, key=lambda digest: sizes[digest], default=None)
    if smallest is not None and len(since) == 1 and sizes[smallest] < sizes[next(iter(since))]:
        return None, smallest
    return None, None


def what_to_evict(
    entries: Iterable[Entry], needed: int, *, for_new: bool = False
) -> list[Eviction]:
    """Return what to delete so that `needed` bytes become free, cheapest first.

    For a new chunk, none goes of which the last copy was not gone through yet; for a block
    that is to be decoded it does, since training would end otherwise. Empty when nothing is
    needed, or when even all that may go would not be enough.
    """
    found: list[Eviction] = []
    freed = 0
    closed = [entry for entry in entries if not entry.in_use]
    for one in _in_order(closed, for_new=for_new):
        if freed >= needed:
            break
        found.append(one)
        freed += one.size
    return found if freed >= needed else []


def _in_order(entries: Sequence[Entry], *, for_new: bool) -> Iterator[Eviction]:
    unwanted = [entry for entry in entries if not entry.wanted]
    for entry in sorted(unwanted, key=lambda one: one.used_at):
        yield _whole(entry)
    wanted = [entry for entry in entries if entry.wanted]
    twice = {one.digest for one in wanted if one.block_bytes and one.chunk_bytes}
    for entry in sorted(wanted, key=lambda one: -one.used_at):
        if entry.digest in twice:
            yield Eviction(entry.digest, True, False, entry.block_bytes)
    for entry in sorted(wanted, key=lambda one: (-one.passes, _fetch_s_a_byte(one))):
        if entry.fetch_s is None or (for_new and not entry.passes):
            continue
        if entry.digest in twice:
            yield Eviction(entry.digest, False, True, entry.chunk_bytes)
        else:
            yield _whole(entry)


def _whole(entry: Entry) -> Eviction:
    size = entry.block_bytes + entry.chunk_bytes
    return Eviction(entry.digest, bool(entry.block_bytes), bool(entry.chunk_bytes), size)


def _fetch_s_a_byte(entry: Entry) -> float:
    return (entry.fetch_s or 0.0) / max(1, entry.block_bytes + entry.chunk_bytes)
