"""Writers of one process take turns, and a turn ends however its transaction does."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connection, transaction

from handcar.server.accounts.models import Owner
from handcar.server.sqlite import base


@pytest.fixture(autouse=True)
def ends_free(engine: Any) -> Any:
    if engine.vendor != "sqlite":
        pytest.skip("this is about SQLite")
    yield
    assert not base._turn.locked()


def count() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM turns")
        return int(cursor.fetchone()[0])


@pytest.fixture
def table(server: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE turns (number integer PRIMARY KEY)")


def insert(number: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO turns VALUES (%s)", [number])


def test_many_threads_write_and_none_is_lost_or_told_that_it_is_locked(table):
    faults: list[Exception] = []

    def write(first: int) -> None:
        try:
            for number in range(first, first + 20):
                if number % 2:
                    with transaction.atomic():
                        insert(number)
                        time.sleep(0.001)
                else:
                    insert(number)
        except Exception as error:  # noqa: BLE001 - told below
            faults.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=write, args=(100 * one,)) for one in range(30)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not faults
    assert count() == 600


def test_one_who_waits_has_the_turn_as_soon_as_it_is_free(table):
    began, got = threading.Event(), []

    def write() -> None:
        began.set()
        with transaction.atomic():
            got.append(time.monotonic())
        connection.close()

    with transaction.atomic():
        insert(1)
        thread = threading.Thread(target=write)
        thread.start()
        began.wait()
        assert base._turn.locked()
        time.sleep(0.3)
        assert not got
    thread.join()
    assert got


@pytest.mark.parametrize("nested", [False, True])
def test_a_turn_ends_with_a_transaction_that_fails(table, nested):
    with pytest.raises(IntegrityError), transaction.atomic():
        insert(1)
        if nested:
            with transaction.atomic():
                insert(1)
        insert(1)
    assert not base._turn.locked()
    assert count() == 0


def test_a_turn_ends_with_its_connection(table):
    with pytest.raises(DatabaseError), transaction.atomic():
        connection.close()
        insert(1)
    assert not base._turn.locked()


def test_a_turn_that_never_comes_is_an_error_that_says_so(table, monkeypatch):
    monkeypatch.setattr(base, "WAIT_S", 0.05)
    with base._turn:
        with pytest.raises(OperationalError, match="other threads wrote"), transaction.atomic():
            pass
        with pytest.raises(OperationalError, match="other threads wrote"):
            insert(1)
        assert count() == 0, "who reads waits for nobody"
    with transaction.atomic():
        insert(1)
    assert count() == 1


def test_models_use_it(server):
    assert connection.settings_dict["ENGINE"] == "handcar.server.sqlite"
    assert connection.vendor == "sqlite"
    with transaction.atomic():
        assert base._turn.locked()
        Owner.objects.exists()
