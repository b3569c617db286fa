"""The model file comes from whichever of its mirrors has it."""

from __future__ import annotations

import socket

import pytest
from test_state import assignment

from bad_servers import good, sending, serving
from handcar import files
from handcar.errors import Corrupt, Unreachable
from handcar.protocol.messages import Link
from handcar.volunteer.folder import Home
from handcar.volunteer.join import Options, Volunteer
from handcar.volunteer.screen import Plain

MODEL = b'{"name": "digits"}' * 4000


@pytest.fixture
def volunteer(tmp_path):
    with Volunteer(Options("http://127.0.0.1:9", Home(tmp_path), "ann"), Plain()) as made:
        yield made


@pytest.fixture
def dead() -> str:
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/model.json"


def link(*urls: str) -> Link:
    return assignment().configuration.model_copy(
        update={
            "url": urls[0],
            "mirrors": urls[1:],
            "sha256": files.digest(MODEL),
            "size": len(MODEL),
        }
    )


def test_a_mirror_gives_the_model_file_when_the_main_link_is_dead(volunteer, dead):
    with serving(MODEL, good) as mirror:
        assert volunteer._bytes_of(link(dead, mirror.url)) == MODEL


def test_a_mirror_that_lies_is_found_out_and_the_other_asked(volunteer):
    lie = sending(bytes(len(MODEL)))
    with serving(MODEL, lie) as liar, serving(MODEL, good) as mirror:
        assert volunteer._bytes_of(link(liar.url, mirror.url)) == MODEL


def test_without_a_mirror_that_has_it_the_reason_is_told(volunteer, dead):
    with pytest.raises(Unreachable):
        volunteer._bytes_of(link(dead))
    with serving(MODEL, sending(bytes(len(MODEL)))) as liar, pytest.raises(Corrupt):
        volunteer._bytes_of(link(liar.url))
