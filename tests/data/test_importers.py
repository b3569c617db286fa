"""Reading an owner's .npz file: what is found is told, what is wrong is named."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from handcar.data import survey
from handcar.data.importers import Source, read_npz
from handcar.errors import DataError

PICTURES = np.arange(40 * 16, dtype=np.uint8).reshape(40, 4, 4)
LABELS = np.arange(40) % 3


def saved(folder: Path, *, compressed: bool = False, **arrays: np.ndarray) -> Path:
    path = folder / "data.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


@pytest.fixture
def read(tmp_path):
    """Save arrays and read them back."""

    def read(**arrays: object) -> Source:
        return read_npz(saved(tmp_path, **{"x": PICTURES, "y": LABELS, **arrays}))

    return read


def refused(tmp_path: Path, **arrays: object) -> str:
    path = saved(tmp_path, **{"x": PICTURES, "y": LABELS, **arrays})
    with pytest.raises(DataError) as caught:
        read_npz(path)
    return str(caught.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_it_tells_what_it_found(tmp_path, compressed):
    with read_npz(saved(tmp_path, compressed=compressed, x=PICTURES, y=LABELS)) as source:
        assert (source.records, source.x.shape, source.classes) == (40, (4, 4), 3)
        text = source.describe()
    for fact in ("data.npz: 40 records", "4 x 4, uint8, from 0 to 255", "3 classes, from 0 to 2"):
        assert fact in text


def test_arrays_are_mapped_and_the_unpacked_files_go_when_it_is_closed(tmp_path):
    path = saved(tmp_path, compressed=True, x=PICTURES, y=LABELS)
    with read_npz(path, folder=tmp_path) as source:
        assert isinstance(source.x.array.base, np.memmap)
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_behind_when_it_is_refused(tmp_path):
    path = saved(tmp_path, x=PICTURES, y=LABELS[:-1])
    with pytest.raises(DataError):
        read_npz(path, folder=tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_names_of_keras_own_files_are_known(tmp_path):
    path = saved(tmp_path, x_train=PICTURES, y_train=LABELS, x_test=PICTURES[:9], y_test=LABELS[:9])
    with read_npz(path) as source:
        assert source.test is not None
        assert source.test["x"].survey.records == 9
        assert "40 records to train and 9 to test" in source.describe()


# -- types


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0, 9], "uint8"),
        ([-1, 127], "int8"),
        ([0, 256], "uint16"),
        ([-129, 5], "int16"),
        ([0, 70_000], "uint32"),
        ([-70_000, 5], "int32"),
        ([0, 2**40], "int64"),
    ],
)
def test_whole_numbers_travel_as_the_smallest_type_that_holds_them(read, values, wanted):
    with read(y=np.resize(np.array(values, np.int64), 40)) as source:
        assert source.train["y"].dtype == wanted


def test_test_records_count_for_the_type_too(read):
    with read(x_test=PICTURES.astype(np.int64) * 100, y_test=LABELS) as source:
        assert source.train["x"].dtype == source.test["x"].dtype == "uint16"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("f2", "f2"), ("f4", "f4"), ("f8", "f4"), (">f8", "f4"), ("g", "f4"), ("?", "?")],
)
def test_fractions_travel_as_float32_at_most(read, given, wanted):
    x = np.linspace(0, 1, 40).astype(given)
    with read(x=x) as source:
        column = source.train["x"]
        assert column.dtype == wanted
        np.testing.assert_array_equal(column.rows(np.arange(40)), x.astype(wanted))


def test_it_says_when_exactness_is_given_up(read):
    with read(x=np.linspace(0, 1, 40)) as source:
        assert "x travels as float32, which is smaller than float64 and less exact" in (
            source.describe()
        )


# -- files that are not what they should be


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz: there is no such file"):
        read_npz(tmp_path / "none.npz")


def test_a_folder_is_said_to_be_one(tmp_path):
    with pytest.raises(DataError, match="got a folder"):
        read_npz(tmp_path)


def test_another_kind_of_file_is_refused_with_how_to_make_one(tmp_path):
    path = tmp_path / "data.npy"
    np.save(path, PICTURES)
    with pytest.raises(DataError, match=r"expected an \.npz file.*numpy\.savez"):
        read_npz(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_file_is_refused(tmp_path, compressed):
    path = saved(tmp_path, compressed=compressed, x=PICTURES, y=LABELS)
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)
    with pytest.raises(DataError):
        read_npz(path)


def test_a_truncated_file_is_refused(tmp_path):
    path = saved(tmp_path, x=PICTURES, y=LABELS)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError):
        read_npz(path)


def test_an_array_shorter_than_its_header_says_is_refused(tmp_path):
    full = io.BytesIO()
    np.save(full, PICTURES)
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x.npy", full.getvalue()[:-5])
        archive.writestr("y.npy", full.getvalue())
    with pytest.raises(DataError, match="x: fewer bytes"):
        read_npz(tmp_path / "data.npz")


def test_a_member_that_is_no_array_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x.npy", b"not an array")
        archive.writestr("y.npy", b"")
    with pytest.raises(DataError, match="x: not an array"):
        read_npz(tmp_path / "data.npz")


def test_missing_arrays_are_named_with_those_that_were_found(tmp_path):
    with pytest.raises(DataError, match="expected the arrays x and y, found images, labels"):
        read_npz(saved(tmp_path, labels=LABELS, images=PICTURES))


def test_half_a_test_set_is_refused(tmp_path):
    assert "expected both of x_test and y_test" in refused(tmp_path, x_test=PICTURES)


# -- arrays that can't be trained on


def test_python_objects_are_refused_without_being_loaded(tmp_path):
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "went-off",))

    objects = np.array([Bomb()] * 40, dtype=object)
    path = tmp_path / "data.npz"
    np.savez(path, x=PICTURES, y=objects, allow_pickle=True)
    with pytest.raises(DataError, match="y: expected numbers or truth values, got Python objects"):
        read_npz(path)
    assert not (tmp_path / "went-off").exists()


def test_text_labels_are_refused_with_how_to_make_numbers(tmp_path):
    message = refused(tmp_path, y=np.array(["cat", "dog"] * 20))
    assert "got the type <U3" in message
    assert "return_inverse=True" in message


@pytest.mark.parametrize("x", [np.zeros(40, "c8"), np.zeros(40, "M8[s]"), np.zeros(40, "i4,f4")])
def test_other_types_are_refused(tmp_path, x):
    assert "expected numbers" in refused(tmp_path, x=x)


@pytest.mark.parametrize("x", [np.zeros((40, 0)), np.zeros((0, 4)), np.array(7)])
def test_arrays_without_records_are_refused(tmp_path, x):
    assert "expected records" in refused(tmp_path, x=x)


def test_unequal_lengths_are_told(tmp_path):
    message = refused(tmp_path, y=LABELS[:39])
    assert "as many records in x as in y, got 40 and 39" in message


def test_too_few_records_are_told(tmp_path):
    assert "at least 16 records, got 15" in refused(tmp_path, x=PICTURES[:15], y=LABELS[:15])


def test_test_records_of_another_shape_are_told(tmp_path):
    message = refused(tmp_path, x_test=PICTURES[:, :3], y_test=LABELS)
    assert "x and x_test, got (4, 4) and (3, 4)" in message


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_value_that_is_not_finite_is_named_by_its_record(tmp_path, monkeypatch, bad):
    monkeypatch.setattr(survey, "PIECE_BYTES", 100)  # so that it lies in a later piece
    x = np.zeros((40, 3))
    x[33, 2] = bad
    assert "x: record 33 holds NaN, infinity" in refused(tmp_path, x=x)


def test_numbers_beyond_int64_are_refused(tmp_path):
    assert "below 2**63" in refused(tmp_path, y=np.full(40, 2**63, np.uint64))


def test_the_range_is_found_over_all_pieces(tmp_path, monkeypatch, read):
    monkeypatch.setattr(survey, "PIECE_BYTES", 100)
    y = np.arange(40)
    with read(y=y) as source:
        assert (source.y.lowest, source.y.highest, source.classes) == (0, 39, 40)
