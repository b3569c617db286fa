"""What a person is told before it starts."""

from __future__ import annotations

import pytest
from test_state import assignment, chunk

from handcar.volunteer.opentask import how_long_it_takes, needs_of, what_it_takes
from handcar.volunteer.words import duration
from handcar.wire.layout import Layout


@pytest.fixture
def layout() -> Layout:
    from handcar.modelfile.check import check
    from handcar.modelfile.shapes import infer

    text = b"""{"name": "digits", "dataset": {"name": "d", "file": "d.npz"},
        "input": {"shape": [4]}, "layers": [{"layer": "Dense", "units": 10}],
        "loss": "mse", "optimizer": {"name": "SGD"}, "batch_size": 32}"""
    return infer(check(text)).layout


def test_a_newcomer_begins_with_the_weights_and_one_chunk(layout):
    needs = needs_of(assignment(4), layout, frozenset())
    assert (needs.begin, needs.in_all) == (10 + 1000, 10 + 4000)


def test_who_has_a_chunk_begins_with_the_weights(layout):
    needs = needs_of(assignment(4), layout, frozenset({chunk(2).sha256}))
    assert (needs.begin, needs.in_all, needs.missing) == (10, 10 + 3000, 3)


def test_the_disk_is_what_the_owner_says_that_chunks_take_decoded(layout):
    told = assignment(4)
    guessed = needs_of(told, layout, frozenset()).disk
    links = [link.model_copy(update={"decoded": 50_000}) for link in told.dataset]
    told = told.model_copy(update={"dataset": tuple(links)})
    known = needs_of(told, layout, frozenset()).disk
    assert known - guessed == 4 * (50_000 - 4 * 1000)


def test_it_is_told_in_plain_words(layout):
    needs = needs_of(assignment(4), layout, frozenset())
    said = what_it_takes(needs)
    assert "1.0 kB to begin, 4.0 kB to download in all" in said
    assert "of disk" in said
    said = how_long_it_takes(needs, 505.0)
    assert "begin takes 2.0 s, all of it 7.9 s" in said


def test_data_larger_than_the_disk_it_may_take_is_said_to_be_downloaded_again(layout):
    said = what_it_takes(needs_of(assignment(4), layout, frozenset(), 3000))
    assert "each is downloaded again" in said
    assert "again" not in what_it_takes(needs_of(assignment(4), layout, frozenset(), 5000))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.01, "less than 0.1 s"), (40, "40 s"), (600, "10 minutes"), (10_000, "2.8 hours")],
)
def test_a_long_time_is_told_in_hours(seconds, said):
    assert duration(seconds) == said
    assert duration(3 * 24 * 3600) == "3 days"
