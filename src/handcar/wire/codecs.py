"""How arrays become few bytes: exact byte planes, and the lossy step codec.

Zstandard is never trusted with a size: a frame must declare exactly the size that the
model's own shapes ask for, and it is checked before anything is allocated.
"""

from __future__ import annotations

import numpy as np
import zstandard
from numpy.typing import NDArray

from handcar.errors import Corrupt, FrameError
from handcar.wire.layout import Flat

LEVEL = 3
LARGEST = 127
"""Symbols are clipped to this many steps on either side."""
ESCAPE = 3


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


def encode_planes(values: Flat) -> bytes:
    """Return float32 values exactly: the four bytes of each split into planes, squeezed.

    Planes put the exponents side by side, where Zstandard finds what they share.
    """
    planes = np.ascontiguousarray(values, dtype="<f4").view(np.uint8).reshape(-1, 4).T
    return squeeze(np.ascontiguousarray(planes).tobytes())


def decode_planes(data: bytes | memoryview, size: int) -> Flat:
    """Return the `size` float32 values that `encode_planes` was given. Raises FrameError."""
    raw = unsqueeze(data, size * 4)
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(4, size)
    return np.ascontiguousarray(planes.T).view("<f4").reshape(-1).astype(np.float32, copy=False)


def step_scale(values: Flat, k: float) -> float:
    """Return the step for one tensor: k times its root mean square, as a float32 number."""
    if values.size == 0:
        return 0.0
    mean_square = np.square(values, dtype=np.float64).mean()
    return float(np.float32(k * np.sqrt(mean_square)))


def to_symbols(values: Flat, scale: float) -> NDArray[np.int8]:
    """Return the nearest whole number of steps for each value, within +-127."""
    if scale == 0.0:
        return np.zeros(values.size, dtype=np.int8)
    steps = np.rint(values / np.float32(scale))
    symbols: NDArray[np.int8] = np.clip(steps, -LARGEST, LARGEST).astype(np.int8)
    return symbols


def from_symbols(symbols: NDArray[np.int8], scale: float) -> Flat:
    """Return symbols times the step: one float32 multiplication each, the same everywhere."""
    return symbols.astype(np.float32) * np.float32(scale)


def pack_symbols(symbols: NDArray[np.int8]) -> tuple[bytes, bytes]:
    """Return four symbols to a byte (0, +1, -1, escape) and the escaped ones apart, squeezed."""
    codes = np.full(-(-symbols.size // 4) * 4, 0, dtype=np.uint8)
    body = codes[: symbols.size]
    body[symbols == 1] = 1
    body[symbols == -1] = 2
    large = np.abs(symbols.astype(np.int16)) > 1
    body[large] = ESCAPE
    quads = codes.reshape(-1, 4)
    packed = quads[:, 0] | quads[:, 1] << 2 | quads[:, 2] << 4 | quads[:, 3] << 6
    return squeeze(packed.tobytes()), squeeze(symbols[large].tobytes())


def unpack_symbols(packed: memoryview, escaped: memoryview, size: int) -> NDArray[np.int8]:
    """Return the `size` symbols that `pack_symbols` was given. Raises FrameError."""
    quads = np.frombuffer(unsqueeze(packed, -(-size // 4)), dtype=np.uint8)
    codes = np.stack([quads >> shift & 3 for shift in (0, 2, 4, 6)], axis=1).reshape(-1)[:size]
    symbols = np.array([0, 1, -1, 0], dtype=np.int8)[codes]
    large = codes == ESCAPE
    count = int(large.sum())
    symbols[large] = np.frombuffer(unsqueeze(escaped, count), dtype=np.int8)
    return symbols
