"""Asymmetric numeral systems over many lanes at once: symbols to words and back.

Range variant (J. Duda, "Asymmetric numeral systems", arXiv:1311.2540), with the interleaving
of F. Giesen ("Interleaved entropy coders", arXiv:1402.3392): the symbols are cut into equal
runs, a lane each, and NumPy steps through all lanes side by side. Each symbol has a context,
known before it is read but for one part: how large the symbol before it was.

Integers only, so every machine reads the same.

    a context's frequencies   8 whole numbers that add up to 4096, or all 0 where it is unused
    a lane's state            32 bits, from 65536 up; it begins there and ends there
    a word                    16 bits, taken up by a lane whose state has fallen below 65536
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.errors import FrameError
from handcar.wire.compiled import kernels

SYMBOLS = 8
BITS = 12
TOTAL = 1 << BITS
LOWEST = 1 << 16
A_LANE = 2048
"""Symbols a lane: fewer cost more bytes for states, more cost time."""
MOST_LANES = 16_384
BLOCK = 1 << 17
TURNED = 64
SIZES = 3
"""Contexts are made finer by the size of the symbol before: zero, one, larger."""
SIZE_OF = np.array([0, 1, 1, 2, 2, 2, 2, 2], dtype=np.uint8)

ESCAPED = -128
NUMBERS = np.array([0, 1, -1, 2, -2, 3, -3, ESCAPED], dtype=np.int8)
"""What symbols stand for; the last for a number that travels apart."""
TRANSLATION = NUMBERS.tobytes().ljust(256, b"\0")
"""The same as `bytes.translate` takes it."""
NUMBERS_A_WORD = 4
"""About as many as 16 bits hold that are not 0; room for more is made when it is short."""
UNSOUND = "the coded symbols do not end where they should"

Symbols = NDArray[np.uint8]
Numbers = NDArray[np.int8]
Words = NDArray[np.uint16]
States = NDArray[np.uint32]
Table = NDArray[np.uint16]
"""Frequencies, (contexts x SIZES, SYMBOLS)."""
Levels = tuple[Symbols, Symbols, NDArray[np.int64]]
"""Of all rows and all columns that hold anything; of each matrix where it ends, where its rows'
and its columns' levels begin, and how many columns it has."""


