"""A link tried as a volunteer would, against services that behave as they are said to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import standins
from standins import Standins

from handcar.errors import StoreFault, Unreachable
from handcar.stores.trial import Tried, try_link

CONTENT = os.urandom(50_000)


@pytest.fixture
def services() -> Iterator[Standins]:
    with standins.running(CONTENT) as server:
        yield server


@pytest.fixture
def chunk(tmp_path: Path) -> Path:
    path = tmp_path / "chunk"
    path.write_bytes(CONTENT)
    return path


def tried(services: Standins, url: str, chunk: Path) -> Tried:
    with services.client() as client:
        return try_link(client, url, chunk)


def test_a_large_file_of_drive_comes_without_its_page(services, chunk):
    found = tried(services, "https://drive.google.com/open?id=1large-file-x", chunk)
    assert found.url.endswith("/download?id=1large-file-x&export=download&confirm=t")
    assert found.resumes
    assert not found.by_page


def test_should_drive_ask_all_the_same_its_page_is_passed(services, chunk):
    found = tried(services, "https://drive.google.com/open?id=asks-always", chunk)
    assert found.by_page
    assert found.resumes


@pytest.mark.parametrize("status", [200, 403])
def test_drives_quota_is_not_now(services, chunk, status):
    services.quota_status = status
    with pytest.raises(Unreachable, match="Google Drive's quota of this file is used up for now"):
        tried(services, "https://drive.google.com/open?id=quota-reached", chunk)


def test_a_file_of_drive_that_is_not_shared_says_what_to_do(services, chunk):
    with pytest.raises(StoreFault, match="Sign in - Google Accounts") as fault:
        tried(services, "https://drive.google.com/open?id=private-file", chunk)
    assert "must be shared with everyone" in str(fault.value)


def test_a_file_of_dropbox_comes_without_its_page(services, chunk):
    found = tried(services, "https://www.dropbox.com/scl/fi/a/chunk?rlkey=key&dl=0", chunk)
    assert found.url == "https://dl.dropboxusercontent.com/scl/fi/a/chunk?rlkey=key&dl=1"
    assert found.resumes


def test_where_dropboxs_first_form_fails_the_other_is_taken(services, chunk):
    services.dropbox_moved = True
    found = tried(services, "https://www.dropbox.com/scl/fi/a/chunk?rlkey=key&dl=0", chunk)
    assert found.url == "https://www.dropbox.com/scl/fi/a/chunk?rlkey=key&dl=1"


def test_a_dropbox_link_without_its_key_shows_a_page(services, chunk):
    with pytest.raises(StoreFault, match="it shows a web page"):
        tried(services, "https://www.dropbox.com/scl/fi/a/chunk?rlkey=lost", chunk)


def test_dropboxs_traffic_limit_is_not_now(services, chunk):
    with pytest.raises(Unreachable, match="Dropbox's limit of traffic by links"):
        tried(services, "https://www.dropbox.com/scl/fi/banned/chunk?rlkey=key", chunk)


def test_a_paid_account_of_box_has_direct_links(services, chunk):
    found = tried(services, "https://app.box.com/s/paid123", chunk)
    assert found.url == "https://app.box.com/shared/static/paid123"
    assert found.resumes


def test_a_free_account_of_box_says_plainly_what_it_lacks(services, chunk):
    with pytest.raises(StoreFault, match="Box gives direct links to paid accounts only") as fault:
        tried(services, "https://app.box.com/s/free123", chunk)
    assert "HTTP 404" in str(fault.value)
    assert "add another --store" in str(fault.value)


def test_box_that_asks_to_wait_is_not_now(services, chunk):
    with pytest.raises(Unreachable, match="come back later"):
        tried(services, "https://app.box.com/s/busy123", chunk)


def test_a_server_without_ranges_is_told(services, chunk):
    services.ranges = False
    assert not tried(services, "https://app.box.com/s/paid123", chunk).resumes


def test_other_bytes_than_those_stored_are_a_fault(services, chunk):
    chunk.write_bytes(os.urandom(50_000))
    with pytest.raises(StoreFault, match="expected sha256:"):
        tried(services, "https://app.box.com/s/paid123", chunk)


def test_an_address_that_nobody_answers_is_unreachable(chunk):
    import httpx2

    from weed import free_ports

    with httpx2.Client() as client, pytest.raises(Unreachable):
        try_link(client, f"http://127.0.0.1:{free_ports(1)[0]}/x", chunk)
