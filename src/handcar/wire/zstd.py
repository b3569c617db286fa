"""Zstandard, never trusted with a size.

A frame must declare exactly the size that the model's own shapes ask for, and it is checked
before anything is allocated.
"""

from __future__ import annotations

import zstandard

from handcar.errors import Corrupt, FrameError

LEVEL = 3


def squeeze(data: bytes | memoryview) -> bytes:
    """Return `data` under Zstandard, its size declared."""
    return zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(data)


def unsqueeze(data: bytes | memoryview, size: int, *, error: type[Corrupt] = FrameError) -> bytes:
    """Return the `size` bytes under Zstandard. Raises `error` when they are not just that."""
    try:
        declared = zstandard.frame_content_size(data)
        if declared != size:
            raise error(f"expected {size} bytes under compression, the frame declares {declared}")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=max(size, 1))
    except zstandard.ZstdError as fault:
        raise error(f"the compressed bytes are damaged: {fault}") from fault
