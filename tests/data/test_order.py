"""The sampler is fair to records and chunks, carries remainders, and opens few blocks."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from handcar import files
from handcar.data import chunks
from handcar.data.blocks import Block, BlockStore
from handcar.data.order import Sampler
from handcar.errors import ChunkError, HandcarError


class Records:
    """Blocks in memory whose x tells the block and the record; notes what is open."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes
        self.opened: list[str] = []

    def open(self, digest: str) -> Block:
        self.opened.append(digest)
        number, size = list(self.sizes).index(digest), self.sizes[digest]
        x = np.stack([np.full(size, number), np.arange(size)], axis=1)
        return Block(digest, size, {"x": x, "y": np.arange(size) + 1000 * number})


def sampler(records: Records, *, batch_size: int = 8, seed: int = 0, open_blocks: int = 4):
    made = Sampler(
        records.open,
        batch_size=batch_size,
        rng=np.random.default_rng(seed),
        open_blocks=open_blocks,
    )
    for digest in records.sizes:
        made.add(digest)
    return made


def seen(x: np.ndarray) -> Counter:
    return Counter(map(tuple, x.tolist()))


def test_every_batch_has_the_same_shape():
    made = sampler(Records({"a": 13, "b": 5}), batch_size=8)
    for _ in range(20):
        x, y = made.next_batch()
        assert (x.shape, y.shape) == ((8, 2), (8,))


def test_x_and_y_stay_together():
    x, y = sampler(Records({"a": 13, "b": 5, "c": 30})).next_batches(40)
    np.testing.assert_array_equal(y, 1000 * x[:, 0] + x[:, 1])


@pytest.mark.parametrize("batch_size", [1, 7, 8, 50])
def test_after_whole_passes_over_one_block_every_record_was_seen_as_often(batch_size):
    made = sampler(Records({"a": 14}), batch_size=batch_size)
    x = np.concatenate([made.next_batch()[0] for _ in range(14)])  # batch_size passes
    assert set(seen(x).values()) == {batch_size}


def test_a_pass_visits_each_record_of_a_block_once_in_a_shuffled_order():
    x, _ = sampler(Records({"a": 64})).next_batches(16)
    first, second = x[:64, 1].tolist(), x[64:, 1].tolist()
    assert sorted(first) == sorted(second) == list(range(64))
    assert first != second != list(range(64))


def test_remainders_are_carried_so_that_no_record_is_dropped():
    # 11 records do not divide by 4: whoever drops remainders never shows some of them.
    made = sampler(Records({"a": 11, "b": 3}), batch_size=4)
    counts = seen(np.concatenate([made.next_batch()[0] for _ in range(70)]))
    assert sum(counts.values()) == 280
    assert set(counts.values()) == {20}


