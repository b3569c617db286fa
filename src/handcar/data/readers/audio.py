"""WAV files by class: a folder each, or all in one folder with the class before the first `_`.

Each comes out as int16 (samples,), stereo mixed down, silence added at the end or cut there.
"""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.data.readers import tree
from handcar.data.readers.tree import Item
from handcar.data.reading import Found, Reading
from handcar.data.spool import Spool, expect_room
from handcar.errors import DataError

SUFFIXES = (".wav",)
WIDTHS = (1, 2, 3, 4)
PCM = b"\x01\x00"
EXTENSIBLE = b"\xfe\xff"


@dataclass(frozen=True, slots=True)
class _Sound:
    """What a file's header says."""

    rate: int
    frames: int
    channels: int
    width: int


def read(path: Path, reading: Reading) -> Found:
    """Read the sounds of each class, with train, val and test folders above or without."""
    with tree.by_class(path, reading, SUFFIXES, prefixes=True) as layout:
        items = [item for split in layout.splits for item in split]
        total, done = 2 * len(items), 0
        sounds = []
        for item in items:
            sounds.append(_sound(item, item.read())[0])
            done += 1
            reading.on_progress(done, total)
        rate = _expect_one_rate(items, sounds)
        length = _length(sounds, rate, reading.options.seconds)
        expect_room(reading.folder, 2 * length * len(items))
        parts = []
        for number, split in enumerate(layout.splits):
            with Spool(reading.folder / f"x{number}.npy", (length,), "<i2") as spool:
                for item in split:
                    spool.append(_fitted(_samples(item), length)[None])
                    done += 1
                    reading.on_progress(done, total)
                parts.append({"x": spool.mapped(), "y": layout.labels(split)})
    return Found(
        parts[0],
        parts[1] if len(parts) > 1 else None,
        class_names=layout.class_names,
        notes=(*layout.notes, *_notes(sounds, rate, length)),
        kind="sounds",
    )


def _sound(item: Item, data: bytes) -> tuple[_Sound, bytes]:
    """Return what the header says, and all frames. Raises DataError."""
    try:
        with wave.open(io.BytesIO(_plain(data))) as file:
            rate, frames, channels = file.getframerate(), file.getnframes(), file.getnchannels()
            sound = _Sound(rate, frames, channels, file.getsampwidth())
            raw = file.readframes(frames)
    except (wave.Error, EOFError, ValueError) as fault:
        raise DataError(
            f"{item}: expected a WAV file of whole-number samples (PCM), which can't be read "
            f"({fault or 'it ends too early'}): convert it, for example with sox or ffmpeg"
        ) from fault
    if sound.width not in WIDTHS or len(raw) != frames * channels * sound.width or not frames:
        raise DataError(f"{item}: is empty, or ends before the {frames:,} samples that it promises")
    return sound, raw


def _plain(data: bytes) -> bytes:
    """Return a file whose extended header says PCM as one with a plain header: Python 3.11's."""
    extended = data[12:16] == b"fmt " and data[20:22] == EXTENSIBLE and data[44:46] == PCM
    return data[:20] + PCM + data[22:] if extended else data


def _expect_one_rate(items: list[Item], sounds: list[_Sound]) -> int:
    rate = sounds[0].rate
    for item, sound in zip(items, sounds, strict=True):
        if sound.rate != rate:
            raise DataError(
                f"expected one sample rate: {items[0]} has {rate:,} a second, {item} has "
                f"{sound.rate:,}. Handcar does not resample: do so with sox or ffmpeg"
            )
    return rate


def _length(sounds: list[_Sound], rate: int, seconds: float | None) -> int:
    if seconds is None:
        return max(sound.frames for sound in sounds)
    return max(1, round(rate * seconds))


def _samples(item: Item) -> NDArray[np.int16]:
    """Return all samples, mixed down to one channel."""
    sound, raw = _sound(item, item.read())
    samples = _as_int16(raw, sound.width).reshape(sound.frames, sound.channels)
    mixed = samples if sound.channels == 1 else np.rint(samples.mean(axis=1))
    return mixed.reshape(-1).astype(np.int16)


def _as_int16(raw: bytes, width: int) -> NDArray[np.int16]:
    if width == 1:  # the one width that WAV keeps without a sign
        return (np.frombuffer(raw, np.uint8).astype(np.int16) - 128) << 8
    places = np.frombuffer(raw, np.uint8).reshape(-1, width)
    samples: NDArray[np.int16] = np.ascontiguousarray(places[:, -2:]).view("<i2").reshape(-1)
    return samples


def _fitted(samples: NDArray[np.int16], length: int) -> NDArray[np.int16]:
    fitted = np.zeros(length, np.int16)
    fitted[: len(samples)] = samples[:length]
    return fitted


def _notes(sounds: list[_Sound], rate: int, length: int) -> list[str]:
    told = [f"Sounds: {rate:,} samples a second, {length / rate:.3g} s each."]
    counts: dict[str, Any] = {
        "shorter: silence follows them": lambda sound: sound.frames < length,
        "longer: they are cut there": lambda sound: sound.frames > length,
        "in several channels: they are mixed down to one": lambda sound: sound.channels > 1,
        "of more than 16 bits: the first 16 are kept": lambda sound: sound.width > 2,
    }
    for what, applies in counts.items():
        if count := sum(map(applies, sounds)):
            told.append(f"{count:,} are {what}.")
    return told
