"""One file with all that a server is, and back from it."""

from __future__ import annotations

import os
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zstandard

from handcar.errors import BadInput, Corrupt
from handcar.server import backup, blobs, naming
from handcar.server.catalog.models import TrainingModel
from handcar.server.home import Home
from handcar.server.rounds import series
from server_api import Api, later, update_frame, work


@pytest.fixture(autouse=True)
def _same_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restoring names the folder that it looks into in the environment."""
    monkeypatch.setenv("HANDCAR_SERVER_HOME", os.environ["HANDCAR_SERVER_HOME"])


@pytest.fixture
def trained(server: Api) -> TrainingModel:
    """A model with some versions, and an update that waits."""
    return server.trained()


def members(path: Path) -> list[str]:
    with (
        path.open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file) as unpacked,
        tarfile.open(mode="r|", fileobj=unpacked) as tar,
    ):
        return [entry.name for entry in tar]


def test_what_is_restored_has_all_rows_all_bytes_and_the_same_keys(server, trained, tmp_path):
    file = tmp_path / "all.tar.zst"
    report = backup.backup(server.home, file)
    named = naming.names()
    restored = Home(tmp_path / "elsewhere")
    assert backup.restore(file, restored.folder).blobs == report.blobs >= len(named.needed)
    with closing(sqlite3.connect(restored.database)) as database:
        assert database.execute("select count(*) from rounds_update").fetchone() == (4,)
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    for digest in named.needed:
        hexadecimal = digest.removeprefix("sha256:")
        assert (restored.blobs / hexadecimal[:2] / hexadecimal).is_file()
    for name in ("signing-key", "checking-key", "owner-token"):
        made, kept = restored.folder / name, server.home.folder / name
        assert kept.exists() == made.exists()
    assert (restored.folder / "owner-token").read_bytes() == server.home.owner_token.read_bytes()
    assert file.stat().st_mode & 0o077 == 0
    assert not list(server.home.folder.glob(".backup-*"))


def test_bytes_that_go_between_two_looks_are_no_hole(server, trained, tmp_path, monkeypatch):
    """A version comes after the first look, and its raw weights go before the second."""
    copy, looks = backup._copy_database, []

    def merge(seed: int) -> None:
        server.deliver(server.join(f"m{seed}"), update_frame(trained, seed=seed))
        work()
        work(later(3600 * seed))  # it waits no longer for others

    def meanwhile(path: Path, to: Path) -> None:
        looks.append(path)
        if len(looks) > 1:
            copy(path, to)
            return
        merge(20)
        gone = series.newest(trained.pk).master_digest
        copy(path, to)
        merge(21)
        merge(22)
        assert not blobs.present(str(gone))

    monkeypatch.setattr(backup, "_copy_database", meanwhile)
    file = tmp_path / "all.tar.zst"
    report = backup.backup(server.home, file)
    assert len(looks) == 2
    assert backup.restore(file, tmp_path / "elsewhere") == report


def test_bytes_that_are_lost_are_said(server, trained, tmp_path):
    blobs.remove(str(series.newest(trained.pk).master_digest))
    with pytest.raises(Corrupt, match="could not be restored"):
        backup.backup(server.home, tmp_path / "never.tar.zst")
    assert not (tmp_path / "never.tar.zst").exists()


def test_a_backup_takes_what_was_there_when_its_first_look_was(
    server, trained, tmp_path, monkeypatch
):
    copy = backup._copy_database

    def then_all_goes(path: Path, to: Path) -> None:
        copy(path, to)
        for file in server.home.blobs.glob("*/*"):
            file.unlink()

    monkeypatch.setattr(backup, "_copy_database", then_all_goes)
    file = tmp_path / "all.tar.zst"
    report = backup.backup(server.home, file)
    assert backup.restore(file, tmp_path / "elsewhere") == report


def test_nothing_is_overwritten(server, trained, tmp_path):
    file = tmp_path / "all.tar.zst"
    backup.backup(server.home, file)
    before = server.home.database.read_bytes()
    with pytest.raises(BadInput, match="not empty"):
        backup.restore(file, server.home.folder)
    assert server.home.database.read_bytes() == before


def test_a_file_cut_short_or_changed_restores_nothing(server, trained, tmp_path):
    file = tmp_path / "all.tar.zst"
    backup.backup(server.home, file)
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no backup", os.urandom(1000)):
        file.write_bytes(damaged)
        with pytest.raises(Corrupt):
            backup.restore(file, tmp_path / "elsewhere")
        assert not (tmp_path / "elsewhere").exists()
    assert not list(tmp_path.glob(".restoring-*"))


def packed(path: Path, entries: dict[str, bytes]) -> Path:
    with (
        path.open("wb") as file,
        zstandard.ZstdCompressor().stream_writer(file) as packer,
        tarfile.open(mode="w|", fileobj=packer) as tar,
    ):
        for name, data in entries.items():
            backup._add(tar, name, data)
    return path


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "blobs/../../x", "blobs/" + "0" * 64]
)
def test_what_does_not_belong_in_a_backup_is_refused(tmp_path, name):
    file = packed(tmp_path / "bad.tar.zst", {name: b"evil"})
    with pytest.raises(Corrupt):
        backup.restore(file, tmp_path / "elsewhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tar.zst"]


def test_damaged_bytes_are_not_backed_up(server, trained, tmp_path):
    digest = series.newest(trained.pk).master_digest
    blobs.path(str(digest)).write_bytes(b"lies")
    with pytest.raises(Corrupt, match="damaged"):
        backup.backup(server.home, tmp_path / "all.tar.zst")


def test_the_secrets_are_in_it(server: Any, trained, tmp_path):
    server.home.secret_key()
    file = tmp_path / "all.tar.zst"
    backup.backup(server.home, file)
    assert {"secret-key", "owner-token", "db.sqlite3", "handcar-backup.json"} <= set(members(file))
