"""Links that give bytes, of links that show a page."""

from __future__ import annotations

import pytest
import standins
from hypothesis import given
from hypothesis import strategies as st

from handcar.stores import links

ID = "1AbCdEfGhIjKlMnOp_q-R"
DRIVE = f"https://drive.usercontent.google.com/download?id={ID}&export=download&confirm=t"


@pytest.mark.parametrize(
    "shown",
    [
        f"https://drive.google.com/open?id={ID}",
        f"https://drive.google.com/file/d/{ID}/view?usp=sharing",
        f"https://drive.google.com/file/u/1/d/{ID}/view",
        f"https://drive.google.com/uc?export=download&id={ID}",
        f"https://docs.google.com/uc?id={ID}&export=download",
        DRIVE,
    ],
)
def test_every_form_of_a_drive_link_becomes_the_one_that_asks_nothing(shown):
    assert links.direct_link(shown) == DRIVE


def test_an_old_drive_link_keeps_its_resource_key():
    link = links.direct_link(f"https://drive.google.com/file/d/{ID}/view?resourcekey=0-abc")
    assert link == f"{DRIVE}&resourcekey=0-abc"


@pytest.mark.parametrize("query", ["dl=0", "dl=1", "raw=1", ""])
def test_a_dropbox_link_keeps_its_key_and_loses_its_page(query):
    shown = f"https://www.dropbox.com/scl/fi/abc/chunk?rlkey=key&{query}".rstrip("&")
    assert links.forms(shown) == (
        "https://dl.dropboxusercontent.com/scl/fi/abc/chunk?rlkey=key&dl=1",
        "https://www.dropbox.com/scl/fi/abc/chunk?rlkey=key&dl=1",
    )


def test_an_old_dropbox_link_too():
    link = links.direct_link("https://www.dropbox.com/s/a1b2c3/chunk?dl=0")
    assert link == "https://dl.dropboxusercontent.com/s/a1b2c3/chunk?dl=1"


@pytest.mark.parametrize("host", ["app.box.com", "mycompany.app.box.com", "mycompany.box.com"])
def test_a_box_link_becomes_its_static_form(host):
    assert (
        links.direct_link(f"https://{host}/s/w12llch7") == f"https://{host}/shared/static/w12llch7"
    )


def test_a_sharepoint_link_asks_for_the_download():
    link = links.direct_link("https://me.sharepoint.com/:u:/g/personal/me/Eabc?e=xyz")
    assert link == "https://me.sharepoint.com/:u:/g/personal/me/Eabc?e=xyz&download=1"


@pytest.mark.parametrize(
    "link",
    [
        "https://example.org/chunks/a?dl=0",
        "https://drive.google.com/drive/folders/1AbCdEf",
        "https://www.dropbox.com/home",
        "https://app.box.com/folder/0",
        "https://notbox.com/s/abc",
    ],
)
def test_other_links_stay_as_they_are(link):
    assert links.direct_link(link) == link


@given(st.text(max_size=80))
def test_nothing_that_is_given_as_a_link_breaks_it(text):
    for link in (text, f"https://drive.google.com/{text}", f"https://app.box.com/s/{text}"):
        try:
            links.forms(link)
        except ValueError:
            with pytest.raises(ValueError, match=".*"):
                links.urlsplit(link)


# -- pages -----------------------------------------------------------------------------------


PAGE = standins.SCAN_PAGE.format(id=ID).encode()
FROM = "https://drive.usercontent.google.com/download?id=x"


def test_the_page_that_asks_leads_on_with_all_its_fields():
    led = links.follow_page(PAGE, FROM)
    assert led == f"{DRIVE}&uuid=fb91eef8-69aa-4e6e-97fa-d11608d197da"


def test_an_older_page_leads_on_by_its_link():
    page = b'<a id="uc-download-link" href="/uc?export=download&amp;confirm=9iBg&amp;id=1">x</a>'
    led = links.follow_page(page, "https://drive.google.com/uc?id=1")
    assert led == "https://drive.google.com/uc?export=download&confirm=9iBg&id=1"


@pytest.mark.parametrize("page", [standins.LOGIN_PAGE, standins.QUOTA_PAGE, standins.BOX_PAGE, ""])
def test_other_pages_lead_nowhere(page):
    assert links.follow_page(page.encode(), FROM) is None


def test_a_page_leads_to_no_other_host():
    page = PAGE.replace(b"drive.usercontent.google.com", b"evil.example.org")
    assert links.follow_page(page, FROM) is None
    assert links.follow_page(page, "https://example.org/x") is None


def test_a_page_leads_to_no_unsafe_address_of_google():
    page = PAGE.replace(b"https://drive", b"http://drive")
    assert links.follow_page(page, FROM) is None


@given(st.binary(max_size=300))
def test_no_bytes_break_what_reads_pages(data):
    links.follow_page(b'<form id="download-form" action="' + data, FROM)
    links.refusal(data, {"Content-Type": "text/html"}, 200, FROM)
    links.reason(data)


HTML = {"content-type": "text/html; charset=utf-8"}


@pytest.mark.parametrize(
    ("page", "status", "limit"),
    [
        (standins.QUOTA_PAGE, 200, "Google Drive"),
        (standins.QUOTA_PAGE, 403, "Google Drive"),
        ('{"error": {"errors": [{"reason": "downloadQuotaExceeded"}]}}', 403, "Google Drive"),
        (standins.DROPBOX_BANNED, 429, "Dropbox"),
        ("This account's public links are generating too much traffic", 509, "Dropbox"),
        ("This account's links are generating too much traffic", 429, "Dropbox"),
        ("<Error><Code>SlowDown</Code></Error>", 503, "bucket"),
        ("", 429, "come back later"),
        ("", 503, "come back later"),
    ],
)
def test_a_service_that_says_not_now_is_understood(page, status, limit):
    assert limit in str(links.refusal(page.encode(), HTML, status, "https://example.org/x"))


@pytest.mark.parametrize(
    ("page", "status"),
    [(standins.SCAN_PAGE, 200), (standins.LOGIN_PAGE, 200), (standins.BOX_NONE, 404), ("", 403)],
)
def test_other_answers_are_no_not_now(page, status):
    assert links.refusal(page.encode(), HTML, status, "https://example.org/x") is None


def test_a_file_that_holds_the_words_is_no_refusal():
    text = b"too many users have viewed or downloaded this file"
    kind = {"Content-Type": "application/octet-stream"}
    assert links.refusal(text, kind, 200, "https://example.org/x") is None
