"""The last stage of the step codec: matrices of whole numbers to bytes, by one of two ways.

    packed    0, +1, -1 and an escape, four to a byte, under Zstandard: quick
    context   asymmetric numeral systems, a table for how busy a row and a column are: small

Both are lossless, both take every trainable tensor as a matrix whose rows are its last axis
(a Dense layer's units): what is quiet lies side by side then. A stage is three functions:
`encode(matrices)` gives its sections, `decode(sections, shapes)` the flat numbers and
`decode_sparse(sections, shapes)` what is not 0 in each matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.errors import FrameError
from handcar.wire import ans, sparse
from handcar.wire.compiled import kernels
from handcar.wire.sparse import Numbers, Sparse
from handcar.wire.zstd import squeeze, unsqueeze

Shape = tuple[int, int]
Sections = Sequence[bytes | memoryview]
Levels = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Of the rows and the columns of a matrix."""

PACKED_ESCAPE = 3
CONTEXTS = 41
"""0 for what lies in a row or column without anything; then a half octave each."""
CONTEXT_ALONE = 1 << 18
LEVELS_AN_OCTAVE = 2
MIDDLE = 20
ESCAPE = 7
LARGEST_COUNTED = 4
LARGEST_SYMBOL = 3
"""Larger numbers are escapes, and travel apart."""


@dataclass(frozen=True)
class Stage:
    """One way to write matrices of whole numbers."""

    encode: Callable[[Sequence[Numbers]], list[bytes]]
    decode: Callable[[Sections, Sequence[Shape]], Numbers]
    decode_sparse: Callable[[Sections, Sequence[Shape]], list[Sparse]]
    sections: int


# -- packed ----------------------------------------------------------------------------------


