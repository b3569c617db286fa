"""Google Drive, Dropbox and Box as their documents and issue threads describe them.

One real HTTP server plays them all, by the name that it is called; `client()` sends every
request there, whatever its host. Sources:

Drive    the page "can't scan for viruses" with HTTP 200, its form and hidden fields:
         wkentaro/gdown `download.py`,
         chentinghao/download_google_drive#8; from about 25 to 100 MB on at random, always
         above: ndrplz/google-drive-downloader#35; `confirm=t` passes it: #30 there; the
         quota page, HTTP 200: wkentaro/gdown#406, intelpro/CBMNet#8; private files lead to
         the page where one logs in: wkentaro/gdown, "Cannot retrieve the public link"
Dropbox  preview page, dl=1 leads on to *.dl.dropboxusercontent.com:
         help.dropbox.com/share/force-download; rlkey is the key:
         dropboxforum.com/discussions/101001012/shared-link--scl-to-s/689070; HTTP 429 and
         its page: help.dropbox.com/share/banned-links, yiplabcuhk/JEME#1
Box      page at /s/, file at /shared/static/ of paid accounts:
         support.box.com/hc/en-us/community/posts/1500000045661, developer.box.com,
         "shared_link.download_url is only returned for paid accounts"; HTTP 429 with
         Retry-After: support.box.com/hc/en-us/community/posts/360049178893-Rate-Limiting
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import httpx2

from bad_servers import answering

DRIVE, CONTENT = "drive.google.com", "drive.usercontent.google.com"

SCAN_PAGE = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>
<meta http-equiv="content-type" content="text/html; charset=utf-8"/></head><body>
<div class="uc-main"><div id="uc-text"><p class="uc-warning-caption">Google Drive can't scan this
file for viruses.</p><p class="uc-warning-subcaption"><span class="uc-name-size">
<a href="/open?id={id}">chunk</a> (205M)</span> is too large for Google to scan for viruses. Would
you still like to download this file?</p><form id="download-form"
action="https://drive.usercontent.google.com/download" method="get"><input type="submit"
id="uc-download-link" class="goog-inline-block jfk-button jfk-button-action"
value="Download anyway"/><input type="hidden" name="id" value="{id}"><input type="hidden"
name="export" value="download"><input type="hidden" name="confirm" value="t"><input type="hidden"
name="uuid" value="fb91eef8-69aa-4e6e-97fa-d11608d197da"></form></div></div></body></html>"""

QUOTA_PAGE = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head>
<body><div class="uc-main"><p class="uc-error-caption">Sorry, you can&#39;t view or download this
file at this time.</p><p class="uc-error-subcaption">Too many users have viewed or downloaded
this file recently. Please try accessing the file again later. If the file you are trying to access
is particularly large or is shared with many people, it may take up to 24 hours to be able to view
or download the file.</p></div></body></html>"""

LOGIN_PAGE = """<!doctype html><html><head><title>Sign in - Google Accounts</title></head><body>
<form action="https://accounts.google.com/v3/signin/identifier"><input type="hidden"
name="continue" value="https://drive.google.com/"></form></body></html>"""

DROPBOX_PAGE = "<!DOCTYPE html><html><head><title>Dropbox</title></head><body></body></html>"
DROPBOX_BANNED = """<!DOCTYPE html><html><head><title>Dropbox - 429</title></head><body>
<h1>Error (429)</h1>This link is temporarily disabled. The person who shared it hit their daily
limit of traffic or downloads.</body></html>"""

BOX_PAGE = "<!DOCTYPE html><html><head><title>chunk | Powered by Box</title></head></html>"
BOX_NONE = """<!DOCTYPE html><html><head><title>Box | 404 Page Not Found</title></head><body>
This shared file or folder link has been removed or is unavailable to you.</body></html>"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Standins

    def do_GET(self) -> None:
        host = self.headers["Host"].partition(":")[0]
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        self.server.asked.append(f"{host}{self.path}")
        if host == DRIVE:
            return self._drive(parts.path, query)
        if host == CONTENT:
            return self._drive_content(query)
        if host.endswith(("dropbox.com", "dropboxusercontent.com")):
            return self._dropbox(host, parts.path, query)
        return self._box(host, parts.path)

    def _drive(self, path: str, query: dict[str, str]) -> None:
        if path == "/uc":
            to = f"https://{CONTENT}/download?id={query['id']}&export=download"
            return self._send(303, b"", {"Location": to})
        return self._page(200, DROPBOX_PAGE.replace("Dropbox", "chunk - Google Drive"))

    def _drive_content(self, query: dict[str, str]) -> None:
        name = query["id"]
        if name.startswith("private"):
            return self._page(200, LOGIN_PAGE)
        if name.startswith("quota"):
            return self._page(self.server.quota_status, QUOTA_PAGE)
        # Some day `confirm=t` alone may not do: then the form's own field is needed.
        confirmed = "uuid" in query if name.startswith("asks") else query.get("confirm") == "t"
        if not confirmed and not name.startswith("small"):
            return self._page(200, SCAN_PAGE.format(id=name))
        return self._file()

    def _dropbox(self, host: str, path: str, query: dict[str, str]) -> None:
        if "banned" in path:
            return self._page(429, DROPBOX_BANNED)
        if host.startswith("uc"):
            return self._file()
        locked = path.startswith("/scl/fi/") and query.get("rlkey") != "key"
        if locked or (host == "www.dropbox.com" and query.get("dl") != "1"):
            return self._page(200, DROPBOX_PAGE)
        if host == "dl.dropboxusercontent.com":
            return self._page(404, DROPBOX_PAGE) if self.server.dropbox_moved else self._file()
        to = "https://uc0123.dl.dropboxusercontent.com/cd/0/get/token/file?dl=1"
        return self._send(302, b"", {"Location": to})

    def _box(self, host: str, path: str) -> None:
        if host == "public.boxcloud.com":
            return self._file()
        found = re.fullmatch(r"/shared/static/(\w+)", path)
        if not found:
            return self._page(200, BOX_PAGE)
        if found[1].startswith("busy"):
            return self._send(429, b"", {"Retry-After": "7"})
        if found[1].startswith("free"):
            return self._page(404, BOX_NONE)
        to = "https://public.boxcloud.com/d/1/b1!token/download"
        return self._send(302, b"", {"Location": to})

    def _page(self, status: int, text: str) -> None:
        self._send(status, text.encode(), {"Content-Type": "text/html; charset=utf-8"})

    def _file(self) -> None:
        data = self.server.content
        kind = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not found or not self.server.ranges:
            return self._send(200, data, kind)
        start = int(found[1])
        kind["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self._send(206, data[start:], kind)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Standins(ThreadingHTTPServer):
    """All of them. `content` is what each holds in every file."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.asked: list[str] = []
        self.ranges = True
        self.quota_status = 200
        self.dropbox_moved = False

    def client(self) -> httpx2.Client:
        """A client like a volunteer's, for whom this is the whole internet."""
        return httpx2.Client(follow_redirects=True, transport=Rerouted(self.server_port))


class Rerouted(httpx2.BaseTransport):
    """Takes every request to one port of this machine, whatever host it names."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._inner = httpx2.HTTPTransport()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._port)
        there = httpx2.Request(
            request.method,
            url,
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions,
        )
        return self._inner.handle_request(there)

    def close(self) -> None:
        self._inner.close()


@contextmanager
def running(content: bytes) -> Iterator[Standins]:
    """Start them."""
    with Standins(content) as server, answering(server):
        yield server
