"""Sounds by class: WAV files of every width that PCM has."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import numpy as np
import pytest

from handcar.data.importers import read
from handcar.data.reading import Options
from handcar.errors import DataError

RNG = np.random.default_rng(0)
RATE = 8000


def sound(length: int = 100) -> np.ndarray:
    return RNG.integers(-(2**15), 2**15, length, dtype=np.int16)


def save(path: Path, samples: np.ndarray, *, width: int = 2, rate: int = RATE) -> Path:
    """Write int16 samples (n,) or (n, channels) in so many bytes each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wide = samples.astype("<i4") << 16
    raw = wide.reshape(-1, 1).view(np.uint8)[:, 4 - width :]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes((raw ^ 0x80 if width == 1 else raw).tobytes())
    return path


def fill(folder: Path, lengths=(100,) * 10, **options: object) -> list[np.ndarray]:
    """Make sounds of two classes, and return them."""
    sounds = [sound(length) for length in (*lengths, *lengths)]
    for number, samples in enumerate(sounds):
        label = ("no", "yes")[number // len(lengths)]
        save(folder / label / f"{number:02}.wav", samples, **options)
    return sounds


def rows(source) -> np.ndarray:
    return source.train["x"].rows(np.arange(source.records))


def test_a_folder_a_class_gives_samples_names_and_counts(tmp_path):
    sounds = fill(tmp_path / "words")
    with read(tmp_path / "words", folder=tmp_path) as source:
        np.testing.assert_array_equal(rows(source), np.stack(sounds))
        assert (source.x.shape, source.train["x"].dtype) == ((100,), np.int16)
        text = source.describe()
    for fact in ("20 records", "no (10), yes (10)", "8,000 samples a second, 0.0125 s each"):
        assert fact in text


def test_short_ones_are_filled_with_silence_to_the_longest(tmp_path):
    sounds = fill(tmp_path / "words", [30, 100, 60] * 4)
    with read(tmp_path / "words") as source:
        np.testing.assert_array_equal(rows(source)[0], np.pad(sounds[0], (0, 70)))
        assert "16 are shorter: silence follows them" in source.describe()


def test_a_length_that_is_asked_for_is_kept(tmp_path):
    sounds = fill(tmp_path / "words", [30, 100, 60] * 4)
    with read(tmp_path / "words", Options(seconds=0.01)) as source:
        np.testing.assert_array_equal(rows(source)[1], sounds[1][:80])
        assert "8 are longer: they are cut there" in source.describe()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_becomes_16_bits(tmp_path, width):
    sounds = fill(tmp_path / "words", width=width)
    with read(tmp_path / "words") as source:
        kept = np.stack(sounds)
        np.testing.assert_array_equal(rows(source), kept & ~0xFF if width == 1 else kept)
        assert ("more than 16 bits: the first 16 are kept" in source.describe()) == (width > 2)


def test_several_channels_are_mixed_down(tmp_path):
    fill(tmp_path / "words")
    stereo = np.stack([sound(), sound()], axis=1)
    save(tmp_path / "words" / "no" / "00.wav", stereo)
    with read(tmp_path / "words") as source:
        np.testing.assert_array_equal(rows(source)[0], np.rint(stereo.mean(axis=1)))
        assert "1 are in several channels: they are mixed down to one" in source.describe()


@pytest.mark.parametrize("folder", ["", "recordings"])
def test_names_may_begin_with_the_class(tmp_path, folder):
    for number in range(20):
        save(tmp_path / "d" / folder / f"{number % 10}_jackson_{number}.wav", sound())
    with read(tmp_path / "d") as source:
        assert source.class_names == tuple("0123456789")
        assert source.classes == 10


def test_a_name_without_a_class_is_told(tmp_path):
    for number in range(20):
        save(tmp_path / f"{number}.wav", sound())
    with pytest.raises(DataError, match=r"0\.wav is in no class: .* begin with the class and _"):
        read(tmp_path)


def test_splits_are_kept(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", (100, 90))
    with read(tmp_path) as source:
        assert source.test is not None
        assert source.test["x"].survey.records == 4


def test_the_extended_header_that_24_bits_often_have_is_read(tmp_path):
    sounds = fill(tmp_path / "words", width=3)
    path = tmp_path / "words" / "no" / "00.wav"
    plain = path.read_bytes()
    head = struct.pack("<HHIIHH", 0xFFFE, 1, RATE, RATE * 3, 3, 24)
    more = struct.pack("<HHIH", 22, 24, 4, 1) + bytes.fromhex("000000001000800000aa00389b71")
    data = plain[plain.index(b"data") :]
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(head + more)) + head + more + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    with read(tmp_path / "words") as source:
        np.testing.assert_array_equal(rows(source), np.stack(sounds))


# -- sounds that are not what they should be


def test_another_sample_rate_is_told_with_both_files(tmp_path):
    fill(tmp_path / "words")
    save(tmp_path / "words" / "yes" / "15.wav", sound(), rate=44100)
    with pytest.raises(DataError, match=r"no/00\.wav has 8,000 .*yes/15\.wav has 44,100.*resample"):
        read(tmp_path / "words")


def test_other_codings_than_pcm_are_refused(tmp_path):
    fill(tmp_path / "words")
    path = tmp_path / "words" / "no" / "03.wav"
    data = bytearray(path.read_bytes())
    data[20:22] = b"\x03\x00"  # fractions
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"no/03\.wav: expected a WAV file of whole-number samples"):
        read(tmp_path / "words")


@pytest.mark.parametrize("keep", [0, 10, 40, 44, 100])
def test_a_file_cut_short_is_named(tmp_path, keep):
    fill(tmp_path / "words")
    path = tmp_path / "words" / "no" / "03.wav"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"no/03\.wav"):
        read(tmp_path / "words")
