"""Blocks: chunks decoded once, kept on disk as .npy files and memory-mapped.

    <folder>/<hex digits of the digest>/x.npy, y.npy     the block
    <folder>/<hex digits of the digest>.chunk            the chunk that it was decoded from

Chunk files are kept while there is room: a block can then go and come back without being
fetched again. What goes first is said in `eviction.py`.

A block's folder appears whole: it is filled under another name and then renamed, so what a
kill -9 leaves behind is never taken for a block, and is decoded again.
"""

from __future__ import annotations

import mmap
import re
import secrets
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar import files
from handcar.data import apart, chunks
from handcar.data.eviction import Entry, Eviction, Keep, how_to_keep, what_to_evict
from handcar.errors import ChunkError, DiskFull
from handcar.files import MB

PREFIX = "sha256:"
MADV_POPULATE_READ = 22
"""As Linux's mman.h numbers it; Python's mmap has no name for it yet."""
HEX = re.compile(r"[0-9a-f]{64}")
DECODED = 4
"""A guess at how much larger a chunk is once decoded, while none is here to tell."""
STALE_S = 3600.0
"""A half-written folder is swept away after so long: another process may still be at it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a chunk that the task at hand uses is worth; `Entry` says it in full."""

    fetch_s: float | None = None
    passes: int = 0


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Block:
    """A decoded chunk: read-only arrays, mapped from disk for as long as this lives."""

    digest: str
    records: int
    columns: Mapping[str, NDArray[Any]]


