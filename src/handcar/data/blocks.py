"""Blocks: chunks decoded once, kept on disk as .npy files and memory-mapped.

    <folder>/<hex digits of the digest>/x.npy, y.npy

A block's folder appears whole: it is filled under another name and then renamed, so what a
kill -9 leaves behind is never taken for a block, and is decoded again.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar import files
from handcar.data import chunks
from handcar.errors import ChunkError

PREFIX = "sha256:"
HEX = re.compile(r"[0-9a-f]{64}")
STALE_S = 3600.0
"""A half-written folder is swept away after so long: another process may still be at it."""


@dataclass(frozen=True, slots=True)
class Block:
    """A decoded chunk: read-only arrays, mapped from disk for as long as this lives."""

    digest: str
    records: int
    columns: Mapping[str, NDArray[Any]]


class BlockStore:
    """The blocks in one folder. May be used from several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sweep()

    def digests(self) -> list[str]:
        """Return the digests of all blocks that are here, sorted."""
        if not self.folder.is_dir():
            return []
        names = (path.name for path in self.folder.iterdir())
        return sorted(PREFIX + name for name in names if HEX.fullmatch(name))

    def add(self, digest: str, chunk: Path | bytes) -> Block:
        """Decode a chunk, keep and open its block; harmless when it is here already.

        Raises ChunkError when the bytes are damaged or not those of `digest`, DiskFull.
        """
        target = self._path(digest)
        if not target.is_dir():
            data = chunk if isinstance(chunk, bytes) else chunk.read_bytes()
            if files.digest(data) != digest:
                raise ChunkError(f"expected a chunk {digest}, got {files.digest(data)}")
            self._keep(target, chunks.decode(data))
        return self.open(digest)

    def open(self, digest: str) -> Block:
        """Map a block. Raises ChunkError when it is not here or can't be read."""
        folder = self._path(digest)
        columns = {path.stem: _map(path) for path in sorted(folder.glob("*.npy"))}
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise ChunkError(f"the block {folder} is missing or damaged; delete it to mend that")
        return Block(digest, lengths.pop(), columns)

    def _path(self, digest: str) -> Path:
        name = digest.removeprefix(PREFIX)
        if not HEX.fullmatch(name):
            raise ChunkError(f"expected a digest, sha256: and 64 hex digits, got {digest[:80]!r}")
        return self.folder / name

    def _keep(self, target: Path, columns: chunks.Columns) -> None:
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            for name, column in columns.items():
                with files.whole(part / f"{name}.npy") as file:
                    np.save(file, column, allow_pickle=False)
            part.rename(target)
        except OSError:
            if not target.is_dir():  # else another thread was faster, with the same bytes
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
        files.flush_folder(self.folder)

    def _sweep(self) -> None:
        for part in self.folder.glob(".*.part"):
            if time.time() - part.stat().st_mtime > STALE_S:
                shutil.rmtree(part, ignore_errors=True)


def _map(path: Path) -> NDArray[Any]:
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as fault:
        raise ChunkError(
            f"{path} can't be read ({fault}); delete its folder to mend that"
        ) from fault
    if mapped.ndim == 0:
        raise ChunkError(f"{path} holds no records: delete its folder")
    # A plain array over the same map: np.memmap adds Python calls to every batch.
    return np.asarray(mapped)
