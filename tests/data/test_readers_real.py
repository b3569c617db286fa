"""Real data of the folder in HANDCAR_DATA, written out as their owners have them."""

from __future__ import annotations

import os
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from handcar.data.importers import read
from handcar.data.reading import Options

DATA = Path(os.environ.get("HANDCAR_DATA", "/none"))


def needed(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"needs {name} in the folder that HANDCAR_DATA names")
    return DATA / name


def test_the_census_table_of_uci(tmp_path):
    train, test = needed("adult/adult-train.csv"), needed("adult/adult-test.csv")
    with read(train, Options(test=test), folder=tmp_path) as source:
        assert source.test is not None
        assert (source.records, source.test["x"].survey.records) == (32_561, 16_281)
        assert source.class_names == ("<=50K", ">50K")
        assert source.y.counts == {0: 24_720, 1: 7_841}
        assert source.x.shape == (108,)
        age = source.train["x"].rows(np.arange(3))[:, source.columns.index("column1")]
        assert age.tolist() == [39, 50, 38]
        assert "column14: missing 583 times" in source.describe()


def test_the_plays_of_shakespeare(tmp_path):
    path = needed("tinyshakespeare/input.txt")
    with read(path, Options(window=128), folder=tmp_path) as source:
        assert len(source.vocabulary) == 65
        first = source.train["x"].rows(np.array([0]))[0]
        assert "".join(source.vocabulary[token] for token in first).startswith("First Citizen:")


def test_spoken_digits_in_one_folder(tmp_path):
    data = np.load(needed("fsdd/fsdd_1440.npz"))
    folder = tmp_path / "recordings"
    folder.mkdir()
    pcm, offsets = data["pcm"], data["offsets"]
    for number in range(0, 1440, 12):
        name = f"{data['y'][number]}_{data['speaker'][number]}_{number}.wav"
        with wave.open(str(folder / name), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(pcm[offsets[number] : offsets[number + 1]].tobytes())
    with read(folder, Options(seconds=1)) as source:
        assert (source.records, source.x.shape) == (120, (8000,))
        assert set(source.class_names) <= set("0123456789")


def test_jpeg_files_in_an_archive(tmp_path):
    data = np.load(needed("cifar10_jpeg/cifar10_jpeg_test10k.npz"))
    files, offsets = data["jpeg"], data["offsets"]
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        for number in range(500):
            name = f"test/{data['y'][number]}/{number:05}.jpg"
            archive.writestr(name, files[offsets[number] : offsets[number + 1]].tobytes())
    with read(tmp_path / "c.zip") as source:
        assert (source.records, source.x.shape, source.classes) == (500, (32, 32, 3), 10)
        assert source.train["x"].files.nbytes == offsets[500], "not a byte more"


def test_pictures_in_the_layout_of_svhn(tmp_path):
    data = np.load(needed("cifar10_lossless/cifar10_lossless_4k.npz"))
    x, y = data["x"][:2000], data["y"][:2000]
    svhn = {"X": np.moveaxis(x, 0, -1), "y": np.where(y == 0, 10, y)[:, None]}
    savemat(tmp_path / "train_32x32.mat", svhn, do_compression=True)
    with read(tmp_path / "train_32x32.mat") as source:
        rows = np.arange(2000)
        np.testing.assert_array_equal(source.train["x"].rows(rows), x)
        np.testing.assert_array_equal(source.train["y"].rows(rows), y)
