"""Getting one update to the server over a line that breaks: announce, then append at an offset.

Nothing is sent twice beyond what was on the way when the line broke: the server is asked
how much it has. Nothing is counted twice: the update carries its own UUID.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from handcar.errors import Problem
from handcar.protocol import problems
from handcar.protocol.messages import UpdateAnnouncement, UpdateStatus
from handcar.volunteer.talk import Server

FINAL_PROBLEMS = frozenset(
    problem.type
    for problem in (problems.GONE, problems.CONFLICT, problems.BAD_REQUEST, problems.TOO_LARGE)
)


def send(server: Server, announcement: UpdateAnnouncement, path: Path) -> UpdateStatus:
    """Send one update; return its state when the server has it, or does not want it.

    Raises Unreachable, or Problem for a "no" that may be a "yes" later. Safe to repeat.
    """
    try:
        status = server.announce(announcement)
        if status.state != "announced" or status.upload_url is None:
            return status
        return _send_bytes(server, status.upload_url, status.offset, path)
    except Problem as problem:
        if problem.type not in FINAL_PROBLEMS:
            raise
        return _not_wanted(announcement.id, problem)


def _send_bytes(server: Server, upload_url: str, offset: int, path: Path) -> UpdateStatus:
    try:
        return server.upload(upload_url, path, offset)
    except Problem as problem:
        if problem.type != problems.WRONG_OFFSET.type:
            raise
        # A connection that we thought dead had brought more than the server told.
        return server.upload(upload_url, path, server.offset(upload_url))


def _not_wanted(id: UUID, problem: Problem) -> UpdateStatus:
    return UpdateStatus(id=id, state="refused", reason=str(problem))
