"""General coders: bytes to fewer bytes and back, never trusted with a size.

zstd    quickest both ways
lzma    numbers and what repeats: some 10% fewer bytes, 100 MB/s back
bz2     text, and tables of rows that look alike
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zstandard

from handcar.errors import ChunkError
from handcar.files import MB
from handcar.wire import zstd

Bytes = bytes | memoryview

LEVEL = 9
# Raw LZMA2: our sections have their own checksums and sizes. pb=0: nothing is aligned.
LZMA: list[dict[str, Any]] = [
    {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 8 * MB, "lc": 4, "lp": 0, "pb": 0}
]


@dataclass(frozen=True, slots=True)
class Coder:
    """One general coder: `unsqueeze(data, size)` returns just `size` bytes or raises."""

    squeeze: Callable[[bytes], bytes]
    unsqueeze: Callable[[Bytes, int], bytes]


def _to_zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(data)


def _from_zstd(data: Bytes, size: int) -> bytes:
    return zstd.unsqueeze(data, size, error=ChunkError)


def _to_lzma(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=LZMA)


def _from_lzma(data: Bytes, size: int) -> bytes:
    return _all_of(lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=LZMA), data, size)


def _to_bz2(data: bytes) -> bytes:
    return bz2.compress(data, 9)


def _from_bz2(data: Bytes, size: int) -> bytes:
    return _all_of(bz2.BZ2Decompressor(), data, size)


def _all_of(decompressor: Any, data: Bytes, size: int) -> bytes:
    """Return what is decompressed, which must be `size` bytes and use up the data."""
    try:
        # One byte more than expected is enough to know that there is too much.
        found: bytes = decompressor.decompress(bytes(data), max_length=size + 1)
    except (lzma.LZMAError, OSError, ValueError, EOFError) as fault:
        raise ChunkError(f"the compressed bytes are damaged: {fault}") from fault
    if len(found) != size or not decompressor.eof or decompressor.unused_data:
        raise ChunkError(f"expected {size} bytes under compression, there are more or fewer")
    return found


CODERS = {
    "zstd": Coder(_to_zstd, _from_zstd),
    "lzma": Coder(_to_lzma, _from_lzma),
    "bz2": Coder(_to_bz2, _from_bz2),
}
