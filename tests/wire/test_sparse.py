"""What is not 0 is found, put back and cut, whatever lies where."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from handcar.wire import sparse
from handcar.wire.sparse import BLOCK

SIZES = st.sampled_from([0, 1, 70, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 17 * BLOCK + 5])


def numbers_of(size: int, seed: int, share: float) -> sparse.Numbers:
    """Return whole numbers of which a share is not 0, some blocks empty."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(-128, 128, size).astype(np.int8)
    numbers[rng.random(size) >= share] = 0
    numbers[BLOCK : 2 * BLOCK] = 0
    return numbers


@settings(deadline=None, max_examples=40)
@given(size=SIZES, seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.001, 0.1, 1.0]))
def test_what_is_put_back_is_what_was_there(size, seed, share):
    numbers = numbers_of(size, seed, share)
    found = sparse.of(numbers)
    again = np.zeros(size, np.int8)
    sparse.put(found, again)
    assert again.tobytes() == numbers.tobytes()
    assert found.numbers.size == np.count_nonzero(numbers) == found.counts.sum()
    assert sparse.squares(found) == sum(int(one) ** 2 for one in found.numbers)


@settings(deadline=None, max_examples=40)
@given(size=SIZES, seed=st.integers(0, 99), blocks=st.integers(1, 5))
def test_pieces_hold_together_what_the_whole_does(size, seed, blocks):
    numbers = numbers_of(size, seed, 0.05)
    pieces = list(sparse.of(numbers).cut(blocks))
    room = blocks * BLOCK
    assert len(pieces) == -(-size // room)
    for at, piece in enumerate(pieces):
        expected = numbers[at * room : (at + 1) * room]
        again = np.zeros(expected.size, np.int8)
        sparse.put(piece, again)
        assert again.tobytes() == expected.tobytes()
