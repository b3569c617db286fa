"""Pictures by class, in a folder or a .zip.

They come out as (height, width, channels): one channel where all are grey, three where any has
colour, four where one can be seen through. All have one size, or are made so when one is asked
for. JPEG files that need no change travel as they are, byte by byte.
"""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar import files
from handcar.data.readers import tree
from handcar.data.readers.tree import Item
from handcar.data.reading import Found, Reading, library
from handcar.data.spool import Spool, expect_room
from handcar.errors import ChunkError, DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
PIXELS = 64_000_000
"""More than fit into a chunk; a picture that promises more is not decoded."""
ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held: 1 is upright, 5 to 8 lie on their side."""
GREY = ("1", "L", "LA")
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")
SEE_THROUGH = ("RGBA", "LA", "PA")
CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4, "I;16": 1}
OPAQUE = 255

Size = tuple[int, int]
Told = Callable[[], None]
"""Is called after each picture."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a picture's header says."""

    format: str
    size: Size
    """Width and height, once upright."""
    mode: str
    turned: bool
    see_through: bool
    plain_jpeg: bool

    @property
    def colours(self) -> str:
        return "16-bit grey" if self.mode in DEEP else "8-bit"


@dataclass(frozen=True, slots=True)
class _Target:
    """What all pictures become."""

    size: Size
    mode: str

    @property
    def shape(self) -> tuple[int, int, int]:
        width, height = self.size
        return height, width, CHANNELS[self.mode]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.mode == "I;16" else "u1")


def read(path: Path, reading: Reading) -> Found:
    """Read pictures, a folder a class, with train, val and test folders above or without."""
    with tree.by_class(path, reading, SUFFIXES) as layout, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of oddities that a picture can be read in spite of
        told = _counting(reading, 2 * sum(map(len, layout.splits)))
        items = [item for split in layout.splits for item in split]
        kinds = [_looked(item, told) for item in items]
        target = _target(items, kinds, reading.options.size)
        if all(kind.plain_jpeg and kind.size == target.size for kind in kinds):
            notes = ["The JPEG files travel as they are, byte by byte."]
            columns = [_jpegs(split, target, reading, told) for split in layout.splits]
        else:
            columns, notes = _all_pixels(layout.splits, target, reading, told)
    parts = [
        {"x": x, "y": layout.labels(split)} for x, split in zip(columns, layout.splits, strict=True)
    ]
    return Found(
        parts[0],
        parts[1] if len(parts) > 1 else None,
        class_names=layout.class_names,
        notes=(*layout.notes, *_notes(kinds, target), *notes),
        kind="pictures",
    )


def _counting(reading: Reading, total: int) -> Told:
    done = 0

    def told() -> None:
        nonlocal done
        done += 1
        reading.on_progress(done, total)

    return told


# -- looking at headers ----------------------------------------------------------------------


def _looked(item: Item, told: Told) -> _Kind:
    data = item.read()
    with _opened(item, data) as image:
        width, height = image.size
        orientation = _orientation(image, data)
        lies = orientation in (5, 6, 7, 8)
        kind = _Kind(
            format=image.format,
            size=(height, width) if lies else (width, height),
            mode=image.mode,
            turned=orientation not in (None, 1),
            see_through=image.mode in SEE_THROUGH or "transparency" in image.info,
            plain_jpeg=False,
        )
    told()
    return _with_plainness(kind, data)


def _orientation(image: Any, data: bytes) -> int | None:
    """Return how the camera was held, if the file says."""
    if image.format == "PNG" and b"eXIf" not in data:
        return None  # Pillow would decode all of it to look for that behind the pixels
    held: int | None = image.getexif().get(ORIENTATION)
    return held


def _with_plainness(kind: _Kind, data: bytes) -> _Kind:
    """Say whether a picture is a JPEG file that volunteers can decode without any change."""
    from dataclasses import replace

    from handcar.data.pictures import jpeg_header

    if kind.format != "JPEG" or kind.mode not in ("L", "RGB") or kind.turned:
        return kind
    try:
        (height, width, channels), _ = jpeg_header(data)
    except ChunkError:  # arithmetic coding and other things that hardly anything can read
        return kind
    same = (width, height) == kind.size and channels == CHANNELS[kind.mode]
    return replace(kind, plain_jpeg=same)


@contextmanager
def _opened(item: Item, data: bytes) -> Iterator[Any]:
    """Open a picture of a format that we know. Raises DataError, also for damage found inside."""
    image_module = library("PIL.Image", "Pillow", "pictures")
    try:
        with image_module.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > PIXELS:
                raise DataError(
                    f"{item}: promises {width} x {height} pixels, expected at most {PIXELS:,}"
                )
            yield image
    except DataError:
        raise
    except Exception as fault:  # each decoder has errors of its own for damage
        raise DataError(
            f"{item}: expected a PNG, JPEG, WebP, BMP or GIF picture, which is damaged or "
            f"something else ({_reason(fault)}): mend it or take it out"
        ) from fault


