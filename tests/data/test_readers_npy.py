"""Arrays in .npy files, mapped where they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handcar.data.importers import read
from handcar.data.reading import Options
from handcar.errors import DataError

X = np.arange(40 * 6, dtype=np.int16).reshape(40, 2, 3)
Y = np.arange(40) % 4


def save(folder: Path, **arrays: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.mark.parametrize("given", ["", "x.npy"])
def test_a_folder_or_its_x_is_mapped_without_a_copy(tmp_path, given):
    path = save(tmp_path / "data", x=X, y=Y) / given
    with read(path, folder=tmp_path) as source:
        np.testing.assert_array_equal(source.x.array, X)
        assert isinstance(source.x.array.base, np.memmap)
        assert source.classes == 4
        assert [list(one.iterdir()) for one in tmp_path.glob("handcar-*")] == [[]]
    assert not list(tmp_path.glob("handcar-*"))
    assert (tmp_path / "data" / "x.npy").exists()


def test_train_and_test_arrays_are_found_by_their_names(tmp_path):
    folder = save(tmp_path / "d", x_train=X, y_train=Y, x_test=X[:5], y_test=Y[:5])
    for path in (folder, folder / "x_train.npy"):
        with read(path) as source:
            assert source.test is not None
            assert source.test["x"].survey.records == 5


def test_what_was_set_apart_to_validate_comes_before_what_was_set_apart_to_test(tmp_path):
    arrays = {"x_val": X[:7], "y_val": Y[:7], "x_test": X[:5], "y_test": Y[:5]}
    with read(save(tmp_path / "d", x=X, y=Y, **arrays)) as source:
        assert source.test is not None
        assert source.test["x"].survey.records == 7
        assert "x_test and y_test stay here: x_val and y_val are measured on" in source.describe()


def test_other_data_to_test_on_may_be_named(tmp_path):
    train, test = save(tmp_path / "a", x=X, y=Y), save(tmp_path / "b", x=X[:6], y=Y[:6])
    with read(train, Options(test=test / "x.npy")) as source:
        assert source.test is not None
        assert source.test["x"].survey.records == 6
    with pytest.raises(DataError, match="there is no such file"):
        read(train, Options(test=tmp_path / "none"))
    both = save(tmp_path / "c", x=X, y=Y, x_test=X, y_test=Y)
    with pytest.raises(DataError, match="its own records to test on: leave --test"):
        read(both, Options(test=test))


def test_columns_first_in_memory_and_big_ends_first_are_read_as_they_are(tmp_path):
    with read(save(tmp_path / "d", x=np.asfortranarray(X.astype(">i4")), y=Y)) as source:
        column = source.train["x"]
        np.testing.assert_array_equal(column.rows(np.array([3, 17])), X[[3, 17]])


def test_classes_may_have_names(tmp_path):
    folder = save(tmp_path / "d", x=X, y=Y)
    (folder / "classes.txt").write_text("ant\nbee\ncat\ndog\n")
    with read(folder) as source:
        assert source.class_names == ("ant", "bee", "cat", "dog")
        assert "4 classes: ant (10), bee (10)" in source.describe()
    (folder / "classes.txt").write_text("ant\nbee")
    with pytest.raises(DataError, match="from 0 to 1, since 2 classes have names, got 0 to 3"):
        read(folder)


def test_a_lone_x_says_what_it_lacks(tmp_path):
    folder = save(tmp_path / "d", x=X, pictures=X)
    with pytest.raises(DataError, match=r"expected y\.npy beside it"):
        read(folder / "x.npy")
    with pytest.raises(DataError, match=r"expected a file named x\.npy"):
        read(folder / "pictures.npy")
    with pytest.raises(DataError, match="expected the arrays x and y, found pictures, x"):
        read(folder)


def test_python_objects_are_refused_without_being_loaded(tmp_path):
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "went-off",))

    folder = save(tmp_path / "d", x=X, y=np.array([Bomb()] * 40, dtype=object))
    with pytest.raises(DataError, match=r"y\.npy: expected numbers .*, got Python objects"):
        read(folder)
    assert not (tmp_path / "went-off").exists()


def test_a_file_cut_short_or_of_another_kind_is_named(tmp_path):
    folder = save(tmp_path / "d", x=X, y=Y)
    whole = (folder / "x.npy").read_bytes()
    (folder / "x.npy").write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"x\.npy: fewer bytes"):
        read(folder)
    (folder / "x.npy").write_bytes(b"PK\x03\x04 not an array")
    with pytest.raises(DataError, match=r"x\.npy: not an array"):
        read(folder)


@pytest.mark.parametrize("name", ["data.pkl", "data.xlsx", "data"])
def test_what_nobody_reads_is_refused_with_what_can_be_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"abc")
    with pytest.raises(DataError, match=r"expected \.npz, \.npy, \.mat, \.csv"):
        read(tmp_path / name)


def test_a_folder_of_nothing_known_says_what_is_in_it(tmp_path):
    (tmp_path / "notes.doc").write_bytes(b"abc")
    with pytest.raises(DataError, match=r"found \.doc\. What can be read"):
        read(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        read(tmp_path / "none")


def test_it_tells_how_far_it_is(tmp_path):
    told: list[tuple[int, int]] = []
    folder = save(tmp_path / "d", x=X, y=Y)
    with read(folder, on_progress=lambda done, total: told.append((done, total))):
        assert told[-1] == (X.nbytes + Y.nbytes,) * 2
