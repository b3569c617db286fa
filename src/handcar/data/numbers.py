"""Forms of a column of numbers: the bytes that a general coder then makes few.

    plain        in C order
    differences  each whole number less its neighbour before, along one axis of the record
                 after the other, and small ones of either sign as small numbers (zigzag)
    features     all records' first numbers, then all their second ones, ...
    dictionary   the same, each number as its place among the different values of its feature

Numbers wider than a byte are split into planes: all lowest bytes, then the next, ... Every
form gives back the same bits, the sign of a zero and the bits of a NaN among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.data.spec import Spec
from handcar.errors import ChunkError

Array = NDArray[Any]
Extras = Mapping[str, Any]
MOST_FEATURES = 4096
"""Records of more numbers are hardly rows of a table."""
COUNT = np.dtype("<u4")
WIDEST_PLACE = 4


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write numbers: `size` says how many bytes, from the header alone."""

    fits: Callable[[Array], bool]
    write: Callable[[Array], tuple[bytes, dict[str, Any]]]
    size: Callable[[Spec, int, Extras], int]
    read: Callable[[bytes, Spec, int, Extras], Array]


def _planes(array: Array) -> bytes:
    plain = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return plain.reshape(-1, array.dtype.itemsize).T.tobytes()


def _from_planes(data: bytes | memoryview, dtype: np.dtype[Any]) -> Array:
    planes = np.frombuffer(data, dtype=np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(planes.T).reshape(-1).view(dtype)


def _size(spec: Spec, records: int, _: Extras) -> int:
    return records * spec.record_bytes


# -- plain -----------------------------------------------------------------------------------


def _write_plain(array: Array) -> tuple[bytes, dict[str, Any]]:
    return _planes(array), {}


def _read_plain(data: bytes, spec: Spec, records: int, _: Extras) -> Array:
    return _from_planes(data, spec.little).reshape(records, *spec.shape)


# -- differences -----------------------------------------------------------------------------


def _has_differences(array: Array) -> bool:
    return array.dtype.kind in "iu" and any(side > 1 for side in array.shape[1:])


def _write_differences(array: Array) -> tuple[bytes, dict[str, Any]]:
    for axis in range(1, array.ndim):
        # The zero in front keeps the first value of each line as it is.
        array = np.diff(array, axis=axis, prepend=array.dtype.type(0))
    signed = array.view(_kind("i", array))
    zigzag = (signed << 1) ^ (signed >> (8 * signed.itemsize - 1))
    return _planes(zigzag), {}


def _read_differences(data: bytes, spec: Spec, records: int, extras: Extras) -> Array:
    if spec.dtype[0] not in "iu":
        raise ChunkError(f"column {spec.name}: only whole numbers have differences")
    found = _read_plain(data, spec, records, extras)
    zigzag = found.view(_kind("u", found))
    one = zigzag.dtype.type(1)
    array: Array = ((zigzag >> one) ^ (~(zigzag & one) + one)).view(spec.little)
    for axis in range(1, array.ndim):
        array = np.add.accumulate(array, axis=axis, dtype=array.dtype)
    return array


def _kind(kind: str, array: Array) -> np.dtype[Any]:
    return np.dtype(f"<{kind}{array.dtype.itemsize}")


# -- features --------------------------------------------------------------------------------


def _has_features(array: Array) -> bool:
    return 2 <= _features(array) <= MOST_FEATURES


def _features(array: Array) -> int:
    return int(np.prod(array.shape[1:], dtype=np.int64))


def _write_features(array: Array) -> tuple[bytes, dict[str, Any]]:
    return _planes(array.reshape(len(array), -1).T), {}


def _read_features(data: bytes, spec: Spec, records: int, _: Extras) -> Array:
    by_feature = _from_planes(data, spec.little).reshape(spec.numbers, records)
    return np.ascontiguousarray(by_feature.T).reshape(records, *spec.shape)


# -- dictionary ------------------------------------------------------------------------------


def _may_repeat(array: Array) -> bool:
    return array.dtype.itemsize > 1 and _features(array) <= MOST_FEATURES


def _write_dictionary(array: Array) -> tuple[bytes, dict[str, Any]]:
    # As whole numbers: 0.0 and -0.0 are equal, and must not become one.
    bits = array.view(_kind("u", array)).reshape(len(array), -1)
    found = [np.unique(feature, return_inverse=True) for feature in bits.T]
    counts = np.array([len(values) for values, _ in found], dtype=COUNT)
    width = max(1, (int(counts.max() - 1).bit_length() + 7) // 8)
    places = [
        place.astype("<u4").view(np.uint8).reshape(-1, 4).T[:width].tobytes() for _, place in found
    ]
    values = np.concatenate([values for values, _ in found])
    return b"".join([_planes(counts), _planes(values), *places]), {
        "values": len(values),
        "width": width,
    }


def _dictionary_size(spec: Spec, records: int, extras: Extras) -> int:
    values = _within(spec, extras.get("values"), records * spec.numbers)
    width = _within(spec, extras.get("width"), min(spec.little.itemsize, WIDEST_PLACE))
    places = records * spec.numbers * width
    return COUNT.itemsize * spec.numbers + values * spec.little.itemsize + places


def _within(spec: Spec, number: Any, highest: int) -> int:
    if type(number) is not int or not 1 <= number <= highest or spec.numbers > MOST_FEATURES:
        raise ChunkError(f"column {spec.name}: its dictionary is unsound")
    return number


def _read_dictionary(data: bytes, spec: Spec, records: int, extras: Extras) -> Array:
    first = COUNT.itemsize * spec.numbers
    second = first + extras["values"] * spec.little.itemsize
    counts = _from_planes(memoryview(data)[:first], COUNT).astype(np.int64)
    if counts.sum() != extras["values"]:
        raise ChunkError(f"column {spec.name}: its dictionary is unsound")
    values = _from_planes(memoryview(data)[first:second], spec.little)
    places = np.frombuffer(data, np.uint8, offset=second).reshape(spec.numbers, -1, records)
    array = np.empty((records, spec.numbers), spec.little)
    for feature, (start, count) in enumerate(_parts(counts)):
        place = _widened(places[feature])
        if place.max() >= count:
            raise ChunkError(f"column {spec.name}: a number is not in its dictionary")
        array[:, feature] = values[start : start + count][place]
    return array.reshape(records, *spec.shape)


def _parts(counts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    return zip((np.cumsum(counts) - counts).tolist(), counts.tolist(), strict=True)


def _widened(planes: NDArray[np.uint8]) -> NDArray[np.uint32]:
    wide = np.zeros((planes.shape[1], WIDEST_PLACE), np.uint8)
    wide[:, : len(planes)] = planes.T
    return wide.view("<u4").reshape(-1)


FORMS = {
    "plain": Form(lambda _: True, _write_plain, _size, _read_plain),
    "differences": Form(_has_differences, _write_differences, _size, _read_differences),
    "features": Form(_has_features, _write_features, _size, _read_features),
    "dictionary": Form(_may_repeat, _write_dictionary, _dictionary_size, _read_dictionary),
}
