"""Records that a program makes, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from handcar.data.importers import read
from handcar.data.records import from_records, save_records
from handcar.errors import DataError


def records(count: int = 30) -> Iterator[tuple[np.ndarray, int]]:
    for number in range(count):
        yield np.full((2, 3), number, np.uint8), number % 3


def test_any_iterable_is_read_once_and_as_it_comes(tmp_path):
    with from_records(records(), test=records(6), folder=tmp_path) as source:
        assert (source.records, source.x.shape, source.classes) == (30, (2, 3), 3)
        assert source.train["x"].rows(np.array([7]))[0, 0, 0] == 7
        assert source.test is not None
        assert source.test["y"].survey.records == 6
        assert isinstance(source.x.array.base, np.memmap)
    assert list(tmp_path.iterdir()) == []


def test_records_may_be_mappings_and_labels_texts(tmp_path):
    given = ({"x": [number, 0.5], "y": ("bee", "ant")[number % 2]} for number in range(20))
    with from_records(given) as source:
        assert source.class_names == ("bee", "ant")
        assert source.y.array.tolist() == [0, 1] * 10
        assert source.x.dtype == np.float64


def test_what_was_saved_can_be_published(tmp_path):
    folder = tmp_path / "mine"
    labelled = [(x, "abc"[y]) for x, y in records()]
    save_records(labelled, folder, test=labelled[:5])
    assert sorted(path.name for path in folder.iterdir()) == [
        *("classes.txt", "x.npy", "x_test.npy", "y.npy", "y_test.npy")
    ]
    with read(folder) as source:
        assert (source.records, source.class_names) == (30, ("a", "b", "c"))
        assert source.test is not None
    save_records(records(), folder)
    with read(folder) as source:
        assert (source.test, source.class_names) == (None, ())


def test_a_wider_type_later_on_widens_those_before():
    values = [0, 200, -1, 300, 0.5, 1e9, True] * 5
    with from_records([([np.asarray(value)], 0.5) for value in values]) as source:
        np.testing.assert_array_equal(source.x.array[:, 0], values)
    small = [(np.uint8(number), number) for number in range(20)]
    with from_records([*small, (np.int16(-300), 1)]) as source:
        assert source.x.array.tolist() == [*range(20), -300]
        assert source.x.dtype == np.int16


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            (np.zeros((3, 2)), 1),
            r"record 30: expected x of the shape \(2, 3\) as before, got \(3, 2",
        ),
        ((np.zeros((2, 3)), [1]), r"record 30: expected y of the shape \(\) as before, got \(1,\)"),
        (([[1, 2], [3]], 1), "record 30: x is uneven"),
        (
            (np.array([object()] * 6).reshape(2, 3), 1),
            "record 30: expected numbers in x, got object",
        ),
        ((1, 2, 3), r"record 30: expected a pair \(x, y\) or a mapping with x and y, got tuple"),
        ({"x": 1}, "record 30: expected a pair"),
        ((np.zeros((2, 3)), "two\nlines"), "record 30: expected the name of a class in one line"),
    ],
)
def test_a_record_unlike_the_others_is_named(tmp_path, record, said):
    with pytest.raises(DataError, match=said):
        from_records([*records(), record], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_classes_that_only_test_records_have_are_refused():
    with pytest.raises(DataError, match="class wasp is not among those to train on: ant"):
        from_records([(1, "ant")] * 20, test=[(1, "wasp")])


def test_no_records_are_no_data():
    with pytest.raises(DataError, match="expected records, got none"):
        from_records([])


def test_what_the_program_raises_is_passed_on_and_nothing_is_left(tmp_path):
    def broken() -> Iterator[tuple[int, int]]:
        yield 1, 2
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        from_records(broken(), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
