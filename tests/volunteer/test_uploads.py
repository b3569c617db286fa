"""One update over a line that breaks: it goes on where it was, at once, and counts once."""

from pathlib import Path
from uuid import UUID, uuid4

import pytest

from handcar.errors import Broken, Problem, Unreachable
from handcar.protocol import problems
from handcar.protocol.messages import (
    DirectPart,
    DirectUpload,
    UpdateAnnouncement,
    UpdateStatus,
)
from handcar.volunteer import uploads
from handcar.volunteer.line import UsedUp

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


class Store(Server):
    """A server with a store: what happens to each part is written down beforehand."""

    PARTS = 3

    def __init__(self, *fate: bool | Exception) -> None:
        super().__init__()
        self.parts = list(fate)
        """For each part that is sent: it arrives and the answer too, or not, or this happens."""
        self.there: set[int] = set()
        self.sent: list[int] = []
        self.is_ending = False

    def announce(self, facts: UpdateAnnouncement) -> UpdateStatus:
        return self._status()

    def send_part(self, part: DirectPart, direct: DirectUpload, path: Path, on_sent) -> None:
        self.sent.append(part.number)
        fate = self.parts.pop(0) if self.parts else True
        if fate is not False:
            self.there.add(part.number)
        if fate is False or isinstance(fate, Exception):
            raise fate or Broken("reset")

    def complete(self, direct: DirectUpload) -> UpdateStatus:
        self._break()
        return self._status()

    def _status(self) -> UpdateStatus:
        if len(self.there) == self.PARTS:
            return UpdateStatus(id=UUID(int=0), state="received")
        missing = [n + 1 for n in range(self.PARTS) if n + 1 not in self.there]
        parts = tuple(DirectPart(number=number, url="http://store") for number in missing)
        direct = DirectUpload(complete_url=URL, part_bytes=400, parts=parts)
        return UpdateStatus(id=UUID(int=0), state="announced", upload_url=URL, direct=direct)


def test_parts_go_straight_to_the_store():
    server = Store()
    assert send(server).state == "received"
    assert (server.sent, server.patches) == ([1, 2, 3], [])


def test_parts_that_are_there_are_not_sent_again():
    server = Store(True, False, True, False)
    assert send(server).state == "received"
    assert server.sent == [1, 2, 2, 3, 3]


def test_a_part_whose_answer_was_lost_counts():
    server = Store(True, True, Broken("reset"))
    assert send(server).state == "received"
    assert server.sent == [1, 2, 3]


def test_where_a_store_can_not_be_reached_it_goes_through_the_server():
    server = Store(False, False)
    assert send(server).state == "received"
    assert (server.sent, server.patches) == ([1, 1], [0])


def test_what_a_volunteer_allows_a_day_holds_for_the_store_too():
    server = Store(UsedUp("up", 1e6, 60.0))
    with pytest.raises(UsedUp):
        send(server)
    assert server.patches == []


def test_a_program_that_ends_tries_no_other_way():
    server = Store(False)
    server.is_ending = True
    with pytest.raises(Unreachable):
        send(server)
    assert (server.sent, server.patches) == ([1], [])