def _reason(fault: Exception) -> str:
    text = str(fault) or type(fault).__name__
    return "it is none of these" if text.startswith("cannot identify") else text


def _target(items: list[Item], kinds: list[_Kind], asked: Size | None) -> _Target:
    """Return what all pictures become. Raises DataError where they differ too much."""
    if asked is None:
        _expect_same(items, [kind.size for kind in kinds])
    deep = [kind.mode in DEEP for kind in kinds]
    if any(deep):
        _expect_same_depth(items, kinds)
        mode = "I;16"
    elif any(kind.see_through for kind in kinds):
        mode = "RGBA"
    else:
        mode = "L" if all(kind.mode in GREY for kind in kinds) else "RGB"
    return _Target(asked or kinds[0].size, mode)


def _expect_same(items: list[Item], sizes: list[Size]) -> None:
    for item, size in zip(items, sizes, strict=True):
        if size != sizes[0]:
            (width, height), (other_width, other_height) = sizes[0], size
            raise DataError(
                f"expected pictures of one size: {items[0]} has {width} x {height} pixels, {item} "
                f"has {other_width} x {other_height}. --size {width}x{height} makes all that size"
            )


def _expect_same_depth(items: list[Item], kinds: list[_Kind]) -> None:
    for item, kind in zip(items, kinds, strict=True):
        if kind.colours != kinds[0].colours:
            raise DataError(
                f"expected pictures of one kind: {items[0]} is {kinds[0].colours}, {item} is "
                f"{kind.colours}: save them alike"
            )


def _notes(kinds: list[_Kind], target: _Target) -> Iterator[str]:
    formats = Counter(kind.format for kind in kinds)
    yield "Pictures: " + ", ".join(f"{count:,} {name}" for name, count in formats.items()) + "."
    width, height = target.size
    done = {
        f"resized to {width} x {height} pixels": lambda kind: kind.size != target.size,
        "turned upright, as their EXIF data say": lambda kind: kind.turned,
        "grey and get three channels like the others": lambda kind: (
            kind.mode in GREY and CHANNELS[target.mode] > 1
        ),
        "drawn with the colours of their palette": lambda kind: kind.mode in ("P", "PA"),
        "turned from print colours (CMYK) to RGB": lambda kind: kind.mode == "CMYK",
    }
    for what, applies in done.items():
        if count := sum(map(applies, kinds)):
            yield f"{count:,} pictures are {what}."


# -- keeping JPEG files ----------------------------------------------------------------------


def _jpegs(items: list[Item], target: _Target, reading: Reading, told: Told) -> Any:
    """Put all files end to end, each decoded once to see that it is whole."""
    from handcar.data.pictures import JpegColumn

    path = reading.folder / f"{len(list(reading.folder.iterdir()))}.jpeg"
    ends = [0]
    with files.said_plainly(path), path.open("wb") as file:
        for item in items:
            data = item.read()
            with _opened(item, data) as image:
                image.load()
            ends.append(ends[-1] + file.write(data))
            told()
    mapped = np.asarray(np.memmap(path, np.uint8, "r"))
    return JpegColumn(mapped, np.array(ends, np.int64), target.shape)


# -- decoding to pixels ----------------------------------------------------------------------


def _all_pixels(
    splits: list[list[Item]], target: _Target, reading: Reading, told: Told
) -> tuple[list[NDArray[Any]], list[str]]:
    """Decode every picture; leave out a fourth channel that is opaque everywhere."""
    height, width, channels = target.shape
    record_bytes = height * width * channels * target.dtype.itemsize
    expect_room(reading.folder, sum(map(len, splits)) * record_bytes)
    opacity, spooled = OPAQUE, []
    for number, split in enumerate(splits):
        with Spool(reading.folder / f"x{number}.npy", target.shape, target.dtype) as spool:
            for item in split:
                pixels = _pixels(item, target)
                opacity = min(opacity, int(pixels[..., -1].min()))
                spool.append(pixels[None])
                told()
            spooled.append(spool.mapped())
    if target.mode != "RGBA":
        return spooled, []
    if opacity == OPAQUE:
        return [array[..., :3] for array in spooled], [
            "Their fourth channel is opaque everywhere and is left out."
        ]
    return spooled, ["The fourth channel says how opaque a pixel is, up to 255."]


def _pixels(item: Item, target: _Target) -> NDArray[Any]:
    turn = library("PIL.ImageOps", "Pillow", "pictures").exif_transpose
    lanczos = library("PIL.Image", "Pillow", "pictures").Resampling.LANCZOS
    with _opened(item, item.read()) as image:
        upright = turn(image)
        plain = upright if target.mode == "I;16" else upright.convert(target.mode)
        sized = plain if plain.size == target.size else plain.resize(target.size, lanczos)
        return np.asarray(sized, target.dtype).reshape(target.shape)
