"""The server's folder: everything that it keeps lies here.

db.sqlite3        the state of everything
secret-key        Django's, readable by this user alone, as are the next four
signing-key       assignments are signed with it
checking-key      updates are compared, and addresses hashed, with it
admin-password    of the user `admin` of the pages
owner-token       of the first owner
blobs/            bytes by digest
uploads/          bytes that are still coming
cache/            copies of bytes that lie in a bucket
blocks/           decoded chunks, with which rounds are computed again
static/           files of the pages, collected
moving            says that this server is being moved, or has been
lock              held by the server that runs on this folder
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from handcar import files

VARIABLE = "HANDCAR_SERVER_HOME"


@dataclass(frozen=True, slots=True)
class Home:
    """Where each thing lies."""

    folder: Path

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.folder / "db.sqlite3"

    @property
    def admin_password(self) -> Path:
        """The file with the password of the user `admin`."""
        return self.folder / "admin-password"

    @property
    def owner_token(self) -> Path:
        """The file with the first owner's token."""
        return self.folder / "owner-token"

    @property
    def blobs(self) -> Path:
        """Bytes by digest."""
        return self.folder / "blobs"

    @property
    def uploads(self) -> Path:
        """Bytes that are still coming."""
        return self.folder / "uploads"

    @property
    def blocks(self) -> Path:
        """Decoded chunks, with which rounds are computed again; may go at any time."""
        return self.folder / "blocks"

    @property
    def cache(self) -> Path:
        """Copies of bytes that lie in a bucket; may go at any time."""
        return self.folder / "cache"

    @property
    def static(self) -> Path:
        """Collected files of the pages."""
        return self.folder / "static"

    @property
    def lock(self) -> Path:
        """Held by the server that runs here."""
        return self.folder / "lock"

    def make_folders(self) -> None:
        """Make what is missing; only this user may look inside."""
        for folder in (self.folder, self.blobs, self.uploads, self.blocks, self.static):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)

    def secret_key(self) -> str:
        """Return Django's secret key, made at the first call."""
        path = self.folder / "secret-key"
        if not path.is_file():
            write_secret(path, secrets.token_urlsafe(48))
        return path.read_text().strip()

    def signing_key(self) -> bytes:
        """Return the 32 secret bytes that assignments are signed with, made at the first call."""
        return self._secret_bytes("signing-key")

    def checking_key(self) -> bytes:
        """Return the 32 secret bytes that updates are compared and addresses hashed with."""
        return self._secret_bytes("checking-key")

    def _secret_bytes(self, name: str) -> bytes:
        path = self.folder / name
        if not path.is_file():
            write_secret(path, secrets.token_hex(32))
        return bytes.fromhex(path.read_text().strip())


def write_secret(path: Path, text: str) -> None:
    """Write a text that only this user may read."""
    with files.whole(path) as file:
        os.chmod(file.name, 0o600)  # noqa: PTH101 - before the text is in it
        file.write(text.encode() + b"\n")


def from_environment() -> Home:
    """Return the home that HANDCAR_SERVER_HOME names, or the usual one."""
    return named(os.environ.get(VARIABLE))


def named(folder: str | None) -> Home:
    """Return the home in this folder, or the usual one."""
    if folder:
        return Home(Path(folder).expanduser().resolve())
    import platformdirs

    return Home(Path(platformdirs.user_data_dir("handcar")) / "server")
