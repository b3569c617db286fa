"""A living project: a server, volunteers that train, and one that keeps account of every answer.

Everything runs as it would for anyone: `handcar serve`, `handcar join`. The volunteers reach the
server by a proxy that can fail; the server's clock can be set, and its folder is a small disk of
its own where this machine lets us make one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import threading
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import numpy as np
import psutil

from engines import Engine
from faults_proxy import Proxy
from handcar import files
from handcar.errors import Corrupt, HandcarError, Problem
from handcar.modelfile.check import check
from handcar.modelfile.shapes import infer
from handcar.protocol.messages import Frame, Heartbeat, UpdateAnnouncement, UpdateStatus
from handcar.simulation.stage import Process, Stage, kill, stop
from handcar.volunteer.budget import Allowance
from handcar.volunteer.line import Line
from handcar.volunteer.talk import Server
from handcar.volunteer.weights import Keeper
from handcar.wire import frames
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Flat

MODEL = "living"
WORKERS = 2
DISK_MB = 420
"""Room for the server's reserve of 256 MB and for all that it keeps of a small model."""
STEPS, BATCH, RATE = 50, 32, np.float32(0.02)
"""How the scribe trains."""
PAUSE_S = 1.0
ACKNOWLEDGED = ("received", "checked", "merged")
CLOCK = """
import os
import time
from datetime import timedelta

_place, _time = os.environ.get("HANDCAR_FAULTS_CLOCK"), time.time


def _ahead():
    try:
        with open(_place) as file:
            return float(file.read() or 0)
    except (OSError, ValueError):
        return 0.0


if _place:
    import django.utils.timezone as _timezone

    _now = _timezone.now
    _timezone.now = lambda: _now() + timedelta(seconds=_ahead())


    class _Clock:  # no function: as an attribute of a class it must not become a method
        def __call__(self):
            return _time() + _ahead()


    time.time = _Clock()
"""
"""What Python runs first in the server's processes: their clock goes by a file."""


