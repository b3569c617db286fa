"""MATLAB's files, as SciPy writes version 5 and as MATLAB lays out version 7.3."""

from __future__ import annotations

import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from handcar.data.importers import read
from handcar.data.reading import Options
from handcar.errors import DataError

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (30, 8, 6, 3), dtype=np.uint8)
LABELS = np.arange(30) % 10
SVHN = {"X": np.moveaxis(PICTURES, 0, -1), "y": np.where(LABELS == 0, 10, LABELS)[:, None]}


def save5(path: Path, arrays: dict, *, compressed: bool = True, **more: object) -> Path:
    savemat(path, arrays | more, do_compression=compressed)
    return path


def save73(path: Path, arrays: dict, **_: object) -> Path:
    """Write what MATLAB's -v7.3 does: a head of 512 bytes, dimensions reversed, chunks, zlib."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            stored = np.ascontiguousarray(np.asarray(array).T)
            written = file.create_dataset(name, data=stored, chunks=True, compression="gzip")
            written.attrs["MATLAB_class"] = np.bytes_(
                {"uint8": "uint8", "float64": "double"}.get(stored.dtype.name, "int64")
            )
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


SAVERS = pytest.mark.parametrize("save", [save5, save73])


@SAVERS
@pytest.mark.parametrize("compressed", [False, True])
def test_svhn_is_known_by_its_layout_and_ten_becomes_zero(tmp_path, save, compressed):
    path = save(tmp_path / "train_32x32.mat", SVHN, compressed=compressed)
    with read(path, folder=tmp_path) as source:
        x = source.train["x"].rows(np.arange(30))
        np.testing.assert_array_equal(x, PICTURES)
        np.testing.assert_array_equal(source.train["y"].rows(np.arange(30)), LABELS)
        assert "SVHN's layout" in source.describe()
        assert source.train["y"].dtype == np.uint8
    assert list(tmp_path.iterdir()) == [path]


@SAVERS
def test_fractions_for_labels_become_whole_numbers_as_matlab_means_them(tmp_path, save):
    path = save(tmp_path / "a.mat", SVHN | {"y": SVHN["y"].astype(np.float64)})
    with read(path) as source:
        assert source.classes == 10


@SAVERS
def test_records_may_come_first_or_last_whatever_the_case_of_the_names(tmp_path, save):
    x = RNG.normal(size=(40, 5))
    first = save(tmp_path / "first.mat", {"x": x, "Y": np.arange(40.0)[None] / 8})
    last = save(tmp_path / "last.mat", {"X": x.T, "y": np.arange(40.0)[:, None] / 8})
    for path in (first, last):
        with read(path) as source:
            rows = np.array([0, 7, 39])
            np.testing.assert_array_equal(source.train["x"].rows(rows), x[rows].astype("f4"))
            np.testing.assert_array_equal(source.train["y"].rows(rows), rows / 8)
            assert source.classes is None
            assert ("record is its last axis" in source.describe()) == (path == last)


@SAVERS
def test_train_and_test_files_in_a_folder_belong_together(tmp_path, save):
    save(tmp_path / "train_32x32.mat", SVHN)
    save(tmp_path / "test_32x32.mat", {"X": SVHN["X"][..., :20], "y": SVHN["y"][:20]})
    save(tmp_path / "extra_32x32.mat", SVHN)
    with read(tmp_path) as source:
        assert source.test is not None
        assert (source.records, source.test["x"].survey.records) == (30, 20)
    with read(tmp_path / "train_32x32.mat", Options(test=tmp_path / "test_32x32.mat")) as source:
        assert source.test is not None


def test_a_folder_without_a_train_file_says_so(tmp_path):
    save5(tmp_path / "extra.mat", SVHN)
    with pytest.raises(DataError, match="a file whose name begins with train"):
        read(tmp_path)


@pytest.mark.parametrize("dtype", ["i1", "u2", "i4", "u4", "i8", "f4", "f8", "?", ">i2", ">f8"])
@pytest.mark.parametrize("compressed", [False, True])
def test_every_type_of_number_comes_out_as_it_was(tmp_path, dtype, compressed):
    x = RNG.integers(0, 2 if dtype == "?" else 100, (20, 3)).astype(dtype)
    path = save5(tmp_path / "a.mat", {"x": x, "y": np.arange(20)}, compressed=compressed)
    with read(path) as source:
        np.testing.assert_array_equal(source.x.array, x)


@SAVERS
def test_missing_variables_are_told_with_those_there_are(tmp_path, save):
    path = save(tmp_path / "a.mat", {"images": PICTURES, "labels": LABELS})
    with pytest.raises(
        DataError, match=r"variable x or X, found images \(30 x 8 x 6 x 3\), labels"
    ):
        read(path)


def test_other_kinds_of_variables_are_passed_over_or_refused(tmp_path):
    more = {
        "cells": np.array([1, "a"], dtype=object),
        "note": "hello",
        "tree": {"a": 1},
        "z": np.array([1j]),
    }
    path = save5(tmp_path / "a.mat", {**more, **SVHN})
    with read(path) as source:
        assert source.records == 30
    for name, what in (("note", "text"), ("tree", "a structure"), ("z", "complex numbers")):
        path = save5(tmp_path / "b.mat", {"x": more[name], "y": LABELS})
        with pytest.raises(DataError, match=f"x: expected numbers, got {what}"):
            read(path)


@SAVERS
def test_unequal_numbers_of_records_are_told(tmp_path, save):
    path = save(tmp_path / "a.mat", {"x": np.zeros((20, 3)), "y": np.zeros((19, 1))})
    with pytest.raises(DataError, match="x is 20 x 3, y is 19"):
        read(path)


@SAVERS
@pytest.mark.parametrize("keep", [200, 700, 2000])
def test_a_file_cut_short_is_refused(tmp_path, save, keep):
    path = save(tmp_path / "a.mat", SVHN)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"a\.mat"):
        read(path)


@given(
    shape=st.tuples(st.integers(16, 20), *[st.integers(1, 5)] * 2),
    dtype=st.sampled_from(["u1", "i2", "f4", "f8"]),
    compressed=st.booleans(),
    name=st.sampled_from(["x", "X"]),
)
def test_whatever_the_shape_numbers_come_out_as_they_were(shape, dtype, compressed, name):
    x = RNG.integers(0, 100, shape).astype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        arrays = {name: x, "y": np.arange(shape[0]) / 8}
        path = save5(Path(folder) / "a.mat", arrays, compressed=compressed)
        with read(path) as source:
            np.testing.assert_array_equal(source.x.array, x)


def test_flipped_bytes_are_refused_or_change_nothing_else(tmp_path):
    whole = save5(
        tmp_path / "a.mat", {"x": RNG.normal(size=(20, 3)), "y": LABELS[:20]}
    ).read_bytes()
    for place in range(0, len(whole), 7):
        data = bytearray(whole)
        data[place] ^= 0xFF
        (tmp_path / "b.mat").write_bytes(data)
        try:
            read(tmp_path / "b.mat").close()
        except DataError:
            continue


def test_version_4_is_refused_with_how_to_save(tmp_path):
    savemat(tmp_path / "a.mat", {"x": np.zeros((20, 2)), "y": np.zeros((20, 1))}, format="4")
    with pytest.raises(DataError, match=r"version 4 file: in MATLAB.*save\("):
        read(tmp_path / "a.mat")


def test_numbers_kept_in_another_file_are_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(400))
    with h5py.File(tmp_path / "a.mat", "w") as file:
        outside = [(tmp_path / "secret", 0, 400)]
        file.create_dataset("x", (20, 20), "u1", external=outside)
        file["y"] = LABELS[:20]
    with pytest.raises(DataError, match="kept in another file"):
        read(tmp_path / "a.mat")
    with h5py.File(tmp_path / "b.mat", "w") as file:
        file["x"] = h5py.ExternalLink("a.mat", "/y")
        file["y"] = LABELS[:20]
    with pytest.raises(DataError, match="a link to another place"):
        read(tmp_path / "b.mat")
