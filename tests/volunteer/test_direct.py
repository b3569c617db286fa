"""An update straight to a real S3 server, as fast as a volunteer allows."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from handcar.errors import Forbidden, Problem, Unreachable
from handcar.protocol.messages import DirectPart, DirectUpload
from handcar.stores.signing import Signer, Wanted
from handcar.volunteer.budget import Allowance
from handcar.volunteer.line import Line, UsedUp
from handcar.volunteer.talk import Server
from weed import KEY, PRIVATE, SECRET, Weed

pytestmark = pytest.mark.xdist_group("weed")
DATA = os.urandom(200_000)
CHECKSUM = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
HEADERS = {"x-amz-checksum-sha256": CHECKSUM}


@pytest.fixture
def update(tmp_path: Path) -> Path:
    path = tmp_path / "update"
    path.write_bytes(DATA)
    return path


def server_on(line: Line, url: str = "http://127.0.0.1:9") -> Iterator[Server]:
    server = Server(url, line)
    yield server
    server.close()


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(Allowance(), tmp_path / "used.json")


@pytest.fixture
def server(line: Line) -> Iterator[Server]:
    yield from server_on(line)


def offered(weed: Weed, name: str) -> DirectUpload:
    signer = Signer(KEY, SECRET, endpoint=weed.endpoint)
    wanted = Wanted("PUT", headers=tuple(HEADERS.items()))
    url = signer.sign(PRIVATE, name, datetime.now(UTC), expires_s=60, wanted=wanted)
    return DirectUpload(
        complete_url="http://127.0.0.1:9/",
        part_bytes=len(DATA),
        headers=HEADERS,
        parts=(DirectPart(number=1, url=url),),
    )


def test_a_part_arrives_and_is_counted(server, line, weed, update):
    direct, told = offered(weed, "direct/one"), []
    server.send_part(direct.parts[0], direct, update, told.append)
    got = weed.client().get_object(Bucket=PRIVATE, Key="direct/one")["Body"].read()
    assert got == DATA
    assert line.up == len(DATA)
    assert told == sorted(told)
    assert told[-1] == len(DATA)


def test_a_volunteers_rate_holds(tmp_path, weed, update):
    line = Line(Allowance(up_bytes_per_s=200_000), tmp_path / "used.json")
    direct, began = offered(weed, "direct/slow"), time.monotonic()
    for server in server_on(line):
        server.send_part(direct.parts[0], direct, update, lambda count: None)
    assert time.monotonic() - began > 0.6


def test_a_volunteers_day_holds(tmp_path, weed, update):
    line = Line(Allowance(up_bytes_a_day=100_000), tmp_path / "used.json")
    direct = offered(weed, "direct/much")
    for server in server_on(line):
        with pytest.raises(UsedUp):
            server.send_part(direct.parts[0], direct, update, lambda count: None)
    assert "direct/much" not in weed.names(PRIVATE, "direct/")


def test_what_the_store_says_no_to_is_told_without_the_link(server, weed, update):
    direct = offered(weed, "direct/no")
    update.write_bytes(DATA[::-1])
    with pytest.raises(Problem, match="HTTP 400") as told:
        server.send_part(direct.parts[0], direct, update, lambda count: None)
    assert "Signature" not in str(told.value)


def test_a_server_may_not_send_updates_into_a_private_network(line, weed, update):
    direct = offered(weed, "direct/home")
    for server in server_on(line, "http://192.0.2.1"):
        with pytest.raises((Forbidden, Unreachable)):
            server.send_part(direct.parts[0], direct, update, lambda count: None)
    assert "direct/home" not in weed.names(PRIVATE, "direct/")
