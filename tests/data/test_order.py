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
from handcar.errors import ChunkError, DiskFull, HandcarError


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
        seed=seed,
        open_blocks=open_blocks,
    )
    for digest in records.sizes:
        made.add(digest)
    return made


def draw(made: Sampler, batches: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the next batches, record by record."""
    piece = made.draw(batches)
    return tuple(np.concatenate(column) for column in (piece.x, piece.y))


def seen(x: np.ndarray) -> Counter:
    return Counter(map(tuple, x.tolist()))


def test_every_batch_has_the_same_shape():
    made = sampler(Records({"a": 13, "b": 5}), batch_size=8)
    for _ in range(20):
        x, y = draw(made)
        assert (x.shape, y.shape) == ((8, 2), (8,))


def test_x_and_y_stay_together():
    x, y = draw(sampler(Records({"a": 13, "b": 5, "c": 30})), 40)
    np.testing.assert_array_equal(y, 1000 * x[:, 0] + x[:, 1])


@pytest.mark.parametrize("batch_size", [1, 7, 8, 50])
def test_after_whole_passes_over_one_block_every_record_was_seen_as_often(batch_size):
    made = sampler(Records({"a": 14}), batch_size=batch_size)
    x = np.concatenate([draw(made)[0] for _ in range(14)])  # batch_size passes
    assert set(seen(x).values()) == {batch_size}


def test_a_pass_visits_each_record_of_a_block_once_in_a_shuffled_order():
    x, _ = draw(sampler(Records({"a": 64})), 16)
    first, second = x[:64, 1].tolist(), x[64:, 1].tolist()
    assert sorted(first) == sorted(second) == list(range(64))
    assert first != second != list(range(64))


def test_remainders_are_carried_so_that_no_record_is_dropped():
    # 11 records do not divide by 4: whoever drops remainders never shows some of them.
    made = sampler(Records({"a": 11, "b": 3}), batch_size=4)
    counts = seen(np.concatenate([draw(made)[0] for _ in range(70)]))
    assert sum(counts.values()) == 280
    assert set(counts.values()) == {20}


def test_chunks_of_all_sizes_are_gone_through_as_often():
    sizes = {"a": 40, "b": 400, "c": 7, "d": 90, "e": 160, "f": 33, "g": 1}
    records = Records(sizes)
    made = sampler(records, open_blocks=3)
    total, worst = sum(sizes.values()), 0
    for _ in range(5 * total // 8):
        draw(made)
        passes = made.passes().values()
        worst = max(worst, max(passes) - min(passes))
    assert worst <= 1
    assert min(made.passes().values()) >= 4


def test_records_of_all_chunks_are_seen_as_often():
    sizes = dict.fromkeys("abcdefghij", 20)
    x, _ = draw(sampler(Records(sizes), batch_size=10), 20 * 6)
    counts = seen(x)
    assert len(counts) == 200
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_batch_mixes_the_open_blocks_in_proportion_to_what_they_have_left():
    made = sampler(Records({"a": 9000, "b": 1000}), batch_size=100)
    x, _ = draw(made, 20)
    share_of_b = x[:, 0].reshape(20, 100).mean(axis=1)
    assert 0.08 < share_of_b.mean() < 0.12
    assert (share_of_b > 0).sum() >= 18, "each batch should have some of both"


def test_no_block_is_gone_through_almost_alone_while_others_wait():
    # Sizes that no batch divides: some of a group's blocks end before the others.
    for seed in range(5):
        made = sampler(Records({f"{n}": 197 for n in range(16)}), batch_size=32, seed=seed)
        x, _ = draw(made, 2 * 16 * 197 // 32)
        most = [np.bincount(batch).max() for batch in x[:, 0].reshape(-1, 32)]
        assert max(most) <= 26, "a group shares each batch to the end"


def test_records_of_a_batch_are_from_anywhere_in_their_block():
    x, _ = draw(sampler(Records({"a": 4000, "b": 4000}), batch_size=100), 40)
    means = x[:, 1].reshape(40, 100).mean(axis=1)
    assert 1500 < means.min() < means.max() < 2500


def test_a_late_chunk_joins_the_group_at_once_where_it_has_room():
    records = Records({"a": 1000, "b": 1000})
    made = sampler(records, batch_size=50)
    draw(made, 4)
    records.sizes["late"] = 1000
    made.add("late")
    x, _ = draw(made)
    assert 2 in x[:, 0]


def test_a_block_of_the_next_group_is_opened_ahead_and_then_used():
    records = Records({name: 8 for name in "abcdef"})
    made = sampler(records, open_blocks=2)
    draw(made)
    for _ in range(3):
        made.look_ahead()
    assert len(records.opened) == 3, "one ahead, once"
    ahead = records.opened[2]
    draw(made, 2)
    assert records.opened.count(ahead) == 1
    assert len(records.opened) == 4


def test_a_block_ahead_waits_for_those_with_fewer_passes():
    records = Records({"a": 8, "b": 8})
    made = sampler(records, open_blocks=1)
    made.restore({"a": 1, "b": 1})
    draw(made)
    made.look_ahead()
    made.restore({"a": 3, "b": 3})
    records.sizes["late"] = 8
    made.restore({"late": 1})
    made.add("late")
    x, _ = draw(made)
    assert set(x[:, 0]) == {2}


def test_a_block_that_cant_be_opened_ahead_is_tried_again_at_its_turn():
    records = Records({"a": 8, "b": 8})
    room = threading.Event()

    def open_block(digest: str) -> Block:
        if len(records.opened) == 1 and not room.is_set():
            raise DiskFull("no room")
        return records.open(digest)

    made = Sampler(open_block, batch_size=8, seed=0, open_blocks=1)
    made.add("a")
    made.add("b")
    draw(made)
    made.look_ahead()
    room.set()
    draw(made)
    assert made.passes() == {"a": 1, "b": 1}


def test_a_late_chunk_starts_with_the_fewest_passes_so_far():
    records = Records({"a": 16, "b": 16})
    made = sampler(records)
    draw(made, 40)  # ten passes over both
    records.sizes["late"] = 16
    made.add("late")
    assert made.passes()["late"] == min(made.passes().values()) == 10
    x, _ = draw(made, 6 * 10)  # ten passes over all three
    share_of_late = (x[:, 0] == 2).mean()
    assert 0.3 < share_of_late < 0.37, "neither ignored nor shown until it has caught up"


def test_two_threads_that_draw_at_once_share_the_records_between_them():
    blocks = Records({"a": 40, "b": 40, "c": 40})
    drawn, records = sampler(blocks, batch_size=30), Counter()
    with ThreadPoolExecutor(4) as pool:
        for x, _ in pool.map(lambda _: draw(drawn), range(400)):
            records.update(seen(x))
    assert set(records.values()) == {100}


def test_adding_a_chunk_twice_changes_nothing():
    made = sampler(Records({"a": 16}))
    draw(made, 4)
    made.add("a")
    assert made.passes() == {"a": 2}
    assert made.chunks == 1


def test_equal_seeds_give_equal_batches_and_others_do_not():
    sizes = {"a": 50, "b": 20, "c": 33}
    first, second, other = (draw(sampler(Records(sizes), seed=seed), 30)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_restart_goes_on_with_the_counts_before_and_after_adding():
    records = Records({"a": 16, "b": 16, "c": 16})
    made = Sampler(records.open, batch_size=16, seed=0, open_blocks=1)
    made.add("a")
    made.restore({"a": 7, "b": 5})
    made.add("b")
    made.add("c")
    assert made.passes() == {"a": 7, "b": 5, "c": 5}
    draw(made, 2)
    assert sorted(records.opened) == ["b", "c"], "the fewest passes come first"


def test_one_that_is_asked_before_any_chunk_is_there_says_so():
    with pytest.raises(HandcarError, match="no chunk to train on"):
        draw(sampler(Records({})))


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
    made = Sampler(store.open, batch_size=24, seed=0, open_blocks=3)
    for digest in digests:
        made.add(digest)
    most = 0
    for _ in range(60):
        draw(made)
        most = max(most, len({Path(name).parent for name in mapped_files(tmp_path)}))
    assert min(made.passes().values()) >= 2, "all blocks were opened several times"
    assert 2 <= most <= 3


def test_a_chunk_that_vanished_is_left_out_and_training_goes_on(tmp_path):
    store, digests = store_of(tmp_path, 3)
    made = Sampler(store.open, batch_size=8, seed=0)
    made.add("sha256:" + 64 * "0")
    for digest in digests:
        made.add(digest)
    draw(made, 30)
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
    x, _ = draw(made, 10)
    assert x.shape == (80, 2)
    assert list(made.passes()) == ["a"]


def test_when_no_chunk_is_sound_it_says_so():
    def broken(digest: str) -> Block:
        raise ChunkError("it is damaged")

    made = Sampler(broken, batch_size=8, seed=0)
    made.add("a")
    with pytest.raises(HandcarError, match="none is sound"):
        draw(made)


def test_chunks_may_come_in_from_another_thread_while_batches_are_drawn(tmp_path):
    store, digests = store_of(tmp_path, 20)
    made = Sampler(store.open, batch_size=8, seed=0)
    made.add(digests[0])

    def bring() -> None:
        for digest in digests[1:]:
            made.add(digest)

    thread = threading.Thread(target=bring)
    thread.start()
    x, y = draw(made, 400)
    thread.join()
    np.testing.assert_array_equal(x[:, 0], y)
    draw(made, 400)
    assert set(made.passes()) == set(digests)
    assert min(made.passes().values()) >= 1


def test_a_block_that_is_gone_is_gone_through_once_more_at_most_and_comes_back_as_a_new_one():
    records = Records({"a": 16, "b": 16, "c": 16})
    made = sampler(records, batch_size=16, open_blocks=2)
    for _ in range(9):
        made.draw(1)
        made.look_ahead()
    made.remove("a")
    made.draw(6)  # what was open, or open ahead
    records.opened.clear()
    made.draw(6)
    assert "a" not in records.opened
    assert made.passes().keys() == {"b", "c"}
    made.add("a")
    assert made.passes()["a"] == min(made.passes().values()) > 0
    made.draw(6)
    assert "a" in records.opened
