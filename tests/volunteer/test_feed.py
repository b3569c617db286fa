"""The feed draws ahead, loses nothing between rounds, and holds a few pieces in memory."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handcar.data.blocks import Block
from handcar.data.draws import replay
from handcar.data.order import Sampler
from handcar.errors import ChunkError, HandcarError
from handcar.files import MB
from handcar.protocol.messages import Drawn
from handcar.volunteer import feed as feeds
from handcar.volunteer.feed import Feed

BATCH = 8


def block(digest: str, records: int = 4000) -> Block:
    x = np.arange(records, dtype=np.uint8 if records < 256 else np.int32)
    return Block(digest, records, {"x": np.stack([x, x], axis=1), "y": x})


def sampler(*, seed: int = 0, records: int = 4000) -> Sampler:
    made = Sampler(
        lambda digest: block(digest, records),
        batch_size=BATCH,
        seed=seed,
    )
    made.add("a")
    return made


@contextmanager
def feeding(source: Sampler) -> Iterator[Feed]:
    feed = Feed(source)
    try:
        yield feed
    finally:
        feed.close()


def numbers(feed: Feed, steps: int) -> list[int]:
    """Train on so many batches; return what they hold."""
    found = np.concatenate([y.ravel() for _, y in feed.pieces(steps)]).tolist()
    feed.use(steps)
    feed.end_stretch()
    return found


def take(feed: Feed) -> tuple[np.ndarray, np.ndarray]:
    return next(feed.pieces(1))


def test_pieces_are_cut_into_batches_and_as_many_as_asked_for():
    with feeding(sampler()) as feed:
        for steps in (1, 2, 45, 100):
            pieces = list(feed.pieces(steps))
            assert sum(len(x) for x, _ in pieces) == steps
            assert all(x.shape[1:] == (BATCH, 2) and y.shape[1:] == (BATCH,) for x, y in pieces)
            assert all((x[..., 0] == y).all() for x, y in pieces)


def test_what_a_round_did_not_use_the_next_begins_with():
    with feeding(sampler(records=4000)) as feed:
        drawn = [number for steps in (3, 7, 90, 150, 250) for number in numbers(feed, steps)]
    assert sorted(drawn) == list(range(4000)), "each record once a pass, over five rounds"


def test_what_was_taken_ahead_and_not_trained_on_comes_again():
    with feeding(sampler()) as feed:
        wanted = numbers(feed, 200)
    with feeding(sampler()) as feed:
        found: list[int] = []
        for taken, used in ((60, 40), (33, 33), (90, 7), (1, 0), (200, 120)):
            pieces = list(feed.pieces(taken))
            found += np.concatenate([y.ravel() for _, y in pieces])[: used * BATCH].tolist()
            feed.use(used)
            feed.end_stretch()
    assert found == wanted


def test_whoever_takes_of_a_stretch_that_has_ended_gets_nothing():
    with feeding(sampler()) as feed:
        before = feed.pieces(100)
        next(before)
        feed.end_stretch()
        assert list(before) == []


def test_what_is_trained_on_leaves_the_memory():
    with feeding(sampler()) as feed:
        first = weakref.ref(take(feed)[0].base)
        feed.use()
        for _ in range(40):
            take(feed)
            feed.use()
        gc.collect()
        assert first() is None


@settings(deadline=None, max_examples=15)
@given(
    rounds=st.lists(
        st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), min_size=1, max_size=3),
        min_size=1,
        max_size=6,
    ),
    sizes=st.lists(st.integers(8, 900), min_size=1, max_size=7),
    late=st.integers(0, 5),
    seed=st.integers(0, 2**48),
)
def test_a_round_is_drawn_again_to_the_bit_from_its_recipe(rounds, sizes, late, seed):
    blocks = {f"sha256:{n:016x}": n for n in range(len(sizes))}

    def open_block(digest: str) -> Block:
        number = blocks["sha256:" + digest.removeprefix("sha256:")]
        x = np.arange(sizes[number]) + 1000 * number
        return Block(f"sha256:{number:016x}", len(x), {"x": np.stack([x, x], axis=1), "y": x})

    source = Sampler(open_block, batch_size=BATCH, seed=seed)
    digests = list(blocks)
    first = max(1, len(digests) - late)
    for digest in digests[:first]:
        source.add(digest)
    with feeding(source) as feed:
        for number, stretches in enumerate(rounds):
            for digest in digests[first : first + number]:
                source.add(digest)
            feed.begin_round()
            trained: list[np.ndarray] = []
            for ahead, used in stretches:  # several, as when a round is held and goes on
                taken = [x for piece, _ in feed.pieces(used + ahead) for x in piece]
                trained += taken[:used]
                feed.use(used)
                feed.end_stretch()
            drawn = feed.drawn()
            if not trained:
                assert drawn is None
                continue
            told = Drawn.model_validate_json(drawn.model_dump_json())
            again = [x for piece, _ in replay(told, open_block, batch_size=BATCH) for x in piece]
            assert len(again) == len(trained) == told.steps
            assert all((one == other).all() for one, other in zip(again, trained, strict=True))


def test_what_keras_is_given_has_the_type_of_the_records():
    with feeding(sampler(records=200)) as feed:
        x, y = take(feed)
    assert x.dtype == y.dtype == np.uint8, "numbers become floats on the accelerator, in the model"


def test_batches_are_views_of_their_piece():
    with feeding(sampler()) as feed:
        take(feed)  # alone, to see how large they are
        (first, _), (second, _) = take(feed), take(feed)
    assert first.base is not None
    assert first.base is second.base


def test_the_order_is_that_of_the_seed():
    orders = []
    for seed in (1, 1, 2):
        with feeding(sampler(seed=seed)) as feed:
            orders.append(numbers(feed, 400))
    assert orders[0] == orders[1] != orders[2]


def test_batches_are_ready_before_they_are_asked_for_and_no_more_than_a_few_pieces():
    source = sampler()
    drawn: list[int] = []
    whole = source.draw

    def counting(count: int):
        drawn.append(count)
        return whole(count)

    source.draw = counting  # type: ignore[method-assign]
    with feeding(source) as feed:
        wait_for(lambda: len(drawn) >= feeds.READY + 1)
        time.sleep(0.1)
        assert len(drawn) == feeds.READY + 1, "those that are ready, and the one that waits"
        take(feed)
        wait_for(lambda: len(drawn) == feeds.READY + 2)


@pytest.mark.parametrize(
    ("batch_bytes", "count"),
    [(0, 32), (1, 32), (25_000, 32), (800_000, 2), (2 * MB, 1), (500 * MB, 1)],
)
def test_pieces_are_some_megabytes_and_a_batch_at_least(batch_bytes: int, count: int):
    assert feeds.at_once(batch_bytes) == count


def test_a_chunk_that_is_slow_to_open_keeps_nobody_waiting_who_has_pieces_left():
    slow = threading.Event()

    def open_block(digest: str) -> Block:
        if digest == "b":
            slow.wait(20)
        return block(digest, 512)

    source = Sampler(open_block, batch_size=BATCH, seed=0, open_blocks=1)
    source.add("a")
    with feeding(source) as feed:
        take(feed)
        source.add("b")
        # 63 batches of the block that is open, while the next one is being opened.
        assert len(numbers(feed, 32)) == 32 * BATCH
        slow.set()
        assert len(numbers(feed, 200)) == 200 * BATCH


def test_what_the_sampler_raises_is_raised_for_whoever_takes_each_time():
    def broken(digest: str) -> Block:
        raise ChunkError("it is damaged")

    source = Sampler(broken, batch_size=BATCH, seed=0)
    source.add("a")
    with feeding(source) as feed:
        for _ in range(3):
            with pytest.raises(HandcarError, match="none is sound"):
                take(feed)


def test_closing_ends_the_thread_whatever_it_is_at_and_whoever_waits():
    before = threading.active_count()
    for _ in range(10):
        feed = Feed(sampler())
        feed.close()
        with pytest.raises(RuntimeError, match="closed"):
            take(feed)
    assert threading.active_count() == before


@pytest.mark.parametrize("steps", [1, 5, 33, 200])
def test_tensorflow_is_given_the_same_batches(steps: int, monkeypatch: pytest.MonkeyPatch):
    keras = pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with feeding(sampler(seed=3)) as feed:
        wanted = numbers(feed, steps)
    with feeding(sampler(seed=3)) as feed:
        found = [y.numpy() for _, y in feed.batches(steps)]
    assert [one.shape for one in found] == steps * [(BATCH,)]
    assert np.concatenate(found).tolist() == wanted


def test_the_other_backends_are_given_the_same_batches(monkeypatch: pytest.MonkeyPatch):
    keras = pytest.importorskip("keras")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with feeding(sampler(seed=3)) as feed:
        wanted = numbers(feed, 100)
    with feeding(sampler(seed=3)) as feed:
        found = [y for _, y in feed.batches(100)]
    assert np.concatenate(found).tolist() == wanted


def wait_for(what) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)