class BlockStore:
    """The blocks in one folder. May be used from several threads and processes.

    It takes at most `budget_bytes`, if that is given, and leaves `keep_free_bytes` of the disk
    to others.
    """

    def __init__(
        self, folder: Path, *, budget_bytes: int | None = None, keep_free_bytes: int = 0
    ) -> None:
        self.folder = folder
        self.budget_bytes = budget_bytes
        self.keep_free_bytes = keep_free_bytes
        self.wanted: Callable[[Iterable[str]], Mapping[str, Wanted]] | None = None
        """Returns which of these chunks the task at hand uses, and what they are worth. None:
        every chunk is wanted, and none can be fetched again."""
        self.on_gone: Callable[[list[str]], None] = _ignore
        """Is told the chunks of which nothing is left."""
        self._live: weakref.WeakValueDictionary[str, Block] = weakref.WeakValueDictionary()
        self._used_at: dict[str, float] = {}
        self._promised = 0
        """Bytes for what is being decoded: it is not here yet, and several threads do it."""
        self._lock = threading.Lock()
        self._sweep()

    def digests(self) -> list[str]:
        """Return the digests of all blocks that are here, or can be decoded, sorted."""
        return sorted(self._found())

    def add(self, digest: str, chunk: Path | bytes) -> Block:
        """Decode a chunk, keep and open its block; harmless when it is here already.

        A chunk that is given as a file is moved here. Raises ChunkError when the bytes are
        damaged or not those of `digest`, MissingLibrary, DiskFull.
        """
        if not self._path(digest).is_dir():
            data = chunk if isinstance(chunk, bytes) else chunk.read_bytes()
            if files.digest(data) != digest:
                raise ChunkError(f"expected a chunk {digest}, got {files.digest(data)}")
            block_bytes = chunks.decoded_bytes(data)
            kept = self._expect_room(digest, len(data), block_bytes)
            with self._promise_new(len(data) * (kept == "both"), block_bytes) as both:
                self._decode(digest, data)
                if both:
                    self._keep_chunk(digest, chunk)
        return self.open(digest)

    def open(self, digest: str) -> Block:
        """Map a block, decoded again if need be.

        Raises ChunkError when it is not here or can't be read, DiskFull.
        """
        folder = self._path(digest)
        kept = self._chunk_path(digest)
        if not folder.is_dir() and kept.is_file():
            data = kept.read_bytes()
            with self._promise(chunks.decoded_bytes(data), for_new=False):
                self._decode(digest, data)
        with self._lock:
            block = self._live.get(digest) or self._map(digest, folder)
            self._live[digest] = block
            self._used_at[digest] = time.monotonic()
        return block

    def drop(self, digest: str) -> None:
        """Delete what is here of a chunk that can't be opened, so that it can come again."""
        with self._lock:
            self._evict(Eviction(digest, True, True, 0))
        self.on_gone([digest])

    def make_room_for(self, chunk_bytes: int) -> None:
        """Make room for a chunk that is to be fetched; `on_gone` is told what it cost.

        How large it is once decoded is guessed from what is here. Raises DiskFull, with
        everything still in place, when there is no room that the others do not need.
        """
        known = [one for one in self._found().values() if one.block_bytes and one.chunk_bytes]
        ratio = max((one.block_bytes / one.chunk_bytes for one in known), default=DECODED)
        block_bytes = int(ratio * chunk_bytes)
        self._expect_room("", chunk_bytes, block_bytes)
        with self._promise_new(chunk_bytes, block_bytes):
            pass

    # -- room

    def _expect_room(self, digest: str, chunk_bytes: int, block_bytes: int) -> Keep:
        """Return what of a new chunk may be kept. Raises DiskFull."""
        found = self._found()
        found.pop(digest, None)
        taken = sum(one.block_bytes + one.chunk_bytes for one in found.values())
        limit = taken + self._room(found)
        new = Entry(digest, block_bytes, chunk_bytes)
        kept = how_to_keep(list(found.values()), new, limit)
        if kept is None:
            raise self._full(chunk_bytes + block_bytes, limit - taken)
        return kept

    @contextmanager
    def _promise_new(self, chunk_bytes: int, block_bytes: int) -> Iterator[bool]:
        """Make room for a new block and its chunk file, or at least for the block; say which."""
        with ExitStack() as promised:
            try:
                promised.enter_context(self._promise(block_bytes + chunk_bytes, for_new=True))
                both = chunk_bytes > 0
            except DiskFull:
                promised.enter_context(self._promise(block_bytes, for_new=True))
                both = False
            yield both

    @contextmanager
    def _promise(self, needed: int, *, for_new: bool) -> Iterator[None]:
        """Make room for so many bytes, which nobody else gets meanwhile."""
        with self._lock:
            gone = self._make_room(needed, for_new=for_new)
            self._promised += needed
        try:
            if gone:
                self.on_gone(gone)
            yield
        finally:
            with self._lock:
                self._promised -= needed

    def _make_room(self, needed: int, *, for_new: bool) -> list[str]:
        """Evict what must go for so many bytes; return the chunks of which nothing is left."""
        found = self._found()
        room = self._room(found) - self._promised
        if room >= needed:
            return []
        going = what_to_evict(found.values(), needed - room, for_new=for_new)
        if not going:
            raise self._full(needed, room)
        for one in going:
            self._evict(one)
        return sorted(found.keys() - self._found().keys())

    def _full(self, needed: int, room: int) -> DiskFull:
        return DiskFull(
            f"there is no room left on the disk for another chunk: {needed / MB:,.1f} MB are "
            f"needed in {self.folder}, {max(0, room) / MB:,.1f} MB may be taken. Training uses "
            "the chunks that are here"
        )

    # -- what is here

    def _found(self) -> dict[str, Entry]:
        if not self.folder.is_dir():
            return {}
        names = {path.name.removesuffix(".chunk") for path in self.folder.iterdir()}
        digests = [PREFIX + name for name in names if HEX.fullmatch(name)]
        wanted = {} if self.wanted is None else self.wanted(digests)
        return {digest: self._entry(digest, wanted.get(digest)) for digest in digests}

    def _entry(self, digest: str, wanted: Wanted | None) -> Entry:
        return Entry(
            digest,
            block_bytes=sum(map(_size, self._columns(digest))),
            chunk_bytes=_size(self._chunk_path(digest)),
            used_at=self._used_at.get(digest, 0.0),
            in_use=digest in self._live,
            wanted=self.wanted is None or wanted is not None,
            fetch_s=wanted.fetch_s if wanted else None,
            passes=wanted.passes if wanted else 0,
        )

    def _columns(self, digest: str) -> list[Path]:
        try:
            return list(self._path(digest).glob("*.npy"))
        except FileNotFoundError:
            return []  # another thread has just let it go

    def _room(self, found: Mapping[str, Entry]) -> int:
        """Return how many bytes may be added now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free - self.keep_free_bytes
        if self.budget_bytes is None:
            return free
        taken = sum(one.block_bytes + one.chunk_bytes for one in found.values())
        return min(free, self.budget_bytes - taken)

    def _path(self, digest: str) -> Path:
        name = digest.removeprefix(PREFIX)
        if not HEX.fullmatch(name):
            raise ChunkError(f"expected a digest, sha256: and 64 hex digits, got {digest[:80]!r}")
        return self.folder / name

    def _chunk_path(self, digest: str) -> Path:
        return self._path(digest).with_suffix(".chunk")

    def _map(self, digest: str, folder: Path) -> Block:
        columns = {path.stem: _map(path) for path in sorted(folder.glob("*.npy"))}
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise ChunkError(f"the block {folder} is missing or damaged; delete it to mend that")
        return Block(digest, lengths.pop(), columns)

    # -- coming and going

    def _decode(self, digest: str, data: bytes) -> None:
        target = self._path(digest)
        part = _part(target)
        try:
            apart.unpack(data, part)
            part.rename(target)
        except OSError:
            if not target.is_dir():  # else another thread was faster, with the same bytes
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
        files.flush_folder(self.folder)

    def _keep_chunk(self, digest: str, chunk: Path | bytes) -> None:
        if isinstance(chunk, bytes):
            files.write(self._chunk_path(digest), chunk)
        else:
            with suppress(FileNotFoundError):  # another thread was faster
                chunk.replace(self._chunk_path(digest))

    def _evict(self, one: Eviction) -> None:
        if one.chunk:
            self._chunk_path(one.digest).unlink(missing_ok=True)
        if one.block:
            # Gone whole or not at all, as it came. Windows refuses while it is mapped.
            part = _part(self._path(one.digest))
            with suppress(OSError):
                self._path(one.digest).rename(part)
                shutil.rmtree(part, ignore_errors=True)

    def _sweep(self) -> None:
        for part in self.folder.glob(".*.part"):
            if time.time() - part.stat().st_mtime < STALE_S:
                continue
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)


def _ignore(digests: list[str]) -> None:
    pass


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _map(path: Path) -> NDArray[Any]:
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as fault:
        raise ChunkError(
            f"{path} can't be read ({fault}); delete its folder to mend that"
        ) from fault
    if mapped.ndim == 0:
        raise ChunkError(f"{path} holds no records: delete its folder")
    _fault_in(mapped)
    # A plain array over the same map: np.memmap adds Python calls to every batch.
    return np.asarray(mapped)


def _fault_in(mapped: np.memmap[Any, Any]) -> None:
    """Let the system map all of a file at once, read in order, where it is Linux.

    Else the first record of every few pages is a fault of its own, and from a slow disk a
    random read: a third of the time that gathering records takes, with the file in memory.
    """
    if sys.platform == "linux" and isinstance(mapped.base, mmap.mmap):
        with suppress(OSError):  # a kernel before 5.14 does not know it
            mapped.base.madvise(MADV_POPULATE_READ)
