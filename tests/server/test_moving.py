"""Pausing a server, and moving one that stands still: what a kill at each moment leaves."""

from __future__ import annotations

import os
import time
import tomllib
from dataclasses import replace
from typing import Any

import pytest
from django.db import IntegrityError, connections
from django.utils import timezone

import postgresql
from handcar.errors import BadInput, Corrupt
from handcar.server import blobs, configuration, moving, naming, pausing, worker
from handcar.server.configuration import Configuration
from handcar.server.rounds import series
from handcar.server.rounds.models import Update, Version
from server_api import Api, update_frame
from weed import KEY, PRIVATE, SECRET, Weed

pytestmark = pytest.mark.xdist_group("weed")


# -- pausing ---------------------------------------------------------------------------------


def test_a_paused_server_says_when_to_come_back(server):
    with pausing.paused(server.home):
        answer = server.ask("GET", "/list")
        assert (answer.status_code, answer["Retry-After"]) == (503, "10")
        assert answer.json()["type"] == "/problems/moving"
    assert server.ask("GET", "/list").status_code == 200


def test_a_word_from_a_broker_moves_nothing_while_the_server_is_paused(server):
    model = server.model()
    server.deliver(server.join(), update_frame(model))
    with pausing.paused(server.home):
        assert not worker.work_once(timezone.now())
        assert not worker.look_back(timezone.now())
        assert Update.objects.get().examined_at is None
    assert worker.work_once(timezone.now())


def test_a_move_that_was_killed_does_not_pause_a_server_for_ever(server):
    path = pausing.marker(server.home)
    path.touch()
    assert pausing.is_paused()
    old = time.time() - 2 * pausing.FRESH_S
    os.utime(path, (old, old))
    assert not pausing.is_paused()


def test_a_server_that_has_moved_stays_paused_until_its_settings_are_others(server, settings):
    with pausing.paused(server.home):
        pausing.moved(server.home)
    path = pausing.marker(server.home)
    old = time.time() - 2 * pausing.FRESH_S
    os.utime(path, (old, old))
    assert pausing.is_paused()
    settings.HANDCAR = replace(settings.HANDCAR, database="postgresql://elsewhere/x")
    assert not pausing.is_paused()


# -- moving ----------------------------------------------------------------------------------


@pytest.fixture
def to(server: Api, weed: Weed, request: pytest.FixtureRequest, settings: Any) -> Any:
    """Where to move: an empty database and a bucket."""
    settings.HANDCAR = replace(settings.HANDCAR, home=server.home)
    with postgresql.database() as url:
        if url is None:
            pytest.skip("PostgreSQL does not answer: set HANDCAR_TEST_DATABASE to where it is")
        yield moving.target(
            server.home,
            {
                "database": url,
                "store": f"s3://{PRIVATE}/{request.node.name[:50].split('[')[0]}",
                "store_endpoint": weed.endpoint,
                "store_key": KEY,
                "store_secret": SECRET,
            },
        )


@pytest.fixture
def trained(server: Api) -> Any:
    """A model with versions, an update that waits, and one whose bytes are not here."""
    server.publish(validation=True, name="other", dataset={"name": "held-out"})
    return server.trained()


def quietly(text: str) -> None:
    """Say nothing."""


def test_all_rows_and_bytes_arrive_as_they_were(server, trained, to, settings):
    before = {model: list(model.objects.order_by("pk").values()) for model in (Update, Version)}
    report = moving.move(server.home, to, say=quietly)
    assert report.rows > 20
    with moving._target(to):
        for model, rows in before.items():
            there = list(model.objects.using(moving.TARGET).order_by("pk").values())
            assert [plain(row) for row in there] == [plain(row) for row in rows]
        made = Version.objects.using(moving.TARGET).create(
            model_id=trained.pk, number=99, weights_sha256="", published_at=trained.created_at
        )
        assert made.pk > max(row["id"] for row in before[Version]), "ids go on"
        names = naming.names(moving.TARGET)
    settings.HANDCAR = to
    for digest in names.needed:
        assert blobs.read(digest)
    kinds = [blobs.bucket().key(one, public=True) for one in names.public]
    there = {found.key for found in blobs.bucket().bucket.objects(blobs.bucket().prefix)}
    assert set(kinds) <= there
    assert not {blobs.bucket().key(one, public=True) for one in names.private} & there


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """Bytes as bytes, whatever the database gives them as."""
    return {k: bytes(v) if isinstance(v, memoryview) else v for k, v in row.items()}


def test_the_settings_file_names_the_new_engines_and_keeps_the_others(server, trained, to):
    (server.home.folder / "handcar.toml").write_text('behind_proxy = true\nlog = "INFO"\n')
    moving.move(server.home, to, say=quietly)
    path = server.home.folder / "handcar.toml"
    table = tomllib.loads(path.read_text())
    assert (table["behind_proxy"], table["log"]) == (True, "INFO")
    found = configuration.read({"HANDCAR_SERVER_HOME": str(server.home.folder)})
    assert (found.database, found.bucket, found.store_secret) == (to.database, to.bucket, SECRET)
    assert path.stat().st_mode & 0o077 == 0


def test_nothing_can_be_acknowledged_by_the_old_database_any_more(server, trained, to, settings):
    ada = server.join()
    moving.move(server.home, to, say=quietly)
    settings.HANDCAR = replace(settings.HANDCAR, database="postgresql://as/if")  # not paused
    server.client.raise_request_exception = False
    answer = server.ask("POST", "/volunteers", {"name": "x", "client_version": "1"})
    assert answer.status_code == 500
    with pytest.raises(IntegrityError, match="has moved"):
        Update.objects.update(steps=1)
    assert server.ask("GET", "/default", token=ada.token).status_code == 500


def test_a_failure_before_the_end_leaves_the_server_as_it_was(server, trained, to, monkeypatch):
    def fails(tables: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(moving, "_reset_sequences", fails)
        moving.move(server.home, to, say=quietly)
    assert not pausing.is_paused()
    assert not (server.home.folder / "handcar.toml").exists()
    server.deliver(server.join("after"), update_frame(trained, seed=30))
    moving.move(server.home, to, say=quietly)
    with moving._target(to):
        assert Update.objects.using(moving.TARGET).count() == 5


def test_a_move_killed_just_before_its_end_is_finished_by_another(server, trained, to, monkeypatch):
    def fails(home: Any, to: Configuration) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(moving, "_finish", fails)
        moving.move(server.home, to, say=quietly)
    assert not (server.home.folder / "handcar.toml").exists()
    moving.move(server.home, to, say=quietly)
    assert (server.home.folder / "handcar.toml").exists()
    assert pausing.is_paused()


def test_a_database_with_rows_is_not_moved_to(server, trained, to):
    moving.move(server.home, to, say=quietly)
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT name FROM sqlite_master WHERE name LIKE 'moved_%'")
        for (name,) in cursor.fetchall():
            cursor.execute(f'DROP TRIGGER "{name}"')
    with pytest.raises(BadInput, match="there are rows"):
        moving.move(server.home, to, say=quietly)


def test_bytes_that_the_server_lacks_are_told_before_anything_is_moved(server, trained, to):
    blobs.remove(str(series.newest(trained.pk).master_digest))
    with pytest.raises(Corrupt, match="nothing was moved"):
        moving.move(server.home, to, say=quietly)
    assert not pausing.is_paused()
    assert server.ask("GET", "/list").status_code == 200
