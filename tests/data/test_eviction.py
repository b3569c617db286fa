"""What goes first when the disk's share is used up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from handcar.data.eviction import OPEN_BLOCKS, Entry, how_to_keep, what_to_evict, whose_turn

ENTRIES = st.lists(
    st.builds(
        Entry,
        st.uuids().map(str),
        block_bytes=st.integers(0, 100),
        chunk_bytes=st.integers(0, 100),
        used_at=st.floats(0, 10),
        in_use=st.booleans(),
        wanted=st.booleans(),
        fetch_s=st.one_of(st.none(), st.floats(0, 100)),
        passes=st.integers(0, 3),
    ),
    max_size=8,
)


def going(entries: list[Entry], needed: int) -> list[tuple[str, bool, bool]]:
    return [(one.digest, one.block, one.chunk) for one in what_to_evict(entries, needed)]


@given(ENTRIES, st.integers(0, 1000))
def test_enough_goes_or_nothing_and_never_what_is_in_use(entries, needed):
    found = what_to_evict(entries, needed)
    assert not found or sum(one.size for one in found) >= needed
    assert sum(one.size for one in found[:-1]) < max(needed, 1)
    by_digest = {entry.digest: entry for entry in entries}
    assert not any(by_digest[one.digest].in_use for one in found)
    pieces = [
        (one.digest, kind) for one in found for kind in ("block", "chunk") if getattr(one, kind)
    ]
    assert len(pieces) == len(set(pieces))


@given(ENTRIES, st.integers(1, 1000))
def test_the_last_copy_of_what_is_wanted_goes_only_if_it_can_be_fetched_again(entries, needed):
    found = what_to_evict(entries, needed)
    for entry in entries:
        gone = [one for one in found if one.digest == entry.digest]
        left = entry.block_bytes + entry.chunk_bytes - sum(one.size for one in gone)
        if gone and entry.wanted and left == 0 and entry.block_bytes + entry.chunk_bytes:
            assert entry.fetch_s is not None


def test_what_the_task_does_not_use_goes_before_anything_else():
    entries = [Entry("a", 10, 10), Entry("old", 10, 10, wanted=False)]
    assert going(entries, 5) == [("old", True, True)]


def test_blocks_that_can_be_decoded_again_go_before_what_must_be_fetched_again():
    entries = [Entry("far", 10, 0, fetch_s=9.0), Entry("near", 10, 10, fetch_s=1.0)]
    assert going(entries, 5) == [("near", True, False)]


def test_of_blocks_the_one_that_was_used_last_goes_first():
    entries = [Entry(name, 10, 10, used_at=when) for name, when in (("a", 1), ("b", 3), ("c", 2))]
    assert going(entries, 15) == [("b", True, False), ("c", True, False)]


def test_of_chunks_the_one_that_is_quickest_to_fetch_goes_first():
    entries = [Entry("slow", 0, 10, fetch_s=8.0), Entry("quick", 0, 10, fetch_s=2.0)]
    assert going(entries, 5) == [("quick", False, True)]


def test_of_chunks_the_one_gone_through_most_goes_before_quicker_ones():
    entries = [Entry("slow", 0, 10, fetch_s=8.0, passes=2), Entry("quick", 0, 10, fetch_s=2.0)]
    assert going(entries, 5) == [("slow", False, True)]


def test_for_a_new_chunk_none_goes_that_was_not_gone_through_but_for_a_block_it_may():
    entries = [Entry("fresh", 0, 10, fetch_s=1.0), Entry("used", 0, 10, fetch_s=9.0, passes=1)]
    gone = what_to_evict(entries, 10, for_new=True)
    assert [one.digest for one in gone] == ["used"]
    assert what_to_evict(entries, 20, for_new=True) == []
    assert going(entries, 20) == [("used", False, True), ("fresh", False, True)]


def test_a_chunk_is_let_in_when_one_that_was_gone_through_can_go():
    assert how_to_keep([Entry("fresh", 10, 0, fetch_s=1.0)], NEW, 15) is None
    assert how_to_keep([Entry("used", 10, 0, fetch_s=1.0, passes=1)], NEW, 15) == "both"


def test_nothing_goes_when_it_would_not_be_enough():
    assert going([Entry("a", 10, 10)], 11) == []


# -- letting a chunk in ----------------------------------------------------------------------

NEW = Entry("new", 10, 2)


@given(ENTRIES, st.integers(1, 100), st.integers(1, 100), st.integers(0, 1000))
def test_with_more_disk_as_much_or_more_is_kept(entries, block, chunk, limit):
    order = [None, "block", "both"]
    new = Entry("new", block, chunk)
    some, more = (how_to_keep(entries, new, size) for size in (limit, limit + 50))
    assert order.index(some) <= order.index(more)
    assert how_to_keep(entries, new, 100_000) == "both"


def test_with_little_disk_a_block_is_kept_without_its_file_and_with_less_nothing_is():
    assert how_to_keep([], NEW, 12) == "both"
    assert how_to_keep([], NEW, 11) == "block"
    assert how_to_keep([], NEW, 9) is None


def test_many_chunks_take_the_room_of_their_files_and_of_those_that_may_be_open():
    entries = [Entry(str(number), 0 if number else 10, 2) for number in range(100)]
    enough = 101 * 2 + OPEN_BLOCKS * 10
    assert how_to_keep(entries, NEW, enough) == "both"
    assert how_to_keep(entries, NEW, enough - 1) is None


def test_who_was_gone_through_most_leaves_and_one_always_stays():
    sizes = {"a": 1, "b": 1, "c": 1}
    assert whose_turn({"a": 2, "b": 3, "c": 1}, (), sizes) == ("b", None)
    assert whose_turn({"a": 0, "b": 0}, (), sizes) == (None, None), "none was gone through yet"
    assert whose_turn({"a": 9}, (), sizes) == (None, None)
    assert whose_turn({}, (), sizes) == (None, None)


def test_a_large_chunk_that_is_the_last_one_gives_way_to_a_small_one():
    sizes = {"large": 4, "small": 1, "middle": 2}
    assert whose_turn({"large": 5}, {"middle", "small"}, sizes) == (None, "small")
    assert whose_turn({"large": 5, "small": 0}, {"middle"}, sizes) == ("large", None)
    assert whose_turn({"small": 5}, {"middle", "large"}, sizes) == (None, None)
