"""What `handcar serve` does: set up, start the web server and the worker, look after them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess  # noqa: S404
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from handcar.errors import HandcarError
from handcar.server import configuration, lifeline, locks, supervise
from handcar.server import home as homes
from handcar.server.home import Home
from handcar.server.supervise import Child

PORT_WAIT_S = 3.0
READY_S = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    url: str
    home: Home
    owner_token: str

    def as_json(self) -> str:
        """Return one line for programs."""
        return json.dumps(
            {"url": self.url, "home": str(self.home.folder), "owner_token": self.owner_token}
        )

    def as_text(self) -> str:
        """Return what a person should know first."""
        return "\n".join(
            (
                f"Handcar serves at {self.url}",
                f"  pages      {self.url}/  (user admin, password in "
                f"{self._place(self.home.admin_password)})",
                f"  publish    handcar publish MODEL.json --server {self.url}",
                f"  join       handcar join --server {self.url}",
                f"  token      the owner's is in {self._place(self.home.owner_token)}",
                "Ctrl-C stops it; nothing is lost.",
            )
        )

    @staticmethod
    def _place(secret: Path) -> str:
        here = secret.is_file()
        return str(secret) if here else f"{secret.name} of the server that was started first"


def serve(
    folder: Path,
    host: str,
    port: int,
    *,
    ready: Callable[[Running], None],
    with_worker: bool = True,
) -> None:
    """Run a server on this folder until SIGINT or SIGTERM; `ready` is called once it answers."""
    home = Home(folder.expanduser().resolve())
    home.make_folders()
    try:
        with locks.alone(home.lock):
            _serve(home, host, port, ready, with_worker=with_worker)
    except locks.Taken:
        raise HandcarError(
            f"another server already runs on {home.folder}: stop it, or give another --home"
        ) from None


def _serve(
    home: Home, host: str, port: int, ready: Callable[[Running], None], *, with_worker: bool
) -> None:
    port = free_port(host, port)
    token = _make_ready(home)
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    folder = str(home.folder)
    children = [Child("web", (folder, host, str(port)))]
    if with_worker:
        children.append(Child("worker", (folder,)))
    try:
        for child in children:
            child.start()
        if _wait_until_it_answers(host, port, children[0], stop):
            ready(Running(address(host, port), home, token))
            supervise.run(children, stop)
    finally:
        supervise.end(children)


def _make_ready(home: Home) -> str:
    """Bring tables, pages and accounts up to date; return the first owner's token.

    In a process of its own: Django would stay in this one's memory for as long as it runs.
    """
    configuration.read(os.environ | {homes.VARIABLE: str(home.folder)})
    command = [sys.executable, "-m", "handcar.server.processes", "tables", str(home.folder)]
    done = subprocess.run(  # noqa: S603 - our own program
        command, env=lifeline.environment(), stdout=subprocess.PIPE, check=False
    )
    lines = done.stdout.splitlines()
    told = json.loads(lines[-1]) if done.returncode == 0 and lines else {}
    if "token" not in told:
        raise HandcarError(told.get("error", "the tables could not be made; see above"))
    return str(told["token"])


def address(host: str, port: int) -> str:
    """Return the address to give to others on this machine."""
    name = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def free_port(host: str, port: int) -> int:
    """Return the port if it is free, or a free one for 0. Raises HandcarError.

    Waits a moment: the children of a server that was just killed need one to end.
    """
    until = time.monotonic() + PORT_WAIT_S
    while True:
        try:
            return _bind(host, port)
        except OSError as error:
            if time.monotonic() > until:
                raise HandcarError(
                    f"can't listen on {host}:{port} ({error.strerror or error}): "
                    "stop what listens there, or give another --port; --port 0 finds a free one"
                ) from error
        time.sleep(0.2)


def _bind(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(host: str, port: int, web: Child, stop: threading.Event) -> bool:
    until = time.monotonic() + READY_S
    while not stop.wait(0.1):
        if _answers(host, port):
            return True
        if web.process is None or web.process.poll() is not None:
            raise HandcarError("the web server ended at once; its messages above say why")
        if time.monotonic() > until:
            raise HandcarError(f"the web server did not answer within {READY_S:g} s")
    return False


def _answers(host: str, port: int) -> bool:
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    connection = http.client.HTTPConnection(name, port, timeout=5.0)
    try:
        connection.request("GET", "/api/v1/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
