"""Bytes that come in pieces, at an offset, over links that break.

The part file's length is the truth: what arrived is kept, the sender asks for the offset
and goes on there. Two requests may write one upload at once, when the server has not yet
noticed that the first one's link is dead: each piece is written under a lock, at the end of
the file or not at all, so the slower of the two stops with WRONG_OFFSET.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from django.conf import settings

from handcar import files
from handcar.errors import HandcarError
from handcar.protocol import problems
from handcar.server import blobs, locks
from handcar.server.problems import Refusal


class Finished(HandcarError):
    """The part file is gone: another request has completed this upload."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What is to come: a key of its own, how many bytes, and what they must be."""

    key: str
    size: int
    digest: str
    asks: bool = False
    """Whether a bucket may be asked for what is there: not for updates, which are thousands."""

    @property
    def part(self) -> Path:
        """Where the bytes gather."""
        folder: Path = settings.HANDCAR_HOME.uploads
        return folder / f"{self.key}.part"


def offset(upload: Upload) -> int:
    """Return how many bytes are here."""
    if _is_here(upload):
        return upload.size
    try:
        return upload.part.stat().st_size
    except FileNotFoundError:
        return 0


def is_whole(upload: Upload) -> bool:
    """Say whether all bytes are in the part file, and only have to be put to their place."""
    try:
        return upload.part.stat().st_size == upload.size
    except FileNotFoundError:
        return False


def receive(upload: Upload, start: int, pieces: Iterable[bytes]) -> int:
    """Append what comes at `start`; return the offset after it.

    When all is here and its digest is right the bytes are moved to the blobs. A wrong
    digest throws them away. Raises StoreAway, Refusal: WRONG_OFFSET, TOO_LARGE, BAD_DIGEST.
    """
    if _is_here(upload):
        return upload.size
    upload.part.touch(mode=0o600)
    try:
        position = _append(upload, start, pieces)
        if position == upload.size:
            _complete(upload)
    except Finished:
        return blobs.size(upload.digest) or 0
    return position


def _is_here(upload: Upload) -> bool:
    here = blobs.size(upload.digest) if upload.asks else blobs.known_size(upload.digest)
    return here == upload.size


def forget(upload: Upload) -> None:
    """Throw away what arrived so far."""
    with suppress(FileNotFoundError):
        upload.part.unlink()


def _append(upload: Upload, start: int, pieces: Iterable[bytes]) -> int:
    with _locked(upload) as file:
        _expect(upload, file, start)
    position = start
    for piece in pieces:
        if position + len(piece) > upload.size:
            raise Refusal(
                problems.TOO_LARGE,
                f"announced were {upload.size} bytes, and more came; send only those",
                headers=_offset_header(position),
            )
        with _locked(upload) as file:
            _expect(upload, file, position)
            file.seek(position)
            with files.said_plainly(upload.part):
                file.write(piece)
        position += len(piece)
    return position


def _complete(upload: Upload) -> None:
    with _locked(upload) as file:
        _expect(upload, file, upload.size)
        os.fsync(file.fileno())
        if files.digest_file(upload.part) != upload.digest:
            upload.part.unlink()
            raise Refusal(
                problems.BAD_DIGEST,
                f"expected {upload.digest}; the bytes were thrown away: send them again from 0",
                headers=_offset_header(0),
            )
        blobs.adopt(upload.part, upload.digest)


def _expect(upload: Upload, file: BinaryIO, position: int) -> None:
    here = os.fstat(file.fileno()).st_size
    if here != position:
        raise Refusal(
            problems.WRONG_OFFSET,
            f"{here} of {upload.size} bytes are here, not {position}: go on at {here}",
            headers=_offset_header(here),
        )


@contextmanager
def _locked(upload: Upload) -> Iterator[BinaryIO]:
    """Open the part file, alone; raises Finished when it was completed meanwhile."""
    try:
        with upload.part.open("r+b", buffering=0) as file, locks.held(file.fileno()):
            if os.fstat(file.fileno()).st_nlink == 0 or not _is_same(file, upload.part):
                raise Finished("this upload is complete")
            yield file
    except FileNotFoundError:
        raise Finished("this upload is complete") from None


def _is_same(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _offset_header(position: int) -> dict[str, str]:
    return {"Upload-Offset": str(position)}
