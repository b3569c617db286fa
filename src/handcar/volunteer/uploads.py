"""Getting one update to the server over a line that breaks: announce, then append at an offset.

Nothing is sent twice beyond what was on the way when the line broke: the server is asked
how much it has. Where the server keeps its bytes in a store, they go straight there, in
parts. Nothing is counted twice: the update carries its own UUID.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from handcar.errors import Broken, Forbidden, HandcarError, Problem, Unreachable
from handcar.protocol import problems
from handcar.protocol.messages import DirectUpload, UpdateAnnouncement, UpdateStatus
from handcar.volunteer.talk import Server

log = logging.getLogger(__name__)

OnSent = Callable[[int], None]

FINAL_PROBLEMS = frozenset(
    problem.type
    for problem in (problems.GONE, problems.CONFLICT, problems.BAD_REQUEST, problems.TOO_LARGE)
)
FRUITLESS = 2
"""Attempts in a row that brought the server no byte, after which a pause is due."""

Answer = TypeVar("Answer")


def send(
    server: Server, announcement: UpdateAnnouncement, path: Path, on_sent: OnSent
) -> UpdateStatus:
    """Send one update; return its state when the server has it, or does not want it.

    `on_sent(count)` is told how many of its bytes have gone so far. Raises Unreachable,
    UsedUp, or Problem for a "no" that may be a "yes" later. Safe to repeat.
    """
    try:
        status = _ask(lambda: server.announce(announcement))
        if status.state == "announced" and status.direct is not None:
            status = _send_direct(server, status, path, on_sent)
        if status.state != "announced" or status.upload_url is None:
            return status
        return _send_bytes(server, status.upload_url, status.offset, path, on_sent)
    except Problem as problem:
        if problem.type not in FINAL_PROBLEMS:
            raise
        return _not_wanted(announcement.id, problem)


def _send_direct(server: Server, status: UpdateStatus, path: Path, on_sent: OnSent) -> UpdateStatus:
    """Send the missing parts straight to the server's store.

    Returns `announced` when that leads nowhere, so that the bytes go through the server: it
    keeps each one that came, where a store keeps whole parts only; and it may be reached from
    where a store can't be.
    """
    fruitless = 0
    while status.state == "announced" and status.direct is not None and fruitless < FRUITLESS:
        before = len(status.direct.parts)
        fault = _send_parts(server, status.direct, path, on_sent)
        if server.is_ending and fault is not None:
            raise fault
        status = _completed(server, status.direct)
        now = len(status.direct.parts) if status.direct else 0
        fruitless = 0 if now < before else fruitless + 1
    return status


def _send_parts(
    server: Server, direct: DirectUpload, path: Path, on_sent: OnSent
) -> HandcarError | None:
    """Send parts until all are sent, or something goes wrong: return what."""
    for part in direct.parts:
        on_sent((part.number - 1) * direct.part_bytes)
        try:
            server.send_part(part, direct, path, on_sent)
        except (Unreachable, Problem, Forbidden) as fault:
            log.info("%s Asking what came", fault)
            return fault
    return None


def _completed(server: Server, direct: DirectUpload) -> UpdateStatus:
    return _ask(lambda: server.complete(direct))


def _send_bytes(
    server: Server, upload_url: str, offset: int, path: Path, on_sent: OnSent
) -> UpdateStatus:
    """Send what is missing, and go on at once after a break while attempts bring bytes."""
    fruitless = 0
    while True:
        on_sent(offset)
        try:
            return server.upload(upload_url, path, offset, on_sent)
        except (Broken, Problem) as fault:
            # Of a "no", only this: a connection that we thought dead had brought more.
            if isinstance(fault, Problem) and fault.type != problems.WRONG_OFFSET.type:
                raise
            stored = _ask(lambda: server.offset(upload_url))
            fruitless = 0 if stored > offset else fruitless + 1
            if fruitless >= FRUITLESS:
                raise
            log.info("%s Going on at byte %d", fault, stored)
            offset = stored


def _ask(ask: Callable[[], Answer]) -> Answer:
    """Ask once more at once when the connection broke."""
    try:
        return ask()
    except Broken:
        return ask()


def _not_wanted(id: UUID, problem: Problem) -> UpdateStatus:
    return UpdateStatus(id=id, state="refused", reason=str(problem))
