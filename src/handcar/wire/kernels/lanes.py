"""Asymmetric numeral systems over many lanes: see `handcar.wire.ans`.

Each loop reads no further than the arrays that it is given, whatever bytes a stranger sent: the
callers check sizes, and every index is made from numbers whose range is known here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from handcar.wire.kernels.jit import compiled

TILE, HALF_TILE = 64, 32
"""Steps that are turned over at once: as many bytes as a cache line has, or half of it."""
EIGHT = 8
"""Bytes that are turned over as one number."""
CHUNK = 1024
"""Lanes that are looked at before the next: few enough for a core's nearest cache."""
MASK = np.uint32(4095)
BITS = np.uint32(12)
LOWEST = np.uint32(1 << 16)
WORD = np.uint32(16)
FREE_BITS = np.uint32(20)
SYMBOLS = 8
SIZES = 3
MIDDLE, MOST = np.int16(20), np.int16(40)
"""Levels: a column's that is as busy as the whole, and the most that a context can be."""
SIZE_OF = np.array([0, 1, 1, 2, 2, 2, 2, 2, 0], np.uint8)
NUMBER_OF = np.array([0, 1, -1, 2, -2, 3, -3, -128, 0], np.int8)
"""One more than there are: a context without frequencies gives the last, which is a 0."""
EVEN_BYTES, EVEN_PAIRS, EVEN_FOURS = (
    np.uint64(0x00FF00FF00FF00FF),
    np.uint64(0x0000FFFF0000FFFF),
    np.uint64(0x00000000FFFFFFFF),
)
BYTE, PAIR, FOUR = np.uint64(8), np.uint64(16), np.uint64(32)


@compiled
def turn_eights(lines: Any, out: Any) -> None:
    """Turn over each eight bytes of eight lines, which are given as numbers of eight bytes."""
    for at in range(lines.shape[1]):
        a, b, c, d = lines[0, at], lines[1, at], lines[2, at], lines[3, at]
        e, f, g, h = lines[4, at], lines[5, at], lines[6, at], lines[7, at]
        swap = ((a >> BYTE) ^ b) & EVEN_BYTES
        a, b = a ^ (swap << BYTE), b ^ swap
        swap = ((c >> BYTE) ^ d) & EVEN_BYTES
        c, d = c ^ (swap << BYTE), d ^ swap
        swap = ((e >> BYTE) ^ f) & EVEN_BYTES
        e, f = e ^ (swap << BYTE), f ^ swap
        swap = ((g >> BYTE) ^ h) & EVEN_BYTES
        g, h = g ^ (swap << BYTE), h ^ swap
        swap = ((a >> PAIR) ^ c) & EVEN_PAIRS
        a, c = a ^ (swap << PAIR), c ^ swap
        swap = ((b >> PAIR) ^ d) & EVEN_PAIRS
        b, d = b ^ (swap << PAIR), d ^ swap
        swap = ((e >> PAIR) ^ g) & EVEN_PAIRS
        e, g = e ^ (swap << PAIR), g ^ swap
        swap = ((f >> PAIR) ^ h) & EVEN_PAIRS
        f, h = f ^ (swap << PAIR), h ^ swap
        swap = ((a >> FOUR) ^ e) & EVEN_FOURS
        a, e = a ^ (swap << FOUR), e ^ swap
        swap = ((b >> FOUR) ^ f) & EVEN_FOURS
        b, f = b ^ (swap << FOUR), f ^ swap
        swap = ((c >> FOUR) ^ g) & EVEN_FOURS
        c, g = c ^ (swap << FOUR), g ^ swap
        swap = ((d >> FOUR) ^ h) & EVEN_FOURS
        d, h = d ^ (swap << FOUR), h ^ swap
        out[0, at], out[1, at], out[2, at], out[3, at] = a, b, c, d
        out[4, at], out[5, at], out[6, at], out[7, at] = e, f, g, h


