"""Health, readiness, figures, and the names of requests."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection

from handcar import errors
from handcar.server import blobs, health, logs, metrics
from handcar.server.rounds.models import Update
from server_api import Api, announcement, newest, update_frame, work

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\bhandcar_[a-z_]+")
TOKEN = "a-token-for-prometheus"
ID = "request-of-a-test.1"


def page(server: Api, **headers: str) -> Any:
    return server.client.get("/metrics", headers=headers)


@pytest.fixture
def counting(server: Api) -> Api:
    """A server that counts, in the files of its own folder."""
    pytest.importorskip("prometheus_client")
    metrics.ours.cache_clear()
    yield server
    metrics.ours.cache_clear()


# -- health and readiness --------------------------------------------------------------------


def test_a_server_whose_parts_are_there_is_ready(server):
    assert server.ask("GET", "/ready").json() == {"status": "ready"}


def test_a_server_without_its_tables_is_not_ready_and_says_so(server):
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'rounds'")
    reply = server.ask("GET", "/ready")
    assert reply.status_code == 503
    assert reply.json()["type"] == "/problems/not-ready"
    assert "migrations" in reply.json()["errors"][0]


def test_a_server_whose_database_or_store_is_gone_says_all_that_is_wrong(server, monkeypatch):
    def fails(*_: Any) -> Any:
        raise errors.HandcarError("no answer from the bucket")

    def breaks(*_: Any) -> Any:
        from django.db import OperationalError

        raise OperationalError("connection refused")

    monkeypatch.setattr(blobs, "room_for", fails)
    monkeypatch.setattr(health, "_tables_faults", breaks)
    faults = server.ask("GET", "/ready").json()["errors"]
    assert [one.partition(":")[0] for one in faults] == [
        "the database does not answer",
        "the store does not answer",
    ]


def test_health_asks_the_database_one_thing(server, django_assert_num_queries):
    with django_assert_num_queries(1):
        assert server.ask("GET", "/health").status_code == 200


# -- figures ---------------------------------------------------------------------------------


def test_every_figure_of_the_dashboard_and_the_alerts_is_on_the_page(counting):
    model = counting.model()
    counting.deliver(counting.join(), update_frame(model))
    work()
    # An update that waits, one refused by a limit, and a loss: each figure has a line.
    counting.deliver(counting.join(), update_frame(model, seed=2))
    metrics.limited("joins")
    model.version_set.update(loss=0.5)
    beat = {"model_id": "digits", "version": 0, "step": 5, "records": 50}
    counting.ask("POST", "/heartbeat", beat, token=counting.join().token)
    from handcar.server.rounds import alerts

    alerts.raise_(model.pk, alerts.MERGE, "look", model.created_at)
    text = page(counting).content.decode()
    there = set(NAME.findall("\n".join(line for line in text.splitlines() if line[:1] != "#")))
    for file in ("grafana-handcar.json", "prometheus-alerts.yml"):
        named = set(NAME.findall((DEPLOY / file).read_text()))
        assert len(named) > 5
        assert named - there == set(), file


def test_every_figure_is_in_the_document_and_the_other_way_round(counting):
    told = set(NAME.findall((DEPLOY.parent / "docs/how-to/watch.md").read_text()))
    metrics.limited("joins")
    page(counting)
    lines = page(counting).content.decode().splitlines()
    there = {line.split()[2] for line in lines if line.startswith("# HELP")}
    assert told == there


def test_the_dashboard_is_json_with_a_query_in_each_panel():
    board = json.loads((DEPLOY / "grafana-handcar.json").read_text())
    assert all(target["expr"] for panel in board["panels"] for target in panel["targets"])
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len(places)


def value(text: str, start: str) -> float:
    lines = [line for line in text.splitlines() if line.startswith(start)]
    assert len(lines) == 1, lines
    return float(lines[0].rpartition(" ")[2])


def test_requests_are_counted_by_route_and_status(counting):
    for _ in range(3):
        counting.ask("GET", "/models/none")
    counting.client.get("/nowhere/at/all")
    text = page(counting).content.decode()
    start = 'handcar_requests_total{method="GET",route="api/v1/models/<name:model_id>",status="404"'
    assert value(text, start) == 3
    assert value(text, 'handcar_requests_total{method="GET",route="none",status="404"') == 1


def test_figures_of_the_state_are_those_of_the_tables(counting):
    model = counting.model()
    for number in range(2):
        counting.deliver(counting.join(), update_frame(model, seed=number))
    text = page(counting).content.decode()
    assert value(text, 'handcar_line_updates{for="check"}') == 2
    assert value(text, 'handcar_volunteers{model="digits"}') == 2
    assert value(text, 'handcar_version{model="digits"}') == 0
    assert value(text, 'handcar_updates_received_total{model="digits"}') == 2
    work()
    after = page(counting).content.decode()
    versions = newest(model).number
    assert value(after, 'handcar_version{model="digits"}') == versions > 0
    assert value(after, "handcar_merge_seconds_count") == versions
    assert value(after, "handcar_check_seconds_count") == 2


def test_what_other_processes_count_is_on_the_same_page(counting):
    program = (
        "import sys; from handcar.server import setup; setup.prepare(__import__('pathlib').Path("
        "sys.argv[1])); from handcar.server import metrics; metrics.heard(); metrics.heard()"
    )
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-c", program, str(counting.home.folder)], check=True, timeout=120
        )
    assert value(page(counting).content.decode(), "handcar_heartbeats_total") == 4


def test_only_this_machine_may_read_them_and_none_through_a_proxy(counting):
    assert page(counting).status_code == 200
    assert page(counting, **{"X-Forwarded-For": "127.0.0.1"}).status_code == 403
    counting.client.defaults["REMOTE_ADDR"] = "203.0.113.7"
    assert page(counting).status_code == 403


def test_with_a_token_only_who_has_it_may_read_them(counting, settings):
    settings.HANDCAR = replace(django_settings.HANDCAR, metrics_token=TOKEN)
    counting.client.defaults["REMOTE_ADDR"] = "203.0.113.7"
    assert page(counting, Authorization=f"Bearer {TOKEN}").status_code == 200
    for wrong in ({}, {"Authorization": "Bearer other"}, {"Authorization": TOKEN[:-1]}):
        assert page(counting, **wrong).status_code == 403


def test_without_prometheus_client_the_server_works_and_says_what_to_install(server, monkeypatch):
    metrics.ours.cache_clear()
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    try:
        assert server.ask("GET", "/health").status_code == 200
        reply = page(server)
        assert (reply.status_code, b"pip install" in reply.content) == (501, True)
    finally:
        metrics.ours.cache_clear()


# -- the names of requests -------------------------------------------------------------------


@pytest.mark.parametrize("given", [ID, "0123456789abcdef", "update-6f9619ff-8b86-d011-b42d"])
def test_a_request_id_that_is_well_formed_is_taken(server, given):
    assert server.ask("GET", "/health", headers={"X-Request-ID": given})["X-Request-ID"] == given


@pytest.mark.parametrize(
    "given", ["", "short", "a b c d e f g h", "x" * 65, '"}{":"evil":"', "-" * 9]
)
def test_any_other_is_replaced(server, given):
    made = server.ask("GET", "/health", headers={"X-Request-ID": given})["X-Request-ID"]
    assert made != given
    assert logs.WELL_FORMED.fullmatch(made)


def test_a_problem_names_its_request(server):
    for path in ("/models/none", "/nowhere"):
        reply = server.ask("GET", path, headers={"X-Request-ID": ID})
        assert reply.json()["request_id"] == reply["X-Request-ID"] == ID


def test_an_update_keeps_the_id_of_its_announcement_and_every_line_about_it_names_it(
    server, caplog
):
    model = server.model()
    ann = server.join()
    frame = update_frame(model)
    told = announcement(frame)
    with caplog.at_level(logging.INFO):
        status = server.ask("POST", "/updates", told, token=ann.token, headers={"X-Request-ID": ID})
        server.send(status.json()["upload_url"], frame, 0, ann.token)
        work()
    assert Update.objects.get().request_id == ID
    named = [r.getMessage() for r in caplog.records if getattr(r, "request_id", "") == ID]
    said = [line.rpartition(": ")[2] for line in named]
    assert said[0].startswith("announced by volunteer")
    assert [said[1], *said[-2:]] == ["received", "checked", "merged in version 1"]


def written(format: str, write: Any) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(logs.Named())
    handler.setFormatter({"json": logs.Json, "line": logs.Line}[format]())
    logger = logging.Logger("handcar.test")
    logger.addHandler(handler)
    write(logger)
    return stream.getvalue()


def test_a_line_of_json_holds_what_a_program_needs():
    def write(logger: logging.Logger) -> None:
        with logs.about(ID):
            try:
                raise ValueError('a "quoted"\nreason')
            except ValueError:
                logger.exception("it %s", "failed")

    [line] = written("json", write).splitlines()
    told = json.loads(line)
    assert told["request_id"] == ID
    assert (told["level"], told["logger"], told["message"]) == (
        "ERROR",
        "handcar.test",
        "it failed",
    )
    assert told["exception"].endswith('a "quoted"\nreason')
    assert told["at"].endswith("+00:00")


def test_a_line_for_people_names_the_request_where_there_is_one():
    def write(logger: logging.Logger) -> None:
        logger.warning("before")
        with logs.about(ID):
            logger.warning("within")

    before, within = written("line", write).splitlines()
    assert before.endswith("handcar.test: before")
    assert within.endswith(f"handcar.test: within [{ID}]")


@pytest.mark.parametrize("format", ["line", "json"])
def test_logging_is_set_up_as_the_settings_say(format):
    told = logs.settings("INFO", format)
    assert told["handlers"]["stderr"]["formatter"] == format
    assert told["root"]["level"] == "INFO"
    logging.config.DictConfigurator(told)