class Project(Stage):
    """The server, the volunteers, and what is known of them."""

    def __init__(self, folder: Path, engine: Engine, names: tuple[str, ...]) -> None:
        super().__init__(folder)
        self.engine = engine
        self.names = names
        self.port = _free_port()
        self.server: Process | None = None
        self.volunteers: dict[str, Process] = {}
        self.has_small_disk = False
        self.proxies: dict[str, Proxy] = {}
        """By what they stand before: `server`, `database`, `broker`, `store`."""
        self.acknowledged: set[str] = set()
        """The updates that the database says have arrived, and those that the scribe was told."""
        self._workers: list[Process] = []
        self._sent: set[str] = set()
        self._dropped: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.has_small_disk = self._make_disk(stack)
            self.proxies["server"] = stack.enter_context(
                Proxy(("127.0.0.1", self.port), records=True)
            )
            self._tell_server(stack)
            self._make_clock()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self._stack.close()

    def start(self, *arguments: str, log: str, **environment: str) -> Process:
        """Start a process; only the server's goes by the clock that can be set."""
        told = self._server_environment if arguments[0] in ("serve", "worker") else {}
        return super().start(*arguments, log=log, **(told | environment))

    # -- who runs ------------------------------------------------------------------------------

    def serve_here(self) -> None:
        """Start the server, or start it again, at the same address.

        On SQLite that is one `handcar serve`; on PostgreSQL a web server and two workers, as
        systemd would start them.
        """
        apart = bool(self.engine.database)
        self.server = self.serve(*(["--web-only"] if apart else []), port=self.port)
        self.mend()

    def mend(self) -> None:
        """Start workers that are missing, as systemd does."""
        if not self.engine.database:
            return
        alive = [one for one in self._workers if one.poll() is None]
        missing = range(WORKERS - len(alive))
        home = str(self.folder / "server")
        more = [self.start("worker", "--home", home, log="worker.log") for _ in missing]
        self._workers = [*alive, *more]

    def kill_server(self) -> None:
        """End all that belongs to the server at once, as a power cut would."""
        assert self.server is not None
        for process in (self.server, *self._workers):
            kill(process)

    def begin(self) -> None:
        """Start the server, publish the model, and let the volunteers train."""
        self.serve_here()
        path = _model_file(self.folder)
        self.call("publish", str(path), "--server", self.url)
        for name in self.names:
            self.join_here(name)
        self.until(lambda: self.version() >= 1, "version 1 is there", wait_s=180)
        self.until(lambda: all(map(self.holds, self.names)), "all follow", wait_s=180)

    def join_here(self, name: str) -> None:
        """Let a volunteer train, or train again, through the proxy."""
        backend = {"KERAS_BACKEND": "jax"} if importlib.util.find_spec("jax") else {}
        process = self.join(name, self.proxies["server"].url, **backend)
        with suppress(psutil.Error):
            psutil.Process(process.pid).nice(10)  # the server must not starve
        self.volunteers[name] = process

    def leave(self) -> None:
        """Let all volunteers end in their own way."""
        for process in self.volunteers.values():
            stop(process)

    def processes(self, name: str) -> list[psutil.Process]:
        """Return the server's processes of a name (`web`, `worker`, `evaluator`) that run."""
        assert self.server is not None
        found = []
        for root in (self.server, *self._workers):
            with suppress(psutil.Error):
                one = psutil.Process(root.pid)
                found += [one, *one.children(recursive=True)]
        return [one for one in found if name in _words(one)]

    # -- what is known -------------------------------------------------------------------------

    def version(self) -> int:
        """Return the newest version; -1 while the server does not say."""
        with suppress(HandcarError):
            status = self.status(MODEL)
            return -1 if status is None else status.version
        return -1

    def newest(self) -> int:
        """Return the newest version that is in the database."""
        return int(self.rows("select max(number) from rounds_version")[0][0])

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the server's database, past all proxies."""
        if self.engine.database:
            import psycopg

            address = urlunsplit(
                urlsplit(self.engine.server)._replace(path=f"/{self.engine.database}")
            )
            with psycopg.connect(address) as connection:
                return connection.execute(query).fetchall()
        address = f"file:{self.folder}/server/db.sqlite3?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=30)) as database:
            return database.execute(query).fetchall()

    def note_acknowledged(self) -> None:
        """Take note of what the database and the volunteers' journals say has arrived."""
        with suppress(sqlite3.Error):
            states = ", ".join(f"'{state}'" for state in ACKNOWLEDGED)
            found = self.rows(f"select id from rounds_update where state in ({states})")
            self.acknowledged |= {_hex(id) for (id,) in found}
        for name in self.names:
            for path in (self.folder / name).glob("servers/*/models/*/journal.jsonl"):
                sent, dropped = _journal(path)
                self._dropped |= dropped
                self._sent |= sent

    def all_acknowledged(self) -> set[str]:
        """Return every update that the server ever said it has.

        A journal also says "sent" of one that the server did not want, and drops it then.
        """
        return self.acknowledged | (self._sent - self._dropped)

    def held(self, name: str) -> list[Path]:
        """Return the files of the weights that a volunteer holds."""
        return list((self.folder / name).glob("servers/*/models/*/weights/[0-9]*-*"))

    def holds(self, name: str) -> int | None:
        """Return the newest version that a volunteer holds."""
        numbers = [int(path.name.partition("-")[0]) for path in self.held(name)]
        return max(numbers, default=None)

    # -- what can be set -----------------------------------------------------------------------

    def set_clock(self, ahead_s: float) -> None:
        """Let the server's clock be ahead by so much; less than nothing is behind."""
        path = self.folder / "clock.txt"
        part = path.with_suffix(".part")
        part.write_text(str(ahead_s))
        part.replace(path)

    def fill_disk(self, leave_bytes: int) -> Path:
        """Take up the server's disk but for so much; removing the file returned frees it."""
        path = self.folder / "server" / "ballast"
        with path.open("wb") as file:
            free = shutil.disk_usage(path.parent).free
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(1, free - leave_bytes))
        return path

    def _make_disk(self, stack: ExitStack) -> bool:
        place = self.folder / "server"
        place.mkdir(exist_ok=True)
        if os.geteuid() != 0 or not shutil.which("mount"):
            return False
        options = ["-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(place)]
        if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
            return False
        stack.callback(subprocess.run, ["umount", "-l", str(place)], check=False)
        return True

    def _make_clock(self) -> None:
        place = self.folder / "clock"
        place.mkdir()
        (place / "sitecustomize.py").write_text(CLOCK)
        before = os.environ.get("PYTHONPATH")
        self._server_environment |= {
            "PYTHONPATH": os.pathsep.join([str(place), *([before] if before else [])]),
            "HANDCAR_FAULTS_CLOCK": str(self.folder / "clock.txt"),
        }

    def _tell_server(self, stack: ExitStack) -> None:
        """Put a proxy before each part that the server talks to."""
        told = dict(self.engine.environment)
        names = {"HANDCAR_DATABASE": 5432, "HANDCAR_BROKER": 5672, "HANDCAR_STORE_ENDPOINT": 80}
        for (name, usual), part in zip(names.items(), ("database", "broker", "store"), strict=True):
            if name not in told:
                continue
            parts = urlsplit(told[name])
            target = (parts.hostname or "127.0.0.1", parts.port or usual)
            proxy = self.proxies[part] = stack.enter_context(Proxy(target))
            user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
            there = parts._replace(netloc=f"{user}127.0.0.1:{proxy.port}")
            told[name] = urlunsplit(there)
        self._server_environment: dict[str, str] = told


class Scribe:
    """A volunteer that writes down every answer.

    It trains a little, by hand, so that its updates count. It sends some of them twice at once, in
    pieces that come in the wrong order, or breaks off, when it is told to.
    """

    def __init__(self, project: Project, rng: random.Random) -> None:
        self._project = project
        self._rng = rng
        self._numbers = np.random.default_rng(rng.randrange(2**32))
        self._layout = infer(check(_model_text())).layout
        self._folder = project.folder / "scribe"
        self._folder.mkdir()
        self.keeper = Keeper(self._folder / "weights", self._layout)
        self._server: Server | None = None
        self._pending: list[UUID] = []
        data = np.load(project.folder / "clouds.npz")
        self._records = data["x"], data["y"]
        self.habits: list[str] = []
        """What it does wrong with its next updates, one after the other."""
        self.faults: list[str] = []
        """What must never have happened."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_S):
            try:
                self._round()
            except Corrupt as error:
                # A series that has gone on since the heartbeat is asked for again.
                if "expected weights" in str(error):
                    self.faults.append(f"the scribe could not follow: {error}")
            except (HandcarError, OSError):
                continue  # it is told no, or nothing: it comes again
            except Exception as error:
                self.faults.append(f"the scribe failed: {type(error).__name__}: {error}")

    def _round(self) -> None:
        server = self._connected()
        self._follow(server)
        change = self._made()
        version, _ = self.keeper.newest()
        data = frames.encode_difference(
            FrameFacts("update", MODEL, version), change, self._layout, k=3.0
        )
        path = self._folder / "update"
        path.write_bytes(data)
        told = UpdateAnnouncement(
            id=uuid4(),
            model_id=MODEL,
            base_version=version,
            seed=1,
            steps=STEPS,
            records=STEPS * BATCH,
            seconds=1.0,
            size=len(data),
            sha256=files.digest(data),
        )
        self._send(server, told, path)

    def _send(self, server: Server, told: UpdateAnnouncement, path: Path) -> None:
        """Send one update until the server has it or does not want it."""
        habit = self.habits.pop(0) if self.habits else ""
        while not self._stop.wait(0.1):
            try:
                status = server.announce(told)
                if status.upload_url is not None:
                    status = self._upload(server, status, path, habit)
            except Problem as error:
                if error.status in (404, 410, 429):
                    return
                continue
            except (HandcarError, OSError):
                continue  # again, as real ones do
            habit = ""
            if status.state in ACKNOWLEDGED:
                self._project.acknowledged.add(told.id.hex)
                self._pending = [*self._pending, told.id][-32:]
                return
            if status.state in ("refused", "expired"):
                return

    def _upload(self, server: Server, status: UpdateStatus, path: Path, habit: str) -> UpdateStatus:
        url = str(status.upload_url)
        data = path.read_bytes()
        if habit == "twice":
            other = threading.Thread(target=self._patch, args=(url, 0, data, len(data)))
            other.start()
            self._patch(url, 0, data, len(data))
            other.join(30)
        elif habit == "reordered":
            middle = len(data) // 2
            for start, end in ((middle, len(data)), (0, middle), (middle, len(data)), (0, middle)):
                self._patch(url, start, data[start:end], end - start)
        elif habit == "truncated":
            self._patch(url, 0, data[: len(data) // 3], len(data))
        return server.upload(url, path, server.offset(url), lambda sent: None)

    def _patch(self, url: str, start: int, piece: bytes, length: int) -> None:
        """Send bytes at an offset by hand, whatever comes of it."""
        parts = urlsplit(url)
        head = (
            f"PATCH {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Authorization: Bearer {self._token}\r\nUpload-Offset: {start}\r\n"
            f"Content-Type: application/offset+octet-stream\r\nContent-Length: {length}\r\n"
            "Connection: close\r\n\r\n"
        )
        with (
            suppress(OSError),
            socket.create_connection((str(parts.hostname), parts.port or 80), timeout=10) as one,
        ):
            one.sendall(head.encode() + piece)
            if len(piece) == length:
                while one.recv(65536):
                    pass

    # -- what it knows -------------------------------------------------------------------------

    def _connected(self) -> Server:
        if self._server is None:
            line = Line(Allowance(), self._folder / "line.json")
            server = Server(self._project.url, line)
            identity = server.join("scribe")
            server.use_token(identity.token)
            server.assignment(MODEL)
            self._server, self._token = server, identity.token
        return self._server

    def _follow(self, server: Server) -> None:
        reply = server.heartbeat(
            Heartbeat(
                model_id=MODEL,
                version=self.keeper.version if self.keeper.version is not None else -1,
                step=0,
                records=0,
                pending=tuple(self._pending),
            )
        )
        settled = {one.id for one in reply.updates if one.state not in ("received", "checked")}
        self._pending = [id for id in self._pending if id not in settled]
        held = self.keeper.version
        if held is None or reply.newest > held:
            weights = self.keeper.follow(server.series(MODEL), reply.newest, self._fetch)
            self.keeper.keep(reply.newest, weights)

    def _fetch(self, frame: Frame) -> bytes:
        import httpx2

        try:
            answer = httpx2.get(frame.url, timeout=30, follow_redirects=True)
        except httpx2.TransportError as error:
            raise OSError(str(error)) from error
        if answer.status_code != 200:
            raise OSError(f"a frame was answered with {answer.status_code}")
        return answer.content

    def _made(self) -> Flat:
        """Return what some steps of plain gradient descent change, of the length usual here."""
        weights = self.keeper.newest()[1]
        trained = weights.copy()
        x, y = self._records
        for _ in range(STEPS):
            some = self._numbers.integers(0, len(x), BATCH)
            _descend(self._layout.views(trained), x[some], y[some])
        change = trained - weights
        norms = self._project.rows(
            "select u.norm from rounds_update u join accounts_volunteer v on v.id = u.volunteer_id "
            "where u.norm > 0 and v.name <> 'scribe' order by u.examined_at desc limit 9"
        )
        if norms:
            usual = float(np.median([norm for (norm,) in norms])) * STEPS**0.5
            change *= np.float32(usual / max(float(np.linalg.norm(change)), 1e-12))
        for place in self._layout.statistic_slices:
            change[place] = weights[place]
        return change


def _descend(parts: list[Flat], x: Flat, y: Flat) -> None:
    """Make one step of gradient descent with the statistics as they are."""
    kernel, bias, gamma, beta, mean, variance, last, end = parts
    inside = x @ kernel + bias
    spread = gamma / np.sqrt(variance + 1e-3)
    normal = (np.maximum(inside, 0) - mean) * spread + beta
    logits = normal @ last + end
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    chances[np.arange(len(y)), y.astype(int)] -= 1
    wrong = (chances / len(y)).astype(np.float32)
    back = (wrong @ last.T) * spread * (inside > 0)
    last -= RATE * normal.T @ wrong
    end -= RATE * wrong.sum(axis=0)
    kernel -= RATE * x.T @ back
    bias -= RATE * back.sum(axis=0)


def _model_text() -> bytes:
    return json.dumps(
        {
            "name": MODEL,
            "dataset": {"name": "clouds", "file": "clouds.npz", "validation": 0.05},
            "input": {"shape": [20]},
            "layers": [
                {"layer": "Dense", "units": 32, "activation": "relu"},
                {"layer": "BatchNormalization"},
                {"layer": "Dense", "units": 10, "activation": "softmax"},
            ],
            "loss": "sparse_categorical_crossentropy",
            "optimizer": {"name": "Adam", "learning_rate": 0.0005},
            "batch_size": 32,
            "round": {"max_steps": 1000, "max_seconds": 2},
        }
    ).encode()


def _model_file(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10, 20))
    y = rng.integers(0, 10, 4000)
    x = centres[y] + rng.normal(scale=1.5, size=(4000, 20))
    np.savez(folder / "clouds.npz", x=x.astype(np.float32), y=y)
    path = folder / "living.json"
    path.write_bytes(_model_text())
    return path


def _journal(path: Path) -> tuple[set[str], set[str]]:
    """Return the updates that a journal says were sent, and those dropped."""
    sent: set[str] = set()
    dropped: set[str] = set()
    with suppress(OSError):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):
                fact = json.loads(line)
                if fact.get("event") == "sent":
                    sent.add(_hex(fact["id"]))
                elif fact.get("event") == "dropped":
                    dropped |= set(map(_hex, fact["ids"]))
    return sent, dropped


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def _hex(id: object) -> str:
    return UUID(str(id)).hex


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