def _encode_packed(matrices: Sequence[Numbers]) -> list[bytes]:
    numbers = _flat(matrices)
    codes = np.zeros(-(-numbers.size // 4) * 4, dtype=np.uint8)
    body = codes[: numbers.size]
    body[numbers == 1] = 1
    body[numbers == -1] = 2
    large = (numbers > 1) | (numbers < -1)
    body[large] = PACKED_ESCAPE
    quads = codes.reshape(-1, 4)
    packed = quads[:, 0] | quads[:, 1] << 2 | quads[:, 2] << 4 | quads[:, 3] << 6
    return [squeeze(packed.tobytes()), squeeze(numbers[large].tobytes())]


def _decode_packed(sections: Sections, shapes: Sequence[Shape]) -> Numbers:
    size = _size(shapes)
    quads = np.frombuffer(unsqueeze(sections[0], -(-size // 4)), dtype=np.uint8)
    codes = np.stack([quads >> shift & 3 for shift in (0, 2, 4, 6)], axis=1).reshape(-1)[:size]
    numbers = np.array([0, 1, -1, 0], dtype=np.int8)[codes]
    large = codes == PACKED_ESCAPE
    numbers[large] = np.frombuffer(unsqueeze(sections[1], int(large.sum())), dtype=np.int8)
    return numbers


def _sparse_packed(sections: Sections, shapes: Sequence[Shape]) -> list[Sparse]:
    return _each_sparse(_decode_packed(sections, shapes), shapes)


# -- context ---------------------------------------------------------------------------------


def _encode_context(matrices: Sequence[Numbers]) -> list[bytes]:
    levels = [_levels(matrix) for matrix in matrices]
    numbers = _flat([_lively(*both) for both in zip(matrices, levels, strict=True)])
    symbols = _symbols(numbers)
    large = symbols == ESCAPE
    table, states, words = ans.encode(symbols, _contexts(levels), CONTEXTS)
    activity = np.concatenate([np.empty(0, np.uint8), *(part for pair in levels for part in pair)])
    return [
        squeeze(activity.tobytes()),
        squeeze(table.astype("<u2").tobytes()),
        states.astype("<u4").tobytes(),
        words.astype("<u2").tobytes(),
        squeeze(numbers[large].tobytes()),
    ]


def _symbols(numbers: Numbers) -> ans.Symbols:
    if (loops := kernels(numbers.size)) is not None:
        symbols = np.empty(numbers.size, np.uint8)
        loops.symbols(numbers, symbols)
        return symbols
    size = np.abs(numbers)
    symbols = ((size << 1) - (numbers > 0)).astype(np.uint8)
    symbols[size > LARGEST_SYMBOL] = ESCAPE
    return symbols


def _lively(matrix: Numbers, levels: Levels) -> Numbers:
    """Return the rows and columns that hold anything, which alone are coded."""
    rows, columns = levels
    if rows.all() and columns.all():
        return matrix
    return matrix[rows > 0].take(np.flatnonzero(columns), axis=1)


def _decode_context(sections: Sections, shapes: Sequence[Shape]) -> Numbers:
    if (loops := _loops(shapes)) is None:
        return _decode_densely(sections, shapes)
    numbers = np.zeros(_size(shapes), np.int8)
    start = 0
    for (rows, columns), found in zip(shapes, _found(loops, sections, shapes), strict=True):
        sparse.put(found, numbers[start : start + rows * columns])
        start += rows * columns
    return numbers


def _sparse_context(sections: Sections, shapes: Sequence[Shape]) -> list[Sparse]:
    if (loops := _loops(shapes)) is None:
        return _each_sparse(_decode_densely(sections, shapes), shapes)
    return _found(loops, sections, shapes)


def _loops(shapes: Sequence[Shape]) -> Any | None:
    """Return the compiled loops, which reckon with places of four bytes."""
    return kernels(_size(shapes)) if _size(shapes) < 1 << 32 else None


def _decode_densely(sections: Sections, shapes: Sequence[Shape]) -> Numbers:
    """Return the numbers as NumPy reads them."""
    levels = _levels_of(sections, shapes)
    contexts = _contexts(levels)
    numbers = ans.decode(_table(sections[1]), contexts, *_lanes(sections, contexts.size))
    large = numbers == ans.ESCAPED
    numbers[large] = _escaped(sections, large)
    return numbers if numbers.size == _size(shapes) else _with_zeros(numbers, levels)


def _found(loops: Any, sections: Sections, shapes: Sequence[Shape]) -> list[Sparse]:
    """Return what the compiled loops find in each matrix."""
    levels = _levels_of(sections, shapes)
    live = [(np.flatnonzero(rows), np.flatnonzero(columns)) for rows, columns in levels]
    sizes = [rows.size * columns.size for rows, columns in live]
    lanes = _lanes(sections, sum(sizes))
    places, numbers = ans.find(loops, _table(sections[1]), _live(levels), *lanes)
    large = numbers == ans.ESCAPED
    numbers[large] = _escaped(sections, large)
    if not numbers.all():  # nobody need write a 0 at such length, but anybody can
        places, numbers = places[numbers != 0], numbers[numbers != 0]
    starts = np.cumsum([0, *sizes]).astype(np.uint32)  # as places are, or those would be copied
    cuts = np.searchsorted(places, starts)
    found = []
    for at, ((rows, columns), among) in enumerate(zip(shapes, live, strict=True)):
        which = slice(cuts[at], cuts[at + 1])
        counts = np.zeros(-(-rows * columns // sparse.BLOCK), np.int64)
        where = np.empty(cuts[at + 1] - cuts[at], np.uint16)
        loops.locate(places[which] - starts[at], among, columns, counts, where)
        found.append(Sparse(counts, where, numbers[which]))
    return found


def _live(levels: Sequence[Levels]) -> ans.Levels:
    """Return the levels of the rows and columns that hold anything, of all matrices at once."""
    rows = [one[one > 0] for one, _ in levels]
    columns = [one[one > 0] for _, one in levels]
    matrices, size, first_row, first_column = [], 0, 0, 0
    for of_rows, of_columns in zip(rows, columns, strict=True):
        size += of_rows.size * of_columns.size
        if of_rows.size * of_columns.size:
            matrices.append((size, first_row, first_column, of_columns.size))
        first_row += of_rows.size
        first_column += of_columns.size
    none = np.empty(0, np.uint8)
    return (
        np.concatenate([none, *rows]),
        np.concatenate([none, *columns]),
        np.array(matrices, np.int64).reshape(-1, 4),
    )


def _levels_of(sections: Sections, shapes: Sequence[Shape]) -> list[Levels]:
    activity = np.frombuffer(unsqueeze(sections[0], sum(map(sum, shapes))), dtype=np.uint8)
    levels, start = [], 0
    for rows, columns in shapes:
        middle, end = start + rows, start + rows + columns
        levels.append((activity[start:middle], activity[middle:end]))
        start = end
    return levels


def _escaped(sections: Sections, large: NDArray[np.bool_]) -> Numbers:
    """Return the numbers that travel apart."""
    return np.frombuffer(unsqueeze(sections[4], int(np.count_nonzero(large))), dtype=np.int8)


def _with_zeros(numbers: Numbers, levels: Sequence[Levels]) -> Numbers:
    """Return the numbers of the rows and columns that hold anything among those that don't."""
    everything = np.zeros(sum(rows.size * columns.size for rows, columns in levels), np.int8)
    start, taken = 0, 0
    for rows, columns in levels:
        live_rows, live_columns = np.flatnonzero(rows), np.flatnonzero(columns)
        matrix = everything[start : start + rows.size * columns.size]
        some = numbers[taken : taken + live_rows.size * live_columns.size]
        matrix.reshape(rows.size, columns.size)[np.ix_(live_rows, live_columns)] = some.reshape(
            live_rows.size, live_columns.size
        )
        start, taken = start + matrix.size, taken + some.size
    return everything


def _table(section: bytes | memoryview) -> ans.Table:
    raw = unsqueeze(section, CONTEXTS * ans.SIZES * ans.SYMBOLS * 2)
    return ans.checked(np.frombuffer(raw, dtype="<u2").reshape(-1, ans.SYMBOLS).astype(np.uint16))


def _lanes(sections: Sections, size: int) -> tuple[ans.States, ans.Words]:
    lanes = ans.lanes_for(size)
    if len(sections[2]) != 4 * lanes or len(sections[3]) % 2:
        raise FrameError(f"expected the states of {lanes} lanes, and words of two bytes")
    states = np.frombuffer(sections[2], dtype="<u4").astype(np.uint32)
    return states, np.frombuffer(sections[3], dtype="<u2").astype(np.uint16)


def _levels(matrix: Numbers) -> Levels:
    """Return how busy each row is, and each column against the whole, as levels.

    0 is a row or column of zeros alone. Only the encoder reckons with floats here.
    """
    if matrix.size == 0:
        return np.zeros(matrix.shape[0], np.uint8), np.zeros(matrix.shape[1], np.uint8)
    if 1 in matrix.shape:  # a bias: its numbers would each be a row or column of their own
        level = int(_level(np.abs(matrix).mean(dtype=np.float32, keepdims=True)).max(initial=0))
        return np.full(matrix.shape[0], level, np.uint8), np.full(matrix.shape[1], MIDDLE, np.uint8)
    in_rows, in_columns = _activity(matrix)
    rows = in_rows.astype(np.float32) / np.float32(matrix.shape[1])
    columns = in_columns.astype(np.float32) / np.float32(matrix.shape[0])
    return _level(rows), _level(columns / max(float(rows.mean()), 1e-9))


def _activity(matrix: Numbers) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sums of how large the numbers are, each at most 4, by row and by column."""
    rows, columns = np.zeros(matrix.shape[0], np.int64), np.zeros(matrix.shape[1], np.int64)
    if (loops := kernels(matrix.size)) is not None:
        loops.activity(np.ascontiguousarray(matrix), LARGEST_COUNTED, rows, columns)
        return rows, columns
    size = np.minimum(np.abs(matrix), LARGEST_COUNTED)
    return size.sum(axis=1, dtype=np.int64), size.sum(axis=0, dtype=np.int64)


def _level(activity: NDArray[np.float32]) -> NDArray[np.uint8]:
    octaves = np.log2(np.maximum(activity, 1e-9))
    level = np.clip(np.rint(LEVELS_AN_OCTAVE * octaves) + MIDDLE, 1, CONTEXTS - 1)
    return np.where(activity > 0, level, 0).astype(np.uint8)


def _contexts(levels: Sequence[Levels]) -> ans.Symbols:
    """Return the context of every number that is coded: a row's level and a column's, added."""
    live = [(rows[rows > 0], columns[columns > 0]) for rows, columns in levels]
    contexts = np.empty(sum(rows.size * columns.size for rows, columns in live), dtype=np.uint8)
    start = 0
    for rows, columns in live:
        place = contexts[start : start + rows.size * columns.size]
        _add_levels(rows, columns, place)
        start += place.size
    return contexts


def _add_levels(rows: NDArray[np.uint8], columns: NDArray[np.uint8], out: ans.Symbols) -> None:
    if (loops := kernels(out.size)) is not None:
        loops.contexts(rows, columns, MIDDLE, CONTEXTS - 1, out)
        return
    both = rows.astype(np.int16)[:, None] + (columns.astype(np.int16) - MIDDLE)
    out[:] = np.clip(both, 1, CONTEXTS - 1).astype(np.uint8).reshape(-1)


# -- both ------------------------------------------------------------------------------------


def _flat(matrices: Sequence[Numbers]) -> Numbers:
    return np.concatenate([np.empty(0, np.int8), *(matrix.reshape(-1) for matrix in matrices)])


def _each_sparse(numbers: Numbers, shapes: Sequence[Shape]) -> list[Sparse]:
    ends = np.cumsum([rows * columns for rows, columns in shapes])
    return [sparse.of(one) for one in np.split(numbers, ends)[: len(shapes)]]


def _size(shapes: Sequence[Shape]) -> int:
    return sum(rows * columns for rows, columns in shapes)


STAGES = {
    "packed": Stage(_encode_packed, _decode_packed, _sparse_packed, 2),
    "context": Stage(_encode_context, _decode_context, _sparse_context, 5),
}


def encode(matrices: Sequence[Numbers]) -> tuple[str, list[bytes]]:
    """Return the id of the stage that makes fewest bytes of these, and its sections."""
    # Tables and states are soon paid for: past a size only one of them is worth the time.
    many = sum(matrix.size for matrix in matrices) > CONTEXT_ALONE
    names = ["context"] if many else list(STAGES)
    made = [(name, STAGES[name].encode(matrices)) for name in names]
    return min(made, key=lambda one: sum(map(len, one[1])))


def decode(name: object, sections: Sections, shapes: Sequence[Shape]) -> Numbers:
    """Return the numbers of all matrices, one after the other. Raises FrameError."""
    return _stage(name, sections).decode(sections, shapes)


def decode_sparse(name: object, sections: Sections, shapes: Sequence[Shape]) -> list[Sparse]:
    """Return what is not 0 in each matrix. Raises FrameError."""
    return _stage(name, sections).decode_sparse(sections, shapes)


def _stage(name: object, sections: Sections) -> Stage:
    stage = STAGES.get(name) if isinstance(name, str) else None
    if stage is None or len(sections) != stage.sections:
        raise FrameError(f"an unknown entropy stage: {name!r} with {len(sections)} sections")
    return stage
