"""Links that give bytes, made of links that show a page; and pages that say "not now".

Pure functions: text in, text out. What each service does is cited beside it; the services'
stand-ins of the tests behave the same way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import unescape
from html.parser import HTMLParser
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

GOOGLE = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")
DROPBOX = ("www.dropbox.com", "dropbox.com", "dl.dropbox.com", "dl.dropboxusercontent.com")
DRIVE_FILE = re.compile(r"/file/(?:u/\d+/)?d/([\w-]{10,})")
DROPBOX_FILE = re.compile(r"/(?:s|scl/fi)/")
BOX_SHARED = re.compile(r"/s/(\w+)/?$")
HEAD_BYTES = 64 * 1024
"""How much of a page is looked at."""

NOT_NOW = (
    # Drive, a page with HTTP 200 or 403: wkentaro/gdown#406, #327, #354.
    ("too many users have viewed or downloaded this file", "Google Drive's quota of this file"),
    ("google drive - quota exceeded", "Google Drive's quota of this file"),
    ("downloadquotaexceeded", "Google Drive's quota of this file"),
    ("sending automated queries", "Google's limit of requests from this address"),
    # Dropbox, 429 (509 in the past): help.dropbox.com/share/banned-links,
    # yiplabcuhk/JEME#1, terrywang/vagrantboxes#5, RRUZ/vcl-styles-utils#58.
    ("generating too much traffic", "Dropbox's limit of traffic by links"),
    ("link is temporarily disabled", "Dropbox's limit of traffic by links"),
    ("hit their daily limit of traffic", "Dropbox's limit of traffic by links"),
    # S3 and what speaks it.
    ("<code>slowdown</code>", "the bucket's limit of requests"),
    ("<code>requestlimitexceeded</code>", "the bucket's limit of requests"),
)
TOO_MANY = frozenset({429, 503, 509})
EXPIRED = ("request has expired", "<code>expiredtoken</code>", "<code>requestexpired</code>")


# -- links -----------------------------------------------------------------------------------


def direct_link(url: str) -> str:
    """Return the form of a link that gives bytes; a link of no service known here as it is."""
    return forms(url)[0]


def forms(url: str) -> tuple[str, ...]:
    """Return every form of a link that may give bytes, the best first."""
    host = (urlsplit(url).hostname or "").lower()
    if host in GOOGLE:
        return _drive(url)
    if host in DROPBOX:
        return _dropbox(url)
    if host == "box.com" or host.endswith(".box.com"):
        return _box(url)
    if host.endswith(".sharepoint.com"):
        return (_with_query(url, {"download": "1"}),)
    return (url,)


def _drive(url: str) -> tuple[str, ...]:
    """Return the address that gives a file of Drive without asking, whatever its size.

    `confirm=t` answers the question whether one wants a file that is too large to be scanned
    for viruses (chentinghao/download_google_drive#8, ndrplz/google-drive-downloader#30).
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    found = DRIVE_FILE.search(parts.path)
    name = found[1] if found else query.get("id")
    if not name:
        return (url,)
    asked = {"id": name, "export": "download", "confirm": "t"}
    if "resourcekey" in query:  # links from before September 2021
        asked["resourcekey"] = query["resourcekey"]
    return (f"https://drive.usercontent.google.com/download?{urlencode(asked)}",)


def _dropbox(url: str) -> tuple[str, ...]:
    """Return both forms that Dropbox names; each keeps `rlkey`, which grants the access.

    help.dropbox.com/share/force-download, and Dropbox's own summary in
    dropboxforum.com/discussions/101001012/shared-link--scl-to-s/689070.
    """
    parts = urlsplit(url)
    if not DROPBOX_FILE.match(parts.path):
        return (url,)
    asked = {name: value for name, value in parse_qsl(parts.query) if name not in ("dl", "raw")}
    query = urlencode({**asked, "dl": "1"})
    hosts = ("dl.dropboxusercontent.com", "www.dropbox.com")
    return tuple(
        parts._replace(scheme="https", netloc=host, query=query, fragment="").geturl()
        for host in hosts
    )


def _box(url: str) -> tuple[str, ...]:
    """Return Box's direct link, which paid accounts have.

    developer.box.com: "shared_link.download_url is only returned for paid accounts";
    its form: support.box.com/hc/en-us/community/posts/1500000045661.
    """
    parts = urlsplit(url)
    found = BOX_SHARED.search(parts.path)
    if not found:
        return (url,)
    return (parts._replace(path=f"/shared/static/{found[1]}", query="", fragment="").geturl(),)


def _with_query(url: str, asked: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    query = {**dict(parse_qsl(parts.query)), **asked}
    return parts._replace(query=urlencode(query)).geturl()


def lasts_s(url: str) -> float | None:
    """Return for how many seconds from its making a signed link is good; none if for good."""
    query = dict(parse_qsl(urlsplit(url).query))
    given = query.get("X-Amz-Expires", "")
    return float(given) if given.isdigit() else None


# -- pages -----------------------------------------------------------------------------------


def is_page(head: bytes, headers: Mapping[str, str]) -> bool:
    """Say whether this is a web page, where a file was asked for."""
    kinds = [value for name, value in headers.items() if name.lower() == "content-type"]
    if any("text/html" in kind for kind in kinds):
        return True
    start = head.lstrip()[:64].lower()
    return start.startswith((b"<!doctype html", b"<html"))


def follow_page(head: bytes, url: str) -> str | None:
    """Return where the page "can't scan this file for viruses" leads; none for other pages.

    The page is a form (`id="download-form"`) with hidden fields, the file's id, `confirm`
    and a `uuid` among them; older ones are a link (`id="uc-download-link"`). It is followed
    to the host that it came from or to Google's, and nowhere else.
    """
    page = _Page()
    page.feed(head[:HEAD_BYTES].decode("utf-8", "replace"))
    if page.form is None and page.link is None:
        return None
    if page.form is not None:
        leads = _with_query(urljoin(url, page.form), page.fields)
    else:
        leads = urljoin(url, page.link or "")
    parts, origin = urlsplit(leads), urlsplit(url)
    google = (parts.hostname or "") in GOOGLE
    same = (parts.scheme, parts.netloc) == (origin.scheme, origin.netloc)
    return leads if same or (google and parts.scheme == "https") else None


class _Page(HTMLParser):
    """What is looked for in a page of Drive's."""

    def __init__(self) -> None:
        super().__init__()
        self.form: str | None = None
        self.link: str | None = None
        self.fields: dict[str, str] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the form, its fields, or the link."""
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and given.get("id") == "download-form":
            self.form, self._inside = given.get("action", ""), True
        elif tag == "input" and self._inside and given.get("name"):
            self.fields[given["name"]] = given.get("value", "")
        elif tag == "a" and given.get("id") == "uc-download-link":
            self.link = given.get("href")

    def handle_endtag(self, tag: str) -> None:
        """Note where the form ends."""
        if tag == "form":
            self._inside = False


def refusal(head: bytes, headers: Mapping[str, str], status: int, url: str) -> str | None:
    """Say why a service gives no bytes now but will later; none when the answer says no such thing.

    `head` is the beginning of the answer's body, `url` the address that was asked.
    """
    looks = status >= 400 or is_page(head, headers)
    shown = unescape(head[:HEAD_BYTES].decode("utf-8", "replace")).lower() if looks else ""
    text = " ".join(shown.split())
    for words, limit in NOT_NOW:
        if words in text:
            return f"{limit} is used up for now"
    if status in TOO_MANY:
        # Box with Retry-After: support.box.com/hc/en-us/community/posts/360049178893-Rate-Limiting
        return f"{urlsplit(url).hostname} asks to come back later (HTTP {status})"
    return None


def is_expired(head: bytes, status: int) -> bool:
    """Say whether an answer means that a signed link is no longer good, and a fresh one may be."""
    text = head[:HEAD_BYTES].decode("utf-8", "replace").lower()
    return status in (400, 401, 403) and any(words in text for words in EXPIRED)


def reason(head: bytes) -> str:
    """Return what a page or a problem document says, short enough for a person; or nothing."""
    text = head[:HEAD_BYTES].decode("utf-8", "replace")
    try:
        facts = json.loads(text)
    except ValueError:
        found = re.search(r"<(title|Message)[^>]*>(.*?)</\1>", text, re.I | re.S)
        return unescape(found[2]).strip()[:120] if found else ""
    said = facts.get("message") or facts.get("title") if isinstance(facts, dict) else None
    return str(said or "")[:120]


def advice(url: str, head: bytes = b"") -> str:
    """Say what an owner can do whose store gives no bytes by this link but a page, `head`."""
    host = (urlsplit(url).hostname or "").lower()
    if host.endswith("box.com"):
        return (
            "Box gives direct links to paid accounts only, and there only if the administrator "
            "allows them; a free account can keep chunks but volunteers can't fetch them: "
            "add another --store"
        )
    if host in GOOGLE:
        return (
            "the file must be shared with everyone who has the link; an organisation's "
            "administrator may forbid that. Drive also limits downloads: add another --store"
        )
    if host in DROPBOX or host.endswith(".dropboxusercontent.com"):
        return (
            "the link must be open to everyone; Dropbox limits what links may give a day: "
            "add another --store"
        )
    if host in ("1drv.ms", "onedrive.live.com"):
        return (
            "a personal OneDrive's links show a page and have no direct form: use another --store"
        )
    if host.endswith(".amazonaws.com") or b"<Code>" in head:
        return (
            "let everyone read the bucket's objects (s3:GetObject), give the address at which it "
            "is public as s3://BUCKET/PREFIX=https://..., or use --s3-links signed, or server"
        )
    return "everyone must be able to fetch it without logging in"