@compiled
def fill_tile(levels: Any, begin: int, lanes: int, steps: int, tile: Any) -> None:
    """Fill a tile, (steps, lanes / 8) of eight bytes each, with the finer contexts of all lanes.

    `levels` is those of all rows and all columns, and for each matrix where it ends, where its
    rows' and its columns' levels begin, and how many columns it has. Their sizes before are 0.
    """
    of_rows, of_columns, matrices = levels
    size = matrices[-1, 0] if len(matrices) else 0
    eights = np.zeros((EIGHT, TILE // EIGHT), np.uint64)
    turned = np.zeros((EIGHT, TILE // EIGHT), np.uint64)
    lines = eights.view(np.uint8)
    first = 0
    for group in range(-(-lanes // EIGHT)):
        for one in range(EIGHT):
            lane = group * EIGHT + one
            at = lane * steps + begin
            there = max(0, min(TILE, steps - begin, size - at)) if lane < lanes else 0
            while there and at >= matrices[first, 0]:
                first += 1
            matrix, done = first, 0
            while done < there:  # no slices: making one takes as long as filling it
                start = matrices[matrix - 1, 0] if matrix else 0
                end, columns = matrices[matrix, 0], matrices[matrix, 3]
                row = np.int64(np.uint32(at - start) // np.uint32(columns))
                column = at - start - row * columns
                while done < there and at < end:
                    here = min(there - done, columns - column)
                    level = np.int16(np.int16(of_rows[matrices[matrix, 1] + row]) - MIDDLE)
                    base = matrices[matrix, 2] + column
                    for n in range(here):
                        both = np.int16(level + np.int16(of_columns[np.uint64(base + n)]))
                        both = min(max(both, np.int16(1)), MOST)
                        lines[one, np.uint64(done + n)] = np.uint8(SIZES) * np.uint8(both)
                    done += here
                    at += here
                    row += 1
                    column = 0
                matrix += 1
            for n in range(there, TILE):
                lines[one, n] = np.uint8(0)
        turn_eights(eights, turned)
        for at in range(TILE // EIGHT):
            for one in range(EIGHT):
                tile[EIGHT * at + one, group] = turned[one, at]


@compiled
def decode(code: Any, levels: Any, lanes: Any, found: Any, progress: Any) -> None:
    """Read symbols until all are read or `found` is nearly full; `progress` tells how far it is.

    code      each finer context's frequencies and where they start, (contexts, 9); the words
    levels    see `fill_tile`
    lanes     each lane's state, and how large the symbol before was; changed in place
    found     of each symbol that is not 0, step by step, its lane and number; and how many
              there are after each step
    progress  how many steps, words and numbers

    Lanes go on side by side: a first pass takes every symbol for a 0, as most are, with no
    branch, and flags those that are none or need a word; a second looks at the flagged. More
    words are used than there are where they don't suffice: nothing of that is sound.
    """
    table, starts, given = code
    states, befores = lanes
    lanes_of, numbers, ends = found
    words = given if given.size else np.zeros(1, np.uint16)
    last = words.size - 1
    count, steps = states.size, ends.size
    size = levels[2][-1, 0] if len(levels[2]) else 0
    first = table[:, 0].copy()
    eights = np.zeros((TILE, -(-count // 64) * 8 + 8), np.uint64)  # no power of two, or lines
    tile = eights.view(np.uint8)  # would push each other out
    flags, flagged = np.zeros(CHUNK, np.uint8), np.zeros(CHUNK + 1, np.int32)
    often = np.zeros(CHUNK, np.uint32)
    step, used, made = progress[0], progress[1], progress[2]
    begin = step
    while step < steps and made + count <= lanes_of.size:
        if step == begin or step - begin == TILE:
            begin = step
            fill_tile(levels, begin, count, steps, eights)
        for left in range(0, count, CHUNK):
            wide = min(CHUNK, count - left)
            context = tile[step - begin, left : left + wide]
            before, state = befores[left : left + wide], states[left : left + wide]
            for lane in range(wide):
                context[lane] += before[lane]
            for lane in range(wide):
                before[lane] = np.uint8(0)
            for lane in range(wide):
                often[lane] = first[context[lane]]
            for lane in range(wide):
                now = state[lane]
                slot = np.uint32(now & MASK)
                then = np.uint32(np.uint32(often[lane] * np.uint32(now >> BITS)) + slot)
                is_done = (slot < often[lane]) & (then >= LOWEST)
                state[lane] = then if is_done else now
                flags[lane] = np.uint8(not is_done)
            some = 0
            for lane in range(wide):  # no branch: which are flagged can't be foreseen
                flagged[some] = lane
                some += flags[lane]
            for one in range(some):
                lane = flagged[one]
                now = state[lane]
                slot = np.uint32(now & MASK)
                symbol = 0
                for larger in range(1, SYMBOLS + 1):
                    symbol += slot >= starts[context[lane], larger]
                now = np.uint32(
                    table[context[lane], symbol] * np.uint32(now >> BITS)
                    + slot
                    - starts[context[lane], symbol]
                )
                before[lane] = SIZE_OF[symbol]
                lanes_of[made] = left + lane
                numbers[made] = NUMBER_OF[symbol]
                made += (NUMBER_OF[symbol] != 0) & ((left + lane) * steps + step < size)
                is_low = now < LOWEST
                more = np.uint32(np.uint32(now << WORD) | np.uint32(words[min(used, last)]))
                state[lane] = more if is_low else now
                used += is_low
        ends[step] = made
        step += 1
    progress[0], progress[1], progress[2] = step, used, made


@compiled
def in_order(found: Any, lanes: int, places: Any, numbers: Any) -> None:
    """Fill in what `decode` found lane by lane, as the symbols lie, and where they lie."""
    lanes_of, given, ends = found
    steps = ends.size
    after = np.zeros(lanes + 1, np.int64)
    for one in range(places.size):
        after[lanes_of[one] + 1] += 1
    for lane in range(lanes):
        after[lane + 1] += after[lane]
    one = 0
    for step in range(steps):
        while one < ends[step]:
            lane = lanes_of[one]
            to = after[lane]
            after[lane] += 1
            places[to] = lane * steps + step
            numbers[to] = given[one]
            one += 1


@compiled
def count(symbols: Any, contexts: Any, lanes: int, counts: Any) -> None:
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


@compiled
def encode(table: Any, starts: Any, symbols: Any, contexts: Any, state: Any, words: Any) -> Any:
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
