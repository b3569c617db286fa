"""Whether data fits a model, and the hint that mends it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from handcar.data.fit import Expected, check_fits
from handcar.data.importers import read, read_npz
from handcar.errors import DataError

SPARSE = Expected((4, 4), (3,), "SparseCategoricalCrossentropy")
X = np.zeros((30, 4, 4), np.uint8)
Y = np.arange(30) % 3


@pytest.fixture
def problems(tmp_path):
    """Return what is wrong with arrays for a model."""

    def problems(expected: Expected = SPARSE, **arrays: np.ndarray) -> str:
        np.savez(tmp_path / "data.npz", **{"x": X, "y": Y, **arrays})
        with read_npz(tmp_path / "data.npz") as source:
            try:
                check_fits(source, expected)
            except DataError as error:
                return str(error)
        return ""

    return problems


def test_data_that_fits_is_fine(problems):
    assert problems() == ""
    assert problems(y=Y[:, None]) == ""


@pytest.mark.parametrize(
    ("shape", "wanted", "hint"),
    [
        ((4, 4), (4, 4, 1), "save x[..., None]"),
        ((4, 4, 1), (4, 4), "save x[..., 0]"),
        ((3, 4, 5), (4, 5, 3), "numpy.moveaxis(x, 1, -1)"),
        ((16,), (4, 4), "x.reshape(len(x), 4, 4)"),
        ((5, 5), (4, 4), "change the model's input"),
    ],
)
def test_a_wrong_shape_says_both_and_how_to_mend_it(problems, shape, wanted, hint):
    said = problems(Expected(wanted, (3,), SPARSE.loss), x=np.zeros((30, *shape), np.uint8))
    assert f"shape {wanted}" in said
    assert f"got {shape}" in said
    assert hint in said


@pytest.mark.parametrize(
    ("y", "hint"),
    [
        (Y + 1, "save y - 1"),
        (Y - 1, "from 0 to 2, since the model has 3 outputs, got -1 to 1"),
        (np.where(Y == 2, 200, Y), "got 0 to 200"),
        (Y.astype(np.float32), 'y.astype("int64")'),
        (np.eye(3)[Y], 'the loss "categorical_crossentropy"'),
        (np.zeros((30, 7), int), "got (7,)"),
    ],
)
def test_labels_outside_of_what_the_model_gives_are_refused(problems, y, hint):
    assert hint in problems(y=y)


def test_labels_to_ignore_may_lie_outside(problems):
    ignoring = Expected((4, 4), (3,), SPARSE.loss, loss_config={"ignore_class": -1})
    assert problems(ignoring, y=Y - 1) == ""


def test_labels_for_each_step_of_a_sequence_fit(problems):
    steps = Expected((4, 4), (4, 3), SPARSE.loss)
    assert problems(steps, y=np.ones((30, 4), int)) == ""
    assert "expected class numbers of the shape (4,)" in problems(steps)


def test_class_numbers_for_one_hot_outputs_get_a_hint(problems):
    said = problems(Expected((4, 4), (3,), "CategoricalCrossentropy"))
    assert "sparse_categorical_crossentropy" in said


@pytest.mark.parametrize("shape", [(30,), (30, 1)])
def test_values_for_one_output_may_lack_their_axis(problems, shape):
    assert problems(Expected((4, 4), (1,), "MeanSquaredError"), y=np.zeros(shape)) == ""


def test_values_of_another_shape_are_refused(problems):
    said = problems(Expected((4, 4), (2,), "MeanSquaredError"), y=np.zeros((30, 3)))
    assert "expected the shape (2,)" in said


def test_shares_must_lie_between_0_and_1(problems):
    expected = Expected((4, 4), (1,), "BinaryCrossentropy")
    assert problems(expected, y=Y % 2) == ""
    assert "expected 0 to 1" in problems(expected, y=Y)


@pytest.mark.parametrize(
    ("dtype", "x", "fits"),
    [
        ("uint8", X, True),
        ("uint8", X.astype(int) + 300, False),
        ("int32", X.astype(int) + 300, True),
        ("int32", X.astype(np.float32), False),
        ("float32", X, True),
    ],
)
def test_inputs_of_whole_numbers_want_whole_numbers(problems, dtype, x, fits):
    said = problems(Expected((4, 4), (3,), SPARSE.loss, dtype), x=x)
    assert (said == "") == fits


def test_all_problems_are_told_at_once_and_each_once(problems):
    said = problems(x=X[:, :3], y=Y + 5, x_test=X[:, :3], y_test=Y + 5)
    assert len(said.splitlines()) == 2


@pytest.fixture
def photographs(tmp_path):
    """Return what is wrong with a folder of JPEG files, two classes, for a model."""
    for kind in ("ant", "bee", "bee"):
        folder = tmp_path / "insects" / kind
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.jpg")

    def problems(expected: Expected) -> str:
        with read(tmp_path / "insects", folder=tmp_path) as source:
            assert "JPEG files travel as they are" in source.describe()
            try:
                check_fits(source, expected)
            except DataError as error:
                return str(error)
        return ""

    return problems


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int32"])
def test_kept_jpeg_files_that_fit_are_fine(photographs, dtype):
    assert photographs(Expected((6, 8, 3), (2,), SPARSE.loss, input_dtype=dtype)) == ""


def test_kept_jpeg_files_of_another_size_say_how_to_resize_them(photographs):
    said = photographs(Expected((5, 4, 3), (2,), SPARSE.loss))
    assert "x: expected records of the shape (5, 4, 3)" in said
    assert "--size 4x5 resizes the pictures" in said
    said = photographs(Expected((6, 8, 1), (2,), SPARSE.loss))
    assert "set the model's input shape to [6, 8, 3]" in said


def test_kept_jpeg_files_of_more_classes_than_the_model_has_are_refused_by_name(photographs):
    said = photographs(Expected((6, 8, 3), (1,), SPARSE.loss))
    assert "The classes are ant, bee: give the last layer 2 units" in said


def test_kept_jpeg_files_are_no_tokens(photographs):
    said = photographs(Expected((6, 8, 3), (2,), SPARSE.loss, tokens=100))
    assert "expected token numbers from 0 to 99" in said
