"""How arrays become few numbers and bytes: exact planes, bfloat16, and the step codec.

Nothing here knows of frames or tensors: flat vectors in, bytes or whole numbers out.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from handcar.wire.compiled import kernels
from handcar.wire.layout import Flat
from handcar.wire.zstd import squeeze, unsqueeze

BLOCK = 1 << 16
"""Numbers at once: few enough for a core's own cache."""
CACHE_LINE = 64
LARGEST = 127
"""Symbols are clipped to this many steps on either side."""


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


def round_bf16(values: Flat) -> Flat:
    """Return float32 values rounded to the nearest bfloat16, ties to even, still as float32.

    Integer arithmetic on the bits, so it is the same everywhere. Infinities and NaN stay so.
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    result = np.empty_like(values)
    for begin in range(0, values.size, BLOCK):
        some = values[begin : begin + BLOCK]
        bits = some.view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
        rounded &= np.uint32(0xFFFF0000)
        result[begin : begin + BLOCK] = np.where(np.isfinite(some), rounded.view(np.float32), some)
    return result


def encode_bf16(values: Flat) -> bytes:
    """Return values that are bfloat16 already, exactly: exponents and the rest apart, squeezed.

    The sign goes to the end, so that one byte of each number is its whole exponent.
    """
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u2")[1::2]
    turned = np.ascontiguousarray(bits << np.uint16(1) | bits >> np.uint16(15), dtype="<u2")
    planes = turned.view(np.uint8).reshape(-1, 2).T
    return squeeze(np.ascontiguousarray(planes).tobytes())


def decode_bf16(data: bytes | memoryview, size: int) -> Flat:
    """Return the `size` float32 values that `encode_bf16` was given. Raises FrameError."""
    planes = np.frombuffer(unsqueeze(data, size * 2), dtype=np.uint8).reshape(2, size)
    turned = np.ascontiguousarray(planes.T).view("<u2").reshape(-1)
    bits = np.zeros(2 * size, dtype="<u2")
    bits[1::2] = turned >> np.uint16(1) | turned << np.uint16(15)
    return bits.view("<f4").astype(np.float32, copy=False)


def step_scale(values: Flat, k: float) -> float:
    """Return the step for one tensor: k times its root mean square, as a float32 number."""
    if values.size == 0:
        return 0.0
    if (loops := kernels(values.size)) is not None:
        mean_square = loops.squares(values) / values.size
    else:
        mean_square = np.square(values, dtype=np.float64).mean()
    return float(np.float32(k * np.sqrt(mean_square)))


def to_symbols(values: Flat, scale: float) -> NDArray[np.int8]:
    """Return the nearest whole number of steps for each value, within +-127."""
    if scale == 0.0:
        return np.zeros(values.shape, dtype=np.int8)
    steps = np.rint(values / np.float32(scale))
    symbols: NDArray[np.int8] = np.clip(steps, -LARGEST, LARGEST).astype(np.int8)
    return symbols


def to_matrix(values: Flat, scale: float) -> NDArray[np.int8]:
    """Return the symbols of (inputs, units), turned over: what is quiet lies side by side then."""
    loops = kernels(values.size)
    if loops is None or not (scale > 0.0 and math.isfinite(scale)):
        return to_symbols(values, scale).T
    numbers = np.empty(values.shape[::-1], dtype=np.int8)
    loops.turn(values, np.float32(scale), numbers)
    return numbers


def from_matrix(numbers: NDArray[np.int8] | Flat, scale: float, out: Flat) -> None:
    """Fill `out`, (inputs, units), with symbols or sums of (units, inputs) times the step."""
    if (loops := kernels(out.size)) is not None:
        loops.turn_back(numbers, np.float32(scale), out)
        return
    # A cache line of each row at a time: as a whole it takes much longer.
    for begin in range(0, len(out), CACHE_LINE):
        out[begin : begin + CACHE_LINE] = from_symbols(
            numbers[:, begin : begin + CACHE_LINE].T, scale
        )


def from_symbols(symbols: NDArray[np.int8] | Flat, scale: float) -> Flat:
    """Return symbols times the step: one float32 multiplication each, the same everywhere."""
    return symbols.astype(np.float32) * np.float32(scale)
