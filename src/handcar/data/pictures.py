"""Forms of a column of pictures: JPEG XL without loss, or the JPEG files that they came from.

    jxl     strips: some records' pictures one below the other, a JPEG XL picture each
    jpeg    the files' own bytes; what comes before a file's first scan is the same in all
            files of one camera or program, so these heads travel apart from the scans

The decoders are libjxl and libjpeg-turbo, by the package imagecodecs. Neither is given a
byte before the picture's own header promises just the size that the column asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.data import squeeze
from handcar.data.spec import Spec
from handcar.errors import ChunkError, MissingLibrary
from handcar.protocol import limits

Pixels = NDArray[np.uint8]
Bytes = bytes | memoryview

STRIP_ROWS = 4096
"""Rows of a strip: enough for what a strip costs by itself to be nothing."""
EFFORT = 3
"""JPEG XL's: 1 and 2 make 8 to 12% more bytes, 4 and 5 none fewer in 3 to 6 times the time."""
CHANNELS = (1, 3)
LARGEST_SIDE = 1 << 16
SCANS = 64
"""More scans than any JPEG file needs: each costs the time of a whole picture."""
LENGTH = np.dtype("<u4")
FULL_COLOUR_FROM = 90
"""From this quality on a lossy picture keeps its colour at full resolution."""
QUALITIES = range(1, 101)


def codecs() -> ModuleType:
    """Return the package imagecodecs. Raises MissingLibrary, which says what to do."""
    try:
        import imagecodecs
    except ImportError as fault:
        raise MissingLibrary(
            "these pictures travel as JPEG XL or JPEG, and the package that reads them is "
            f"missing here ({fault}): install it with `pip install imagecodecs`, then start again"
        ) from fault
    return imagecodecs


# -- JPEG XL ---------------------------------------------------------------------------------


def may_be_pictures(spec: Spec) -> bool:
    """Say whether records look like pictures of bytes: (h, w), (h, w, 1) or (h, w, 3)."""
    return (
        spec.dtype == "u1"
        and len(spec.shape) in (2, 3)
        and spec.shape[2:] in ((), (1,), (3,))
        and max(spec.shape[:2]) <= LARGEST_SIDE
    )


def strip_records(spec: Spec) -> int:
    """Return how many records a strip takes."""
    return max(1, STRIP_ROWS // spec.shape[0])


def to_jxl(array: Pixels, spec: Spec) -> list[bytes]:
    """Return a JPEG XL picture for each strip, without loss."""
    encode = codecs().jpegxl_encode
    return [
        encode(strip, lossless=True, effort=EFFORT, usecontainer=False, numthreads=1)
        for strip in _strips(array, spec, strip_records(spec))
    ]


def _strips(array: Pixels, spec: Spec, records: int) -> Iterator[Pixels]:
    for first in range(0, len(array), records):
        strip = np.ascontiguousarray(array[first : first + records])
        yield strip.reshape(_strip_shape(spec, len(strip)))


def _strip_shape(spec: Spec, records: int) -> tuple[int, ...]:
    height, width, *channels = spec.shape
    return (records * height, width, *(channels if channels == [3] else []))


def from_jxl(sections: Sequence[Bytes], spec: Spec, records: int, strip_records: int) -> Pixels:
    """Return the pictures of all strips, of so many records each but the last.

    Raises ChunkError, MissingLibrary.
    """
    decode = codecs().jpegxl_decode
    array = np.empty((records, *spec.shape), np.uint8)
    for section, strip in zip(sections, _strips(array, spec, strip_records), strict=True):
        height, width, channels = (*strip.shape, 1)[:3]
        _expect_shape(spec, jxl_header(section), (height, width, channels))
        with _damaged(spec):
            decode(section, numthreads=1, out=strip)
    return array


def jxl_header(data: Bytes) -> tuple[int, int, int]:
    """Return height, width and channels of a bare JPEG XL codestream of one 8-bit picture.

    ISO/IEC 18181-1, SizeHeader and ImageMetadata. Raises ChunkError for what our writer
    never makes: other depths, alpha, previews, animations, orientations, lossy colours.
    """
    if bytes(data[:2]) != b"\xff\x0a":
        raise ChunkError("expected a bare JPEG XL picture")
    bits = _Bits(bytes(data[2:40]))
    height, width = _jxl_size(bits)
    all_default, extra_fields, float_samples = bits.take(1), bits.take(1), bits.take(1)
    depth, _, extra_channels, xyb = bits.take(2), bits.take(1), bits.take(2), bits.take(1)
    if any((all_default, extra_fields, float_samples, depth, extra_channels, xyb)):
        raise ChunkError("expected a plain JPEG XL picture of 8 bits without loss")
    return height, width, _jxl_channels(bits)


def _jxl_size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)
    height = _jxl_side(bits, small)
    ratio = bits.take(3)
    if ratio == 0:
        return height, _jxl_side(bits, small)
    over, under = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height, height * over // under


