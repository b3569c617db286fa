"""One update over a line that breaks: it goes on where it was, at once, and counts once."""

from pathlib import Path
from uuid import UUID, uuid4

import pytest

from handcar.errors import Problem, Unreachable
from handcar.protocol import problems
from handcar.protocol.messages import UpdateAnnouncement, UpdateStatus
from handcar.volunteer import uploads
from handcar.volunteer.talk import Broken

SIZE = 1000
URL = "http://server/bytes"


def no(problem: problems.ProblemType) -> Problem:
    return Problem(type=problem.type, title=problem.title, status=problem.status)


class Server:
    """A server behind a line: what each request meets is written down beforehand."""

    def __init__(self, *fate: int | Exception) -> None:
        self.fate = list(fate)
        """For each PATCH: so many bytes arrive before it breaks, or this happens."""
        self.stored = 0
        self.patches: list[int] = []
        self.offers = 0
        self.breaks = 0

    def announce(self, facts: UpdateAnnouncement) -> UpdateStatus:
        self.offers += 1
        self._break()
        return UpdateStatus(id=facts.id, state="announced", offset=self.stored, upload_url=URL)

    def offset(self, url: str) -> int:
        self._break()
        return self.stored

    def upload(self, url: str, path: Path, offset: int, on_sent) -> UpdateStatus:
        self.patches.append(offset)
        fate = self.fate.pop(0) if self.fate else SIZE
        if isinstance(fate, Exception):
            raise fate
        self.stored = min(SIZE, offset + fate)
        on_sent(self.stored)
        if self.stored < SIZE:
            raise Broken("reset")
        return UpdateStatus(id=UUID(int=0), state="received")

    def _break(self) -> None:
        if self.breaks:
            self.breaks -= 1
            raise Broken("reset")


def send(server: Server, told: list[int] | None = None) -> UpdateStatus:
    facts = UpdateAnnouncement(
        id=uuid4(),
        model_id="m",
        base_version=0,
        seed=0,
        steps=1,
        records=1,
        seconds=1,
        size=SIZE,
        sha256="sha256:" + "0" * 64,
    )
    on_sent = (told if told is not None else []).append
    return uploads.send(server, facts, Path("unused"), on_sent)


def test_after_a_reset_it_goes_on_at_once_where_the_server_is():
    server, told = Server(300, 300, 300), []
    assert send(server, told).state == "received"
    assert server.patches == [0, 300, 600, 900]
    assert server.offers == 1
    assert told[-1] == SIZE


def test_a_reset_of_a_short_question_is_survived_too():
    server = Server(300)
    server.breaks = 1
    assert send(server).state == "received"


def test_without_progress_a_pause_is_due():
    server = Server(300, 0, 0, 0, 0)
    with pytest.raises(Unreachable):
        send(server)
    assert server.patches == [0, 300, 300]


def test_a_server_that_is_away_is_not_pestered():
    server = Server(Unreachable("no answer"))
    with pytest.raises(Unreachable):
        send(server)
    assert server.patches == [0]


def test_more_than_we_knew_had_arrived():
    server = Server(no(problems.WRONG_OFFSET))
    assert send(server).state == "received"


def test_a_server_without_room_is_asked_again_later():
    server = Server(no(problems.SERVER_FULL))
    with pytest.raises(Problem):
        send(server)


def test_a_final_no_ends_it():
    assert send(Server(no(problems.GONE))).state == "refused"
