"""Real Handcar processes on this machine, in a folder of their own.

The demo, the benchmarks and the system tests all set their scene with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from handcar.errors import HandcarError
from handcar.protocol.messages import ModelStatus

STOPPING_S = 15.0
POLL_S = 0.2

Process = subprocess.Popen[bytes]
Found = TypeVar("Found")


class Stage:
    """A folder with a server, volunteers and an owner, each a process of its own.

    Whatever still runs at the end of the `with` block is stopped, and nothing in the user's
    own folders is read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.environment = os.environ | {"HANDCAR_HOME": str(folder / "owner")}
        for name in ("HANDCAR_SERVER", "HANDCAR_TOKEN"):
            self.environment.pop(name, None)
        self._running: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in reversed(self._running):
            stop(process)

    def start(self, *arguments: str, log: str, **environment: str) -> Process:
        """Start `handcar ARGUMENTS`; its output goes to the file `log` in the folder."""
        with (self.folder / log).open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "handcar", *arguments],
                stdout=out,
                stderr=out,
                env=self.environment | environment,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def serve(self, *options: str, port: int = 0) -> Process:
        """Start the server and wait until it is ready; `url` is its address then."""
        log = self.folder / "serve.log"
        before = log.stat().st_size if log.exists() else 0
        home = str(self.folder / "server")
        process = self.start(
            *("serve", "--json", "--port", str(port), "--home", home), *options, log="serve.log"
        )

        def ready() -> dict[str, Any] | None:
            lines = log.read_bytes()[before:].splitlines(keepends=True)
            found = [line for line in lines if line.startswith(b'{"url"') and line.endswith(b"\n")]
            return json.loads(found[0]) if found else None

        self.url = self.until(ready, "the server is ready", process=process)["url"]
        return process

    def join(self, name: str, url: str | None = None, **environment: str) -> Process:
        """Start a volunteer; what it says and shows is told by `lines(name)`."""
        home = str(self.folder / name)
        return self.start(
            *("join", url or self.url, "--home", home, "--name", name, "--json"),
            log=f"{name}.log",
            **environment,
        )

    def call(self, *arguments: str) -> str:
        """Run `handcar ARGUMENTS` to its end; return what it printed. Raises HandcarError."""
        done = subprocess.run(
            [sys.executable, "-m", "handcar", *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            check=False,
        )
        if done.returncode:
            raise HandcarError(
                f"`handcar {' '.join(arguments)}` ended with {done.returncode}: "
                f"{done.stdout.strip()} {done.stderr.strip()}"
            )
        return done.stdout

    def status(self, model: str) -> ModelStatus | None:
        """Return how a model stands; none while the server does not answer."""
        try:
            answer = httpx2.get(f"{self.url}/api/v1/models/{model}", timeout=10)
        except httpx2.TransportError:
            return None
        if answer.status_code != 200:
            return None
        return ModelStatus.model_validate_json(answer.content)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Return the JSON lines that a volunteer has printed so far."""
        path = self.folder / f"{name}.log"
        if not path.is_file():
            return []
        lines = path.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def until(
        self,
        condition: Callable[[], Found | None],
        what: str,
        *,
        wait_s: float = 150.0,
        process: Process | None = None,
    ) -> Found:
        """Wait for a condition and return its value. Raises HandcarError, with all logs."""
        ends = time.monotonic() + wait_s
        while time.monotonic() < ends:
            if value := condition():
                return value
            if process is not None and process.poll() is not None:
                raise HandcarError(f"a process ended before {what}:\n{self.logs()}")
            time.sleep(POLL_S)
        raise HandcarError(f"waited {wait_s:.0f} s in vain until {what}:\n{self.logs()}")

    def logs(self) -> str:
        """Return the end of every process's output."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self.folder.glob("*.log"))
        )


def stop(process: Process) -> None:
    """Ask a process to end; end it if it does not."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOPPING_S)
    kill(process)


def kill(process: Process) -> None:
    """End a process and its children at once, as a power cut would."""
    with suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