def _jxl_side(bits: _Bits, small: int) -> int:
    return 8 * (bits.take(5) + 1) if small else 1 + bits.take((9, 13, 18, 30)[bits.take(2)])


def _jxl_channels(bits: _Bits) -> int:
    if bits.take(1):  # sRGB
        return 3
    icc, space = bits.take(1), bits.take(2)
    if icc or space > 1:
        raise ChunkError("expected a JPEG XL picture in grey or RGB")
    return (3, 1)[space]


class _Bits:
    """Reads whole numbers, lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ChunkError("a JPEG XL picture ends in its header")
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        return taken


# -- JPEG ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Jpegs:
    """JPEG files end to end that decode to pictures of one shape: a column yet to be coded."""

    files: Pixels
    lengths: NDArray[np.int64]
    picture: tuple[int, int, int]
    """Height, width and channels of each."""
    quality: int | None = None
    """Set where the owner chose to lose some of the pictures, and how much."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all pictures, decoded."""
        return (len(self.lengths), *self.picture)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """The type of the pixels."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.lengths)

    def each(self) -> Iterator[memoryview]:
        """Return the files one by one."""
        whole, start = np.ascontiguousarray(self.files).data, 0
        for length in self.lengths.tolist():
            yield whole[start : start + length]
            start += length


def to_jpeg(jpegs: Jpegs) -> tuple[list[bytes], dict[str, Any]]:
    """Return the sections of a column of JPEG files, and what the header says of them.

    Raises ChunkError for files that are not JPEG, or not of the column's shape.
    """
    heads, scans = [], []
    for number, file in enumerate(jpegs.each()):
        shape, end = jpeg_header(file)
        if shape != jpegs.picture:
            raise ChunkError(f"picture {number}: expected {jpegs.picture}, got {shape}")
        heads.append(bytes(file[:end]))
        scans.append(bytes(file[end:]))
    lengths = np.array([list(map(len, heads)), list(map(len, scans))], LENGTH)
    head = b"".join(heads)
    zstd = squeeze.CODERS["zstd"].squeeze
    told = {"heads": len(head)} | ({"quality": jpegs.quality} if jpegs.quality else {})
    planes = lengths.reshape(-1).view(np.uint8).reshape(-1, LENGTH.itemsize).T.tobytes()
    return [zstd(planes), zstd(head), b"".join(scans)], told


def jpeg_files(sections: Sequence[Bytes], spec: Spec, records: int, heads: object) -> list[bytes]:
    """Return the files of a column, byte by byte what they were. Raises ChunkError."""
    if type(heads) is not int or not 1 <= heads <= limits.CHUNK_BYTES:
        raise ChunkError(f"column {spec.name}: its heads are unsound")
    unsqueeze = squeeze.CODERS["zstd"].unsqueeze
    planes = unsqueeze(sections[0], 2 * records * LENGTH.itemsize)
    flat = np.frombuffer(planes, np.uint8).reshape(LENGTH.itemsize, -1).T.tobytes()
    lengths = np.frombuffer(flat, LENGTH).astype(np.int64).reshape(2, records)
    if lengths.sum(axis=1).tolist() != [heads, len(sections[2])]:
        raise ChunkError(f"column {spec.name}: its files' lengths do not add up")
    pairs = zip(
        _cut(unsqueeze(sections[1], heads), lengths[0]), _cut(sections[2], lengths[1]), strict=True
    )
    return [bytes(head) + bytes(scan) for head, scan in pairs]


def _cut(data: Bytes, lengths: NDArray[np.int64]) -> Iterator[memoryview]:
    view, start = memoryview(data), 0
    for length in lengths.tolist():
        yield view[start : start + length]
        start += length


def from_jpeg(sections: Sequence[Bytes], spec: Spec, records: int, heads: object) -> Pixels:
    """Return the pictures of a column of JPEG files. Raises ChunkError, MissingLibrary."""
    if len(spec.shape) not in (2, 3) or spec.dtype != "u1":
        raise ChunkError(f"column {spec.name}: expected pictures of bytes")
    height, width, channels = (*spec.shape, 1)[:3]
    files = jpeg_files(sections, spec, records, heads)
    for file in files:
        _expect_shape(spec, jpeg_header(file)[0], (height, width, channels))
    decode = codecs().jpeg8_decode
    array = np.empty((records, *spec.shape), np.uint8)
    flat = array.reshape(records, height, width, *((3,) if channels == 3 else ()))
    for file, place in zip(files, flat, strict=True):
        with _damaged(spec):
            decode(file, out=place)
    return array


def jpeg_header(data: Bytes) -> tuple[tuple[int, int, int], int]:
    """Return (height, width, channels) of a JPEG file, and where its first scan's data begin.

    Raises ChunkError for anything but 8-bit Huffman-coded grey or colour pictures.
    """
    if bytes(data[:2]) != b"\xff\xd8":
        raise ChunkError("expected a JPEG file")
    shape, place = None, 2
    while True:
        marker, length = _jpeg_marker(data, place)
        body = bytes(data[place + 4 : place + 2 + length])
        place += 2 + length
        if marker in (0xC0, 0xC1, 0xC2):
            if shape is not None:
                raise ChunkError("a JPEG file has two frames")
            shape = _jpeg_shape(body)
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise ChunkError("expected a Huffman-coded JPEG file without arithmetic coding")
        elif marker == 0xDA:
            if shape is None or bytes(data[place:]).count(b"\xff\xda") >= SCANS:
                raise ChunkError("a JPEG file has scans before its frame, or too many")
            return shape, place


def _jpeg_marker(data: Bytes, place: int) -> tuple[int, int]:
    head = bytes(data[place : place + 4])
    length = int.from_bytes(head[2:], "big")
    if len(head) < 4 or head[0] != 0xFF or length < 2 or place + 2 + length > len(data):
        raise ChunkError("a JPEG file's header is damaged, or ends too early")
    return head[1], length


def _jpeg_shape(frame: bytes) -> tuple[int, int, int]:
    if len(frame) < 6 or frame[0] != 8 or frame[5] not in CHANNELS:
        raise ChunkError("expected a JPEG file of 8 bits in grey or colour")
    return int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big"), frame[5]


def as_jpegs(array: Pixels, quality: int) -> Jpegs:
    """Return pictures as JPEG files of a quality from 1 to 100: some of them is lost.

    `array` is uint8 (n, h, w), (n, h, w, 1) or (n, h, w, 3).
    """
    if quality not in QUALITIES:
        raise ChunkError(f"expected a quality from 1 to 100, got {quality}")
    encode = codecs().jpeg8_encode
    height, width, channels = (*array.shape[1:], 1)[:3]
    subsampling = "444" if quality >= FULL_COLOUR_FROM else "420"
    flat = array.reshape(len(array), height, width, *((3,) if channels == 3 else ()))
    # Standard tables, so that all heads are alike: for small pictures these are most bytes.
    files = [
        encode(np.ascontiguousarray(one), level=quality, subsampling=subsampling, optimize=False)
        for one in flat
    ]
    lengths = np.array(list(map(len, files)), np.int64)
    joined = np.frombuffer(b"".join(files), np.uint8)
    return Jpegs(joined, lengths, (height, width, channels), quality)


# -- both ------------------------------------------------------------------------------------


class _damaged:
    """Turns whatever a decoder raises into a ChunkError."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, fault: Any, _: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            raise ChunkError(f"column {self._spec.name}: a picture is damaged: {fault}") from fault


