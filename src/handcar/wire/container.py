"""The container of every frame and chunk: magic, JSON header, sections, checksums.

    8 bytes   magic: "HANDCAR" and the format version (1)
    4 bytes   length of the header, little-endian
    4 bytes   CRC-32 of the header
    header    UTF-8 JSON object; its `sections` is [[length, CRC-32], ...]
    sections  one after the other, nothing after the last

Every length is checked against what is there before anything is read with it.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from handcar.errors import Corrupt, FrameError
from handcar.protocol import limits

MAGIC = b"HANDCAR\x01"
FIXED = struct.Struct("<8sII")


def pack(header: dict[str, Any], sections: Sequence[bytes]) -> bytes:
    """Return the container of `header` and `sections`."""
    table = [[len(section), zlib.crc32(section)] for section in sections]
    text = json.dumps({**header, "sections": table}, separators=(",", ":")).encode()
    return b"".join([FIXED.pack(MAGIC, len(text), zlib.crc32(text)), text, *sections])


def unpack(
    data: bytes | memoryview, *, error: type[Corrupt] = FrameError
) -> tuple[dict[str, Any], list[memoryview]]:
    """Return the header and views of the sections. Raises `error` for anything unsound."""
    view = memoryview(data)
    header, start = _header(view, error)
    table = header.pop("sections", None)
    if not _is_table(table):
        raise error("the header has no sound table of sections")
    sections = []
    for number, (length, checksum) in enumerate(table):
        section = view[start : start + length]
        if len(section) != length:
            raise error(f"section {number}: expected {length} bytes, got {len(section)}")
        if zlib.crc32(section) != checksum:
            raise error(f"section {number}: its checksum is wrong, so its bytes are damaged")
        sections.append(section)
        start += length
    if start != len(view):
        raise error(f"expected {start} bytes in all, got {len(view)}")
    return header, sections


def _header(view: memoryview, error: type[Corrupt]) -> tuple[dict[str, Any], int]:
    if len(view) < FIXED.size:
        raise error(f"expected at least {FIXED.size} bytes, got {len(view)}")
    magic, length, checksum = FIXED.unpack(view[: FIXED.size])
    if magic != MAGIC:
        raise error(f"expected the magic {MAGIC!r}, got {magic!r}")
    if length > min(limits.FRAME_HEADER_BYTES, len(view) - FIXED.size):
        raise error(f"a header of {length} bytes does not fit")
    text = view[FIXED.size : FIXED.size + length]
    if zlib.crc32(text) != checksum:
        raise error("the header's checksum is wrong, so its bytes are damaged")
    try:
        header = json.loads(bytes(text))
    except (ValueError, RecursionError) as fault:
        raise error("the header is not JSON") from fault
    if not isinstance(header, dict):
        raise error("the header is not a JSON object")
    return header, FIXED.size + length


def _is_table(table: object) -> bool:
    return isinstance(table, list) and all(
        isinstance(row, list) and len(row) == 2 and all(_is_count(number) for number in row)
        for row in table
    )


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**40
