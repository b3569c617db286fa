"""Where a volunteer keeps things, and that only one program uses a place at a time.

<home>/
  lock                     held while `handcar join` runs
  line.json                bytes sent and fetched today, and how fast that was
  hosts.json               how fast each host has been
  blocks/                  chunks by digest, and decoded; shared by all models
  parts/                   downloads under way
  servers/<key>/
    token.json  signing-key.pub  task.json
    models/<id>/
      assignment.json  model.json  journal.jsonl  checkpoint
      residual             what coding dropped of the updates so far
      weights/<version>    raw float32, with their digest in the name
      updates/<uuid>       frames that are not merged yet
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from handcar import files
from handcar.errors import BadInput
from handcar.protocol.messages import Assignment, JoinReply


@dataclass(frozen=True)
class Home:
    """A volunteer's folder on this machine."""

    path: Path

    @property
    def blocks(self) -> Path:
        """Decoded chunks."""
        return self.path / "blocks"

    @property
    def line(self) -> Path:
        """What was used of the internet line today."""
        return self.path / "line.json"

    @property
    def hosts(self) -> Path:
        """How each host has served this machine."""
        return self.path / "hosts.json"

    @property
    def parts(self) -> Path:
        """Downloads under way, and files that wait to be decoded."""
        return self.path / "parts"

    def server(self, url: str) -> Path:
        """Return the folder of what belongs to one server."""
        host = urlsplit(url).netloc.replace(":", "-")
        key = hashlib.sha256(url.encode()).hexdigest()[:8]
        return self.path / "servers" / f"{host}-{key}"

    def identity(self, url: str) -> JoinReply | None:
        """Return who this machine is to a server, if it has joined before."""
        path = self.server(url) / "token.json"
        return JoinReply.model_validate_json(path.read_bytes()) if path.is_file() else None

    def keep_identity(self, url: str, identity: JoinReply) -> None:
        """Keep the token; nobody but this user may read it."""
        path = self.server(url) / "token.json"
        files.write(path, identity.model_dump_json().encode())
        path.chmod(0o600)

    def signing_key(self, url: str) -> Path:
        """Return where the key is kept that a server signs with."""
        return self.server(url) / "signing-key.pub"

    def task(self, url: str, model_id: str) -> Task:
        """Return the folder of one model."""
        return Task(self.server(url) / "models" / model_id)

    def last_task(self, url: str) -> str | None:
        """Return the model that was being trained when the program ended, if one was."""
        path = self.server(url) / "task.json"
        return str(json.loads(path.read_bytes())["model"]) if path.is_file() else None

    def keep_task(self, url: str, model_id: str | None) -> None:
        """Note which model is being trained; none when it is done with."""
        path = self.server(url) / "task.json"
        if model_id is None:
            path.unlink(missing_ok=True)
        else:
            files.write_json(path, {"model": model_id})


@dataclass(frozen=True)
class Task:
    """The folder of one model on one server."""

    path: Path

    @property
    def journal(self) -> Path:
        """The journal."""
        return self.path / "journal.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint of the round under way."""
        return self.path / "checkpoint"

    @property
    def weights(self) -> Path:
        """The newest version."""
        return self.path / "weights"

    @property
    def model_file(self) -> Path:
        """The model file, as the server gave it."""
        return self.path / "model.json"

    @property
    def residual(self) -> Path:
        """What coding dropped of the updates so far."""
        return self.path / "residual"

    def update(self, id: object) -> Path:
        """Return where the frame of an update lies."""
        return self.path / "updates" / str(id)

    def assignment(self) -> Assignment | None:
        """Return what the server last assigned here."""
        path = self.path / "assignment.json"
        if not path.is_file() or not self.model_file.is_file():
            return None
        return Assignment.model_validate_json(path.read_bytes())

    def keep_assignment(self, assignment: Assignment) -> None:
        """Keep what the server assigned, so that a restart need not wait for it."""
        files.write(self.path / "assignment.json", assignment.model_dump_json().encode())


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """Hold the folder for this program. Raises BadInput when another one holds it."""
    home.path.mkdir(parents=True, exist_ok=True)
    with (home.path / "lock").open("ab") as file:
        if not _lock(file):
            raise BadInput(
                f"another `handcar join` is using {home.path}: stop it first, or give this one "
                "a folder of its own with --home"
            )
        yield


def _lock(file: BinaryIO) -> bool:
    # The system lets go of the lock when the program ends, however it ends.
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def free_bytes(path: Path) -> int:
    """Return the bytes free on the disk that holds `path`."""
    import shutil

    while not path.exists():
        path = path.parent
    return shutil.disk_usage(os.fspath(path)).free