def _expect_shape(spec: Spec, got: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    if got != expected:
        raise ChunkError(f"column {spec.name}: expected a picture of {expected}, got {got}")


# -- the owner's side ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """What is known of pictures that nobody has decoded: as a Survey of their pixels."""

    records: int
    shape: tuple[int, int, int]
    lowest: int = 0
    highest: int = 255
    classes: None = None
    dtype: np.dtype[Any] = np.dtype(np.uint8)


@dataclass(frozen=True, slots=True)
class JpegColumn:
    """A column of the owner's JPEG files, all of one shape, end to end in one mapped file."""

    files: Pixels
    offsets: NDArray[np.int64]
    """Where each begins, and where the last ends: (n + 1,)."""
    shape: tuple[int, int, int]

    @property
    def survey(self) -> PictureFacts:
        """What there is to know of the column."""
        return PictureFacts(len(self.offsets) - 1, self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the pixels, once decoded."""
        return np.dtype(np.uint8)

    @property
    def record_bytes(self) -> int:
        """How many bytes one picture takes, decoded."""
        height, width, channels = self.shape
        return height * width * channels

    def rows(self, numbers: NDArray[np.int64]) -> Jpegs:
        """Return these records' files, which should be sorted: the disk likes it."""
        starts, ends = self.offsets[:-1][numbers], self.offsets[1:][numbers]
        pieces = [self.files[start:end] for start, end in zip(starts, ends, strict=True)]
        return Jpegs(np.concatenate(pieces), (ends - starts).astype(np.int64), self.shape)
