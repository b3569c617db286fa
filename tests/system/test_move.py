"""From SQLite and the disk to PostgreSQL and a bucket, with real volunteers attached throughout."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import httpx2
import psycopg
import pytest
from processes import MODEL, Place

import postgresql
from handcar.errors import HandcarError
from handcar.simulation.stage import stop
from weed import KEY, PRIVATE, SECRET, Weed

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("weed")]


@pytest.fixture
def database() -> Iterator[str]:
    """An empty database of PostgreSQL."""
    with postgresql.database() as url:
        if url is None:
            pytest.skip("PostgreSQL does not answer: set HANDCAR_TEST_DATABASE to where it is")
        yield url


def asked(database: str, query: str) -> list[tuple]:
    with psycopg.connect(database) as connection:
        return connection.execute(query).fetchall()


def acknowledged(rows: list[tuple]) -> dict[str, str]:
    return {str(id).replace("-", ""): state for id, state in rows}


ACKNOWLEDGED = (
    "select id, state from rounds_update where state in ('received', 'checked', 'merged')"
)


def test_a_server_moves_and_its_volunteers_hardly_notice(
    published: Place, database: str, weed: Weed
):
    here = published
    volunteers = [here.join(name) for name in ("ada", "emmy")]
    here.until_version(2)
    here.environment |= {"HANDCAR_STORE_KEY": KEY, "HANDCAR_STORE_SECRET": SECRET}
    store = f"s3://{PRIVATE}/moved"
    told = json.loads(
        here.call(
            *("move", "--database", database, "--store", store),
            *("--store-endpoint", weed.endpoint, "--home", str(here.folder / "server"), "--json"),
        )
    )
    assert told["rows"] > 10
    assert told["blobs"] > 3
    before = acknowledged(here.rows(ACKNOWLEDGED))
    answer = httpx2.get(f"{here.url}/api/v1/list")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    with (
        closing(sqlite3.connect(here.folder / "server" / "db.sqlite3")) as old,
        pytest.raises(sqlite3.IntegrityError, match="has moved"),
    ):
        old.execute("update rounds_update set steps = 1")
    assert before.keys() == acknowledged(asked(database, ACKNOWLEDGED)).keys()

    stop(here.server)
    for name in ("HANDCAR_STORE_KEY", "HANDCAR_STORE_SECRET"):
        del here.environment[name]  # they are in handcar.toml by now
    here.serve_here()
    moved = here.stands()
    here.until_version(moved.version + 3)
    assert all(volunteer.poll() is None for volunteer in volunteers), here.logs()
    assert before.keys() <= acknowledged(asked(database, ACKNOWLEDGED)).keys()
    ((merged, counted),) = asked(
        database,
        "select (select count(*) from rounds_update where state = 'merged'), "
        "(select sum(updates) from rounds_version where not undone)",
    )
    assert merged == counted
    reasons = [row.reason for row in here.stands().refusals]
    assert not [one for one in reasons if "bytes" in one or "read" in one or "fails" in one]
    blobs = sum(1 for _ in (here.folder / "server" / "blobs").glob("*/*"))
    here.until_new_version()
    assert blobs == sum(1 for _ in (here.folder / "server" / "blobs").glob("*/*"))
    keyframe = httpx2.get(f"{here.url}/api/v1/series/{MODEL}").json()["keyframe"]
    assert keyframe["url"].startswith(f"{weed.endpoint}/{PRIVATE}/moved/public/")
    assert httpx2.get(keyframe["url"]).status_code == 200


def test_a_move_that_can_not_be_changes_nothing(here: Place, database: str):
    nowhere = ("--store", "s3://nowhere", "--store-endpoint", "http://127.0.0.1:9")
    here.environment |= {"HANDCAR_STORE_KEY": KEY, "HANDCAR_STORE_SECRET": SECRET}
    home = ("--home", str(here.folder / "server"))
    with pytest.raises(HandcarError, match="nowhere"):
        here.call("move", "--database", database, *nowhere, *home)
    assert httpx2.get(f"{here.url}/api/v1/list").status_code == 200
    assert not (here.folder / "server" / "handcar.toml").exists()