def lanes_for(size: int) -> int:
    """Return how many lanes so many symbols are cut into."""
    return max(1, min(MOST_LANES, size // A_LANE))


def encode(symbols: Symbols, contexts: Symbols, count: int) -> tuple[Table, States, Words]:
    """Return the frequencies of the `count` contexts, the lanes' states and the words."""
    if (loops := kernels(symbols.size)) is not None:
        return _encode_compiled(loops, symbols, contexts, count)
    lanes = lanes_for(symbols.size)
    by_step, context = _steps(symbols, lanes), _steps(contexts, lanes)
    place = np.empty(by_step.shape, dtype=np.uint16)
    counts = np.zeros(count * SIZES * SYMBOLS, dtype=np.int64)
    # In blocks that fit into the processor's cache.
    for begin in range(0, len(place), rows := max(1, BLOCK // lanes)):
        block = slice(begin, begin + rows)
        place[block] = _places(by_step, context, block)
        counts += np.bincount(place[block].reshape(-1), minlength=counts.size)
    table = _frequencies(counts.reshape(-1, SYMBOLS))
    states, words = _encode_lanes(place, table)
    return table, states, words


def _encode_compiled(
    loops: Any, symbols: Symbols, contexts: Symbols, count: int
) -> tuple[Table, States, Words]:
    lanes = lanes_for(symbols.size)
    counts = np.zeros(count * SIZES * SYMBOLS, dtype=np.int64)
    loops.count(symbols, contexts, lanes, counts)
    table = _frequencies(counts.reshape(-1, SYMBOLS))
    flat, starts = table.reshape(-1).astype(np.uint32), _starts(table).reshape(-1)
    bits = counts @ (BITS - np.log2(np.maximum(flat, 1)))
    for room in (int(bits / 16 * 1.05) + 2 * lanes, symbols.size + lanes):
        states, words = np.full(lanes, LOWEST, np.uint32), np.empty(room, np.uint16)
        begin = loops.encode(flat, starts, symbols, contexts, states, words)
        if begin >= 0:
            break
    return table, states, words[begin:]


def _places(by_step: Symbols, context: Symbols, block: slice) -> NDArray[np.uint16]:
    """Return where in the flat table each symbol of some steps has its frequency."""
    finer = context[block].astype(np.uint16)
    finer *= np.uint16(SIZES)
    after = max(block.start, 1)  # the first step has none before it
    finer[after - block.start :] += SIZE_OF.take(by_step[after - 1 : block.start + len(finer) - 1])
    finer *= np.uint16(SYMBOLS)
    finer += by_step[block]
    return finer


def _encode_lanes(place: NDArray[np.uint16], table: Table) -> tuple[States, Words]:
    frequency = table.reshape(-1).astype(np.uint32)
    start = _starts(table).reshape(-1)
    # The largest state that takes the symbol without leaving 32 bits; wraps where it is all.
    most = (frequency << np.uint32(32 - BITS)) - np.uint32(1)
    rest = np.uint32(TOTAL) - frequency
    state = np.full(place.shape[1], LOWEST, dtype=np.uint32)
    words: list[Words] = []
    for step in place[::-1]:
        at = step.astype(np.intp)  # once: each look-up would do it for itself
        large = np.flatnonzero(state > most.take(at))
        if large.size:
            words.append(state[large].astype(np.uint16))
            state[large] >>= np.uint32(16)
        whole = state // frequency.take(at)
        whole *= rest.take(at)
        state += whole
        state += start.take(at)
    return state, np.concatenate([np.empty(0, np.uint16), *words[::-1]])


def decode(table: Table, contexts: Symbols, states: States, words: Words) -> Numbers:
    """Return the numbers of these contexts. Raises FrameError when the words don't fit."""
    # Five times as fast as looking each up in an array.
    symbols = _decode_symbols(table, contexts, states, words).tobytes()
    return np.frombuffer(bytearray(symbols.translate(TRANSLATION)), dtype=np.int8)


def find(
    loops: Any, table: Table, levels: Levels, states: States, words: Words
) -> tuple[NDArray[np.uint32], Numbers]:
    """Return where the numbers are not 0, in order, and what they are: the compiled loops' way.

    Raises FrameError when the words don't fit.
    """
    matrices = levels[2]
    size = int(matrices[-1, 0]) if len(matrices) else 0
    code = np.zeros((2, len(table), SYMBOLS + 1), dtype=np.uint32)
    code[0, :, :-1] = table
    code[1, :, 1:] = np.cumsum(table, axis=1, dtype=np.uint32)
    lanes = states.copy(), np.zeros(states.size, np.uint8)
    ends = np.zeros(-(-size // states.size), np.int64)
    room = min(NUMBERS_A_WORD * words.size, size) + states.size
    found = np.empty(room, np.uint16), np.empty(room, np.int8)
    progress = np.zeros(3, np.int64)
    while True:
        loops.decode((*code, words), levels, lanes, (*found, ends), progress)
        if progress[0] == ends.size:
            break
        found = (_twice(found[0]), _twice(found[1]))
    if progress[1] != words.size or (lanes[0] != LOWEST).any():
        raise FrameError(UNSOUND)
    count = int(progress[2])
    places, numbers = np.empty(count, np.uint32), np.empty(count, np.int8)
    loops.in_order((*found, ends), states.size, places, numbers)
    return places, numbers


def _twice(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array with as much room again."""
    return np.concatenate([array, np.empty_like(array)])


def _decode_symbols(table: Table, contexts: Symbols, states: States, words: Words) -> Symbols:
    lanes = states.size
    steps = -(-contexts.size // lanes)
    padded = np.zeros(lanes * steps, dtype=contexts.dtype)
    padded[: contexts.size] = contexts
    # A lane's symbols lie together in the end, a step's while they are decoded: turned over in
    # blocks as wide as a cache line.
    by_lane = padded.reshape(lanes, steps)
    reader = _Reader(_entries(table), states, words)
    for begin in range(0, steps, TURNED):
        block = by_lane[:, begin : begin + TURNED]
        block[:] = reader.read(np.ascontiguousarray(block.T)).T
    reader.expect_end()
    return padded[: contexts.size]


class _Reader:
    """The lanes' states and the words that are left, between two blocks of steps."""

    def __init__(self, entries: NDArray[Any], states: States, words: Words) -> None:
        self._entries = entries
        self._finer = SIZE_OF.astype(np.intp) << BITS
        self._state, self._words, self._used = states.copy(), words, 0
        self._before = np.zeros(states.size, dtype=np.uint8)
        self._entry, self._slot = np.empty_like(states), np.empty_like(states)
        self._where = np.empty(states.size, dtype=np.intp)

    def read(self, context: Symbols) -> Symbols:
        """Return the symbols of some steps, in the place of their contexts: (steps, lanes)."""
        state, entry, slot, where = self._state, self._entry, self._slot, self._where
        for out in context:
            np.multiply(out, SIZES << BITS, out=where, dtype=np.intp)
            where += self._finer.take(self._before)
            where += np.bitwise_and(state, np.uint32(TOTAL - 1), out=slot)
            self._entries.take(where, out=entry, mode="clip")
            np.bitwise_and(entry, np.uint32(7), out=out, casting="unsafe")
            state >>= np.uint32(BITS)
            state *= np.right_shift(entry, np.uint32(15), out=slot)
            entry >>= np.uint32(3)
            entry &= np.uint32(TOTAL - 1)
            state += entry
            self._take_up(np.flatnonzero(state < LOWEST))
            self._before = out
        self._before = self._before.copy()
        return context

    def _take_up(self, short: NDArray[np.intp]) -> None:
        """Give the next words to the lanes whose states have fallen too low."""
        more = self._words[self._used : self._used + short.size]
        if more.size < short.size:
            raise FrameError("the coded symbols end too early")
        self._state[short] = self._state[short] << np.uint32(16) | more
        self._used += short.size

    def expect_end(self) -> None:
        """Raise FrameError unless the words and the states end as they should."""
        if self._used != self._words.size or (self._state != LOWEST).any():
            raise FrameError(UNSOUND)


def checked(table: Table) -> Table:
    """Return the frequencies. Raises FrameError unless each context's add up."""
    total = table.sum(axis=1, dtype=np.int64)
    if not np.isin(total, (0, TOTAL)).all():
        raise FrameError(f"a context's frequencies do not add up to {TOTAL}")
    return table


def _steps(values: Symbols, lanes: int) -> Symbols:
    """Return the values as (steps, lanes), a lane a run of them, filled up with 0.

    Context 0 is the one for what fills up: it holds nothing but the symbol 0, at no cost.
    """
    steps = -(-values.size // lanes)
    padded = np.zeros(lanes * steps, dtype=values.dtype)
    padded[: values.size] = values
    return np.ascontiguousarray(padded.reshape(lanes, steps).T)


def _starts(table: Table) -> NDArray[np.uint32]:
    total = np.cumsum(table, axis=1, dtype=np.uint32)
    return total - table


def _frequencies(counts: NDArray[np.int64]) -> Table:
    """Return counts scaled to TOTAL a context; what occurs at all keeps at least 1."""
    total = counts.sum(axis=1, keepdims=True)
    scaled = counts * TOTAL // np.maximum(total, 1)
    scaled = np.where((counts > 0) & (scaled == 0), 1, scaled)
    # What rounding left over, or took too much, is the commonest symbol's.
    row = np.arange(len(counts))
    scaled[row, counts.argmax(axis=1)] += np.where(total > 0, TOTAL, 0)[:, 0] - scaled.sum(axis=1)
    table: Table = scaled.astype(np.uint16)
    return table


def _entries(table: Table) -> NDArray[Any]:
    """Return for each context and slot: frequency, the slot's place in its symbol, symbol."""
    symbol = np.zeros((len(table), TOTAL), dtype=np.uint32)
    used = np.flatnonzero(table.sum(axis=1, dtype=np.int64))
    each = np.tile(np.arange(SYMBOLS, dtype=np.uint32), len(used))
    symbol[used] = np.repeat(each, table[used].reshape(-1)).reshape(len(used), TOTAL)
    rows = np.arange(len(table))[:, None]
    frequency = table.astype(np.uint32)[rows, symbol]
    place = np.arange(TOTAL, dtype=np.uint32) - _starts(table)[rows, symbol]
    return (frequency << np.uint32(15) | place << np.uint32(3) | symbol).reshape(-1)
