"""A short image of an update, by which many can be compared without having them all at hand.

A count sketch (M. Charikar et al., "Finding frequent items in data streams", 2002): each number
gets a sign of a secret key and is added to one of 2,048 places. It is linear, and the dot
product of two sketches is that of the updates, give or take |a| |b| / 45. Without the key
nobody can make an update that looks like another from here.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from handcar.wire.coded import Coded, Part, inputs_and_units
from handcar.wire.compiled import kernels
from handcar.wire.layout import Flat, Layout

SIZE = 2048
BLOCK = 1 << 18
"""Numbers at once: few enough for a core's own cache."""
ALIKE = 0.97
"""Updates of a larger cosine are taken for one and the same work."""

Sketch = NDArray[np.float32]


def sketch(change: Flat | Coded, layout: Layout, key: bytes) -> Sketch:
    """Return the sketch of the trainable part of a difference: float32 of shape (2048,).

    That of a coded one adds up whole numbers, tensor by tensor, so it is the same in any order.
    """
    if isinstance(change, Coded):
        return _sketch_of_coded(change, layout, key)
    pool, turns = _signs(key), _turns(key, -(-change.size // BLOCK))
    places = np.zeros(SIZE, dtype=np.float32)
    signed = np.zeros(BLOCK, dtype=np.float32)
    for turn, start in zip(turns, range(0, change.size, BLOCK), strict=True):
        block = change[start : start + BLOCK]
        np.multiply(block, pool[turn : turn + block.size], out=signed[: block.size])
        signed[block.size :] = 0
        _forget_statistics(signed, start, layout)
        places += signed.reshape(-1, SIZE).sum(axis=0)
    return places


def _sketch_of_coded(change: Coded, layout: Layout, key: bytes) -> Sketch:
    turns = np.array(_turns(key, -(-layout.size // BLOCK)), dtype=np.int64)
    both = zip(layout.tensors, layout.slices, strict=True)
    starts = [place.start for tensor, place in both if tensor.kind == "trainable"]
    places = np.zeros(SIZE)
    for part, start in zip(change.parts, starts, strict=True):
        places += part.scale * _folded(part, start, _small_signs(key), turns)
    return places.astype(np.float32)


def _folded(
    part: Part, start: int, signs: NDArray[np.int8], turns: NDArray[np.int64]
) -> NDArray[np.int64]:
    inputs, units = inputs_and_units(part.tensor)
    whole = np.zeros(SIZE, dtype=np.int64)
    sparse = part.sparse
    if (loops := kernels(part.tensor.size)) is not None:
        found = (sparse.counts, sparse.places, sparse.numbers)
        loops.fold(found, (start, inputs, units), signs, turns, whole)
        return whole
    for begin, which in sparse.blocks():
        unit, column = np.divmod(begin + sparse.places[which].astype(np.int64), inputs)
        flat = start + column * units + unit
        signed = signs[turns[flat // BLOCK] + flat % BLOCK] * sparse.numbers[which].astype(np.int16)
        whole += np.bincount(flat % SIZE, signed, minlength=SIZE).astype(np.int64)
    return whole


def is_like_one_of(image: Sketch, others: NDArray[np.float32]) -> bool:
    """Say whether an update's sketch is nearly that of another, in whatever length.

    `others` is of shape (count, 2048). Where honest updates are much alike anyway, as those of
    small models in their first rounds are, ten times as alike is asked for.
    """
    if not len(others):
        return False
    units = others / np.maximum(np.linalg.norm(others, axis=1, keepdims=True), 1e-30)
    nearest = float((units @ image).max() / max(float(np.linalg.norm(image)), 1e-30))
    return nearest > max(ALIKE, 1.0 - (1.0 - _usually(units)) / 10)


def _usually(units: NDArray[np.float32]) -> float:
    """Return the median cosine of updates with the one that is most like each."""
    if len(units) < 2:
        return 0.0
    cosines = np.einsum("ij,kj->ik", units, units)  # too small for a library's threads
    np.fill_diagonal(cosines, -1.0)
    return float(np.median(cosines.max(axis=1)))


def _forget_statistics(signed: Flat, start: int, layout: Layout) -> None:
    for place in layout.statistic_slices:
        if place.start < start + BLOCK and place.stop > start:
            signed[max(0, place.start - start) : place.stop - start] = 0


@lru_cache(maxsize=4)
def _signs(key: bytes) -> Flat:
    """Return two blocks' worth of signs; each block of an update reads them from another place."""
    bits = _random(key, b"signs").integers(0, 2, 2 * BLOCK, dtype=np.int8)
    return (1 - 2 * bits).astype(np.float32)


@lru_cache(maxsize=4)
def _small_signs(key: bytes) -> NDArray[np.int8]:
    return _signs(key).astype(np.int8)


@lru_cache(maxsize=16)
def _turns(key: bytes, blocks: int) -> tuple[int, ...]:
    return tuple(_random(key, b"turns").integers(0, BLOCK, blocks).tolist())


def _random(key: bytes, use: bytes) -> np.random.Generator:
    digest = hashlib.sha256(use + b":" + key).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], np.uint64)))
