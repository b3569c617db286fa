"""Which key a server signs with: the first one seen is kept, and another one is refused."""

from __future__ import annotations

from pathlib import Path

from handcar import files
from handcar.errors import Untrusted
from handcar.protocol.messages import Assignment
from handcar.protocol.signature import is_signed


def expect_signed(assignment: Assignment, path: Path, server: str) -> None:
    """Check an assignment against the key kept at `path`, or keep its key if none is.

    Raises Untrusted for a wrong signature and for one of another key, saying what to do. A
    server that never signed need not.
    """
    known = path.read_text().strip() if path.is_file() else None
    given = assignment.signature.public_key if assignment.signature else None
    if known is None and given is None:
        return
    if known is not None and given != known:
        what = "with another key than before" if given else "no more, as it did before"
        raise Untrusted(
            f"{server} signs what it assigns {what}: someone may stand between you and it, or it "
            f"was set up anew. If whoever runs it says so, delete {path} and start again"
        )
    if given is None or not is_signed(assignment):
        raise Untrusted(f"{server} assigned data under a wrong signature: nothing of it is used")
    if known is None:
        files.write(path, f"{given}\n".encode())
