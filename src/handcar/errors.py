"""Every error that Handcar raises on purpose.

HandcarError
├── BadInput              what a person gave cannot be used: says what and how to mend it
│   ├── ModelFileError    one or more fields of a model file
│   ├── DataError         a data set file
│   └── StoreFault        a store that can't be used: says what it lacks and what to do
├── Corrupt               bytes that are not what their digest, sizes or format promise
│   ├── FrameError        weights on the wire
│   ├── ChunkError        records on the wire
│   └── WebPage           a page for people, where the bytes of a file were asked for
├── Problem               the server said no (RFC 9457), with its type and what to do next
│   └── LinkGone          an address leads nowhere, or no longer: a fresh one may
├── Unreachable           no answer from the other side; trying again later may help
│   ├── StoreAway         the server's own store is away or full; the bytes in it are as they were
│   └── TooSlow           bytes come so slowly that another server, or later, is better
├── Forbidden             an address that this machine does not fetch from
├── MissingLibrary        a package that this needs is not installed: says which
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


class StoreFault(BadInput):
    """A store that can't be used as it is: says what it lacks and what to do."""


class Corrupt(HandcarError):
    """Bytes that are not what their digest, their sizes or their format promise."""


class Untrusted(HandcarError):
    """A server that does not prove to be the one that this machine knows."""


class FrameError(Corrupt):
    """A frame of weights that is damaged, hostile, or meant for another model."""


class ChunkError(Corrupt):
    """A chunk of records that is damaged, hostile, or of another data set."""


class WebPage(Corrupt):
    """A page for people where a file was asked for: the page's beginning, and its address."""

    def __init__(self, text: str, *, head: bytes, url: str) -> None:
        self.head = head
        self.url = url
        super().__init__(text)


class Unreachable(HandcarError):
    """The other side did not answer, or asked to come back later."""

    exit_code = 3
    retry_after_s: float | None = None
    """How long it asked us to wait, if it did."""


class Broken(Unreachable):
    """A connection that stood was lost, which says nothing of the other side: ask again soon."""


class Problem(HandcarError):
    """The server's "no": an RFC 9457 problem document."""

    exit_code = 4

    def __init__(self, *, type: str, title: str, status: int, detail: str = "") -> None:
        self.type = type
        self.title = title
        self.status = status
        self.detail = detail
        super().__init__(f"{title}: {detail}" if detail else title)


class LinkGone(Problem):
    """An address leads nowhere, or no longer; whoever gave it may give a fresh one."""


class StoreAway(Unreachable):
    """The server's own store does not do what it should just now; no bytes are to blame."""


class TooSlow(Unreachable):
    """Bytes come so slowly that another server, or later, is better."""


class Forbidden(HandcarError):
    """An address that this machine does not fetch from, whoever names it."""


class RecipeError(HandcarError):
    """A round's recipe says what can't have been: no training on these chunks went like that."""


class DiskFull(HandcarError):
    """No room left on the disk, or in the share of it that was allowed."""

    exit_code = 5


class MissingLibrary(HandcarError):
    """A package that this needs is not installed; its text says how to install it."""


class StateConflict(HandcarError):
    """A row was not in the state that its transition starts from; nothing was changed."""