def test_chunks_of_all_sizes_are_gone_through_as_often():
    sizes = {"a": 40, "b": 400, "c": 7, "d": 90, "e": 160, "f": 33, "g": 1}
    records = Records(sizes)
    made = sampler(records, open_blocks=3)
    total, worst = sum(sizes.values()), 0
    for _ in range(5 * total // 8):
        made.next_batch()
        passes = made.passes().values()
        worst = max(worst, max(passes) - min(passes))
    assert worst <= 1
    assert min(made.passes().values()) >= 4


def test_records_of_all_chunks_are_seen_as_often():
    sizes = dict.fromkeys("abcdefghij", 20)
    x, _ = sampler(Records(sizes), batch_size=10).next_batches(20 * 6)
    counts = seen(x)
    assert len(counts) == 200
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_batch_mixes_the_open_blocks_in_proportion_to_what_they_have_left():
    made = sampler(Records({"a": 9000, "b": 1000}), batch_size=100)
    x, _ = made.next_batches(20)
    share_of_b = x[:, 0].reshape(20, 100).mean(axis=1)
    assert 0.08 < share_of_b.mean() < 0.12
    assert (share_of_b > 0).sum() >= 18, "each batch should have some of both"


def test_a_late_chunk_starts_with_the_fewest_passes_so_far():
    records = Records({"a": 16, "b": 16})
    made = sampler(records)
    made.next_batches(40)  # ten passes over both
    records.sizes["late"] = 16
    made.add("late")
    assert made.passes()["late"] == min(made.passes().values()) == 10
    x, _ = made.next_batches(6 * 10)  # ten passes over all three
    share_of_late = (x[:, 0] == 2).mean()
    assert 0.3 < share_of_late < 0.37, "neither ignored nor shown until it has caught up"


def test_two_threads_that_draw_at_once_share_the_records_between_them():
    blocks = Records({"a": 40, "b": 40, "c": 40})
    drawn, records = sampler(blocks, batch_size=30), Counter()
    with ThreadPoolExecutor(4) as pool:
        for x, _ in pool.map(lambda _: drawn.next_batch(), range(400)):
            records.update(seen(x))
    assert set(records.values()) == {100}


def test_adding_a_chunk_twice_changes_nothing():
    made = sampler(Records({"a": 16}))
    made.next_batches(4)
    made.add("a")
    assert made.passes() == {"a": 2}
    assert made.chunks == 1


def test_equal_seeds_give_equal_batches_and_others_do_not():
    sizes = {"a": 50, "b": 20, "c": 33}
    first, second, other = (
        sampler(Records(sizes), seed=seed).next_batches(30)[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_restart_goes_on_with_the_counts_before_and_after_adding():
    records = Records({"a": 16, "b": 16, "c": 16})
    made = Sampler(records.open, batch_size=16, rng=np.random.default_rng(0), open_blocks=1)
    made.add("a")
    made.restore({"a": 7, "b": 5})
    made.add("b")
    made.add("c")
    assert made.passes() == {"a": 7, "b": 5, "c": 5}
    made.next_batches(2)
    assert sorted(records.opened) == ["b", "c"], "the fewest passes come first"


def test_one_that_is_asked_before_any_chunk_is_there_says_so():
    with pytest.raises(HandcarError, match="no chunk to train on"):
        sampler(Records({})).next_batch()


# -- with real files


def store_of(folder: Path, count: int, records: int = 32) -> tuple[BlockStore, list[str]]:
    store, digests = BlockStore(folder), []
    for number in range(count):
        x = np.full((records, 64), number, np.uint8)
        chunk = chunks.encode({"x": x, "y": np.full(records, number, np.uint8)})
        digests.append(files.digest(chunk))
        store.add(digests[-1], chunk)
    return store, digests


def mapped_files(folder: Path) -> set[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if str(folder) in line}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of maps")
def test_never_more_blocks_are_mapped_than_allowed(tmp_path):
    store, digests = store_of(tmp_path, 12)
    made = Sampler(store.open, batch_size=24, rng=np.random.default_rng(0), open_blocks=3)
    for digest in digests:
        made.add(digest)
    most = 0
    for _ in range(60):
        made.next_batch()
        most = max(most, len({Path(name).parent for name in mapped_files(tmp_path)}))
    assert min(made.passes().values()) >= 2, "all blocks were opened several times"
    assert 2 <= most <= 3


def test_a_chunk_that_vanished_is_left_out_and_training_goes_on(tmp_path):
    store, digests = store_of(tmp_path, 3)
    made = Sampler(store.open, batch_size=8, rng=np.random.default_rng(0))
    made.add("sha256:" + 64 * "0")
    for digest in digests:
        made.add(digest)
    made.next_batches(30)
    assert sorted(made.passes()) == sorted(digests)


def test_a_chunk_of_another_shape_is_left_out(tmp_path):
    records = Records({"a": 16, "b": 16})
    good = records.open

    def open_block(digest: str) -> Block:
        block = good(digest)
        wider = {**block.columns, "x": np.zeros((16, 3), int)}
        return Block(digest, 16, wider) if digest == "b" else block

    records.open = open_block
    made = sampler(records, open_blocks=1)
    made.restore({"b": 1})  # so that it is opened second
    x, _ = made.next_batches(10)
    assert x.shape == (80, 2)
    assert list(made.passes()) == ["a"]


def test_when_no_chunk_is_sound_it_says_so():
    def broken(digest: str) -> Block:
        raise ChunkError("it is damaged")

    made = Sampler(broken, batch_size=8, rng=np.random.default_rng(0))
    made.add("a")
    with pytest.raises(HandcarError, match="none is sound"):
        made.next_batch()


def test_chunks_may_come_in_from_another_thread_while_batches_are_drawn(tmp_path):
    store, digests = store_of(tmp_path, 20)
    made = Sampler(store.open, batch_size=8, rng=np.random.default_rng(0))
    made.add(digests[0])

    def bring() -> None:
        for digest in digests[1:]:
            made.add(digest)

    thread = threading.Thread(target=bring)
    thread.start()
    x, y = made.next_batches(400)
    thread.join()
    np.testing.assert_array_equal(x[:, 0], y)
    made.next_batches(400)
    assert set(made.passes()) == set(digests)
    assert min(made.passes().values()) >= 1
