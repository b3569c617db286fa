"""Every error that Handcar raises on purpose.

HandcarError
├── BadInput              what a person gave cannot be used: says what and how to mend it
│   ├── ModelFileError    one or more fields of a model file
│   └── DataError         a data set file
├── Corrupt               bytes that are not what their digest, sizes or format promise
│   ├── FrameError        weights on the wire
│   └── ChunkError        records on the wire
├── Problem               the server said no (RFC 9457), with its type and what to do next
├── Unreachable           no answer from the other side; trying again later may help
├── DiskFull              the disk, or the share of it that was allowed, is used up
└── StateConflict         a row was not in the state that a transition starts from
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class HandcarError(Exception):
    """Base of all errors raised on purpose; its text is written for a person."""

    exit_code = 1


class BadInput(HandcarError):
    """What a person gave cannot be used."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing wrong with one field: `path` as in `layers[3].units`, and what is allowed."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ModelFileError(BadInput):
    """A model file that the checker refuses, with every problem found."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(BadInput):
    """A data set file that cannot be read, or holds what we cannot train on."""


class Corrupt(HandcarError):
    """Bytes that are not what their digest, their sizes or their format promise."""


class FrameError(Corrupt):
    """A frame of weights that is damaged, hostile, or meant for another model."""


class ChunkError(Corrupt):
    """A chunk of records that is damaged, hostile, or of another data set."""


class Unreachable(HandcarError):
    """The other side did not answer, or asked to come back later."""

    exit_code = 3
    retry_after_s: float | None = None
    """How long it asked us to wait, if it did."""


class Problem(HandcarError):
    """The server's "no": an RFC 9457 problem document."""

    exit_code = 4

    def __init__(self, *, type: str, title: str, status: int, detail: str = "") -> None:
        self.type = type
        self.title = title
        self.status = status
        self.detail = detail
        super().__init__(f"{title}: {detail}" if detail else title)


class DiskFull(HandcarError):
    """No room left on the disk, or in the share of it that was allowed."""

    exit_code = 5


class StateConflict(HandcarError):
    """A row was not in the state that its transition starts from; nothing was changed."""
