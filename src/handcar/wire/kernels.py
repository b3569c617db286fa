"""The inner loops of coding, compiled by numba: the same integers as NumPy's way, sooner.

Nothing but `compiled.py` imports this, where numba is installed and once there is enough to do.
Each loop reads no further than the arrays that it is given, whatever bytes a stranger sent: the
callers check sizes, and every index is made from numbers whose range is known here.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

TILE, HALF_TILE = 64, 32
"""Steps that are turned over at once: as many bytes as a cache line has, or half of it."""
MASK = np.uint32(4095)
BITS = np.uint32(12)
LOWEST = np.uint32(1 << 16)
WORD = np.uint32(16)
FREE_BITS = np.uint32(20)
SYMBOLS = 8
SIZES = 3
ESCAPED = -128
SIZE_OF = np.array([0, 1, 1, 2, 2, 2, 2, 2], np.uint8)
NUMBER_OF = np.array([0, 1, -1, 2, -2, 3, -3, ESCAPED], np.int8)
LARGEST = 127


def _decode(table: Any, starts: Any, contexts: Any, states: Any, words: Any, numbers: Any) -> int:
    """Fill `numbers`, zero before, where they are not 0; return how many words were used, or -1.

    Lanes go on side by side: a first pass takes every symbol for a 0, as most are, with no
    branch, and flags those that are none or need a word; a second looks at the flagged.
    """
    lanes, size = states.size, contexts.size
    steps = -(-size // lanes)
    width = -(-lanes // 64) * 64 + 64  # no power of two, or lines would push each other out
    first = table[:, 0].copy()
    state = np.zeros(width, np.uint32)
    state[:lanes] = states
    before = np.zeros(width, np.uint8)
    flags = np.zeros(width, np.uint8)
    often = np.zeros(width, np.uint32)
    flagged = np.zeros(width, np.int32)
    tile = np.zeros((TILE, width), np.uint8)
    used = 0
    for begin in range(0, steps, TILE):
        rows = min(TILE, steps - begin)
        for lane in range(lanes):
            at = lane * steps + begin
            there = max(0, min(rows, size - at))
            for n in range(there):
                tile[n, lane] = contexts[at + n] * np.uint8(SIZES)
            for n in range(there, rows):
                tile[n, lane] = np.uint8(0)
        for n in range(rows):
            row = tile[n]
            for lane in range(lanes):
                context = np.uint8(row[lane] + before[lane])
                row[lane] = context
                often[lane] = first[context]
                before[lane] = np.uint8(0)
            for lane in range(lanes):
                now = state[lane]
                slot = np.uint32(now & MASK)
                then = np.uint32(np.uint32(often[lane] * np.uint32(now >> BITS)) + slot)
                is_zero = slot < often[lane]
                state[lane] = then if is_zero else now
                flags[lane] = np.uint8(2 * (then < LOWEST)) if is_zero else np.uint8(1)
            found = 0
            for lane in range(lanes):  # no branch: which are flagged can't be foreseen
                flagged[found] = lane
                found += flags[lane] != 0
            for one in range(found):
                lane = flagged[one]
                now = state[lane]
                if flags[lane] == 1:
                    context = row[lane]
                    slot = np.uint32(now & MASK)
                    symbol = 1
                    for larger in range(2, SYMBOLS + 1):
                        symbol += slot >= starts[context, larger]
                    if symbol == SYMBOLS:  # a context without frequencies
                        symbol = 0
                        now = slot
                    else:
                        now = np.uint32(
                            table[context, symbol] * np.uint32(now >> BITS)
                            + slot
                            - starts[context, symbol]
                        )
                        at = lane * steps + begin + n
                        if at < size:
                            numbers[at] = NUMBER_OF[symbol]
                    before[lane] = SIZE_OF[symbol]
                if now < LOWEST:
                    if used == words.size:
                        return -1
                    now = np.uint32(np.uint32(now << WORD) | np.uint32(words[used]))
                    used += 1
                state[lane] = now
    for lane in range(lanes):
        if state[lane] != LOWEST:
            return -1
    return used


def _count(symbols: Any, contexts: Any, lanes: int, counts: Any) -> None:
    """Count how often each symbol follows in each context, (contexts x sizes x symbols)."""
    size = symbols.size
    steps = -(-size // lanes)
    other = np.zeros_like(counts)
    for lane in range(lanes):
        begin, end = lane * steps, min(size, (lane + 1) * steps)
        before = 0
        for at in range(begin, end):
            symbol = symbols[at]
            place = (contexts[at] * SIZES + before) * SYMBOLS + symbol
            # In turns, since a processor waits for the same counter.
            if at & 1:
                counts[place] += 1
            else:
                other[place] += 1
            before = SIZE_OF[symbol]
        if begin + steps > size:  # what fills up is the symbol 0 in context 0
            fill = begin + steps - max(size, begin)
            counts[before * SYMBOLS] += 1
            counts[0] += fill - 1
    for place in range(counts.size):
        counts[place] += other[place]


def _encode(table: Any, starts: Any, symbols: Any, contexts: Any, state: Any, words: Any) -> Any:
    """Fill `words` from their end, in the order in which they are read; return where they begin.

    Returns -1 when there are too few places.
    """
    lanes, size = state.size, symbols.size
    steps = -(-size // lanes)
    width = -(-lanes // 64) * 64 + 64
    places = np.zeros((HALF_TILE, width), np.uint16)
    often, start = np.ones(width, np.uint32), np.zeros(width, np.uint32)
    flagged = np.zeros(width, np.int32)
    at_word = words.size
    end = steps
    while end > 0:
        begin = max(0, end - HALF_TILE)
        for lane in range(lanes):
            at = lane * steps + begin
            there = max(0, min(end - begin, size - at))
            for n in range(there):
                places[n, lane] = contexts[at + n] * np.uint16(SIZES * SYMBOLS) + symbols[at + n]
            for n in range(there, end - begin):
                places[n, lane] = np.uint16(0)
            last = min(there + 1, end - begin) if at <= size else 0
            for n in range(1 if begin == 0 else 0, last):
                places[n, lane] += np.uint16(SYMBOLS) * np.uint16(SIZE_OF[symbols[at + n - 1]])
        for n in range(end - begin - 1, -1, -1):
            row = places[n]
            for lane in range(lanes):
                often[lane] = table[row[lane]]
                start[lane] = starts[row[lane]]
            found = 0
            for lane in range(lanes):
                flagged[found] = lane
                # The largest state that takes the symbol in 32 bits; wraps where it is all.
                most = np.uint32(np.uint32(often[lane] << FREE_BITS) - np.uint32(1))
                found += state[lane] > most
            if found > at_word:
                return -1
            for one in range(found - 1, -1, -1):
                lane = flagged[one]
                at_word -= 1
                words[at_word] = np.uint16(state[lane] & np.uint32(0xFFFF))
                state[lane] = np.uint32(state[lane] >> WORD)
            for lane in range(lanes):
                now, share = state[lane], often[lane]
                # Exact: 53 bits are more than the 32 and 12 of these.
                whole = np.uint32(np.float64(now) / np.float64(share))
                state[lane] = np.uint32(
                    now + np.uint32(whole * np.uint32(np.uint32(4096) - share)) + start[lane]
                )
        end = begin
    return at_word


def _contexts(rows: Any, columns: Any, middle: int, most: int, out: Any) -> None:
    """Fill `out` with a row's level and a column's, added and kept from 1 to `most`."""
    for row in range(rows.size):
        level = np.int16(rows[row]) - np.int16(middle)
        line = out[row * columns.size : (row + 1) * columns.size]
        for column in range(columns.size):
            both = np.int16(level + np.int16(columns[column]))
            line[column] = np.uint8(min(max(both, np.int16(1)), np.int16(most)))


def _symbols(numbers: Any, out: Any) -> None:
    """Fill `out` with the symbols of numbers."""
    for at in range(numbers.size):
        number = np.int16(numbers[at])
        size = abs(number)
        out[at] = np.uint8(7) if size > 3 else np.uint8(2 * size - (number > 0))


def _gather(numbers: Any, counts: Any, places: Any, values: Any) -> None:
    """Fill in what is not 0 in each block, and where; there is room for one number more."""
    found = 0
    for block in range(counts.size):
        begin = block << 16
        before = found
        for at in range(begin, min(begin + (1 << 16), numbers.size)):  # no branch
            places[found] = np.uint16(at - begin)
            values[found] = numbers[at]
            found += numbers[at] != 0
        counts[block] = found - before


def _spread(numbers: Any, rows: Any, columns: Any, out: Any) -> None:
    """Put the numbers of some rows and columns to their places in a matrix of zeros."""
    at = 0
    for row in rows:
        line = out[row]
        for column in columns:
            line[column] = numbers[at]
            at += 1


def _turn(change: Any, scale: Any, out: Any) -> None:
    """Fill `out`, (units, inputs), with the nearest numbers of steps of (inputs, units)."""
    inputs, units = change.shape
    tile = np.zeros((TILE, TILE), np.int8)
    for top in range(0, inputs, TILE):
        high = min(inputs - top, TILE)
        for left in range(0, units, TILE):
            wide = min(units - left, TILE)
            for row in range(high):
                for column in range(wide):
                    steps = np.rint(np.float32(change[top + row, left + column] / scale))
                    steps = min(max(steps, np.float32(-LARGEST)), np.float32(LARGEST))
                    tile[row, column] = np.int8(np.int32(steps))
            for column in range(wide):
                for row in range(high):
                    out[left + column, top + row] = tile[row, column]


def _block_of_squares(values: Any, begin: int, size: int) -> Any:
    """Return the sum of a few squares, in the order in which NumPy adds so few."""
    most = size - size % 8 if size >= 8 else 0
    sums = np.zeros(8)
    for at in range(0, most, 8):
        for lane in range(8):
            value = np.float64(values[begin + at + lane])
            sums[lane] += value * value
    total = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + (
        (sums[4] + sums[5]) + (sums[6] + sums[7])
    )
    for at in range(most, size):
        value = np.float64(values[begin + at])
        total += value * value
    return total


def _squares(values: Any) -> Any:
    """Return the sum of the squares in float64, in pairs of halves as NumPy adds: the same bits."""
    begins, sizes = np.empty(64, np.int64), np.empty(64, np.int64)
    lefts, are_right = np.empty(64), np.zeros(64, np.bool_)
    begin, size, depth = 0, values.size, 0
    while True:
        while size > 128:
            half = size // 2
            half -= half % 8
            begins[depth], sizes[depth], are_right[depth] = begin + half, size - half, False
            depth += 1
            size = half
        total = block_of_squares(values, begin, size)
        while depth > 0 and are_right[depth - 1]:
            depth -= 1
            total = lefts[depth] + total
        if depth == 0:
            return total
        lefts[depth - 1], are_right[depth - 1] = total, True
        begin, size = begins[depth - 1], sizes[depth - 1]


def _turn_back(numbers: Any, scale: Any, out: Any) -> None:
    """Fill `out`, (inputs, units), with numbers of (units, inputs) times the step."""
    units, inputs = numbers.shape
    for left in range(0, units, TILE):
        right = min(units, left + TILE)
        for top in range(0, inputs, TILE):
            bottom = min(inputs, top + TILE)
            for row in range(top, bottom):
                for column in range(left, right):
                    out[row, column] = np.float32(numbers[column, row]) * scale


def _turn_over(matrix: Any, out: Any) -> None:
    """Fill `out` with a matrix, turned over."""
    units, inputs = matrix.shape
    for left in range(0, units, TILE):
        right = min(units, left + TILE)
        for top in range(0, inputs, TILE):
            bottom = min(inputs, top + TILE)
            for row in range(top, bottom):
                for column in range(left, right):
                    out[row, column] = matrix[column, row]


def _activity(matrix: Any, most: int, rows: Any, columns: Any) -> None:
    """Add up how large the numbers are, each at most `most`, by row and by column."""
    for row in range(matrix.shape[0]):
        line = matrix[row]
        total = 0
        for column in range(line.size):
            size = min(abs(np.int16(line[column])), np.int16(most))
            columns[column] += size
            total += int(size)
        rows[row] = total


def _add(total: Any, counts: Any, places: Any, numbers: Any, values: Any) -> None:
    """Add the values of the numbers of each block to its places."""
    at = 0
    for block in range(counts.size):
        begin = block << 16
        for _ in range(counts[block]):
            total[begin + places[at]] += values[np.int64(numbers[at]) + 128]
            at += 1


def _fold(part: Any, shape: Any, signs: Any, turns: Any, out: Any) -> None:
    """Add the numbers of a tensor to the places of a sketch, each with its sign: whole numbers.

    `part` is (counts, places, numbers); `shape` where the tensor starts, its inputs and units.
    """
    counts, places, numbers = part
    start, inputs, units = shape
    at = 0
    for block in range(counts.size):
        begin = block << 16
        unit = begin // inputs
        first = unit * inputs
        for _ in range(counts[block]):
            place = begin + np.int64(places[at])
            while place >= first + inputs:
                first += inputs
                unit += 1
            flat = start + (place - first) * units + unit
            sign = signs[turns[flat >> 18] + (flat & 0x3FFFF)]
            out[flat & 2047] += np.int64(sign) * np.int64(numbers[at])
            at += 1


def _compiled(function: Any) -> Any:
    """Return a loop that numba compiles when it is first called, and keeps for the next time."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder to keep it in
        return numba.njit(nogil=True, error_model="numpy")(function)


decode = _compiled(_decode)
count = _compiled(_count)
encode = _compiled(_encode)
contexts = _compiled(_contexts)
symbols = _compiled(_symbols)
gather = _compiled(_gather)
spread = _compiled(_spread)
turn = _compiled(_turn)
block_of_squares = _compiled(_block_of_squares)
squares = _compiled(_squares)
turn_back = _compiled(_turn_back)
turn_over = _compiled(_turn_over)
activity = _compiled(_activity)
add = _compiled(_add)
fold = _compiled(_fold)
