"""What the pages' HTML says, and what their parts cost when nothing has changed."""

from __future__ import annotations

import hashlib
import re
import tomllib
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from handcar.server import dashboard
from handcar.server.accounts.models import Volunteer
from handcar.server.catalog.models import TrainingModel
from handcar.server.dashboard import services
from handcar.server.dashboard.templatetags import people
from handcar.server.rounds.models import Participation, Version
from server_api import Api, newest, update_frame, work

FOLDER = Path(dashboard.__file__).parent
TESTS = Path(__file__).parent.parent
NOW = datetime.now(UTC)
MARKUP = '<img src=x onerror="alert(1)">'
WIDE = [
    {"layer": "Dense", "units": 300, "activation": "relu"},
    {"layer": "Dense", "units": 3, "activation": "softmax"},
]
PART = {"HX-Request": "true"}


def get(server: Api, path: str, **headers: str) -> Any:
    return server.client.get(path, headers=headers)


def text(server: Api, path: str, **headers: str) -> str:
    answer = get(server, path, **headers)
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


def add_versions(model: TrainingModel, newest: int) -> None:
    for number in range(1, newest + 1):
        Version.objects.create(
            model=model,
            number=number,
            weights_sha256="sha256:" + "0" * 64,
            delta_size=1_500,
            updates=3,
            records_merged=1_000 * number,
            loss=1 / number,
            accuracy=1 - 1 / (number + 1),
            published_at=NOW - timedelta(minutes=newest - number),
        )


def add_machine(model: TrainingModel, name: str, *, merged: int = 0, **facts: Any) -> None:
    id = uuid.uuid4()
    volunteer = Volunteer.objects.create(id=id, name=name, token_hash=id.hex)
    number = Participation.objects.count()
    facts = {"heard_at": NOW, "number": number, "updates_merged": merged, **facts}
    Participation.objects.create(volunteer=volunteer, model=model, **facts)


# -- pages -----------------------------------------------------------------------------------


def test_an_empty_server_says_how_to_publish(server):
    assert "handcar publish" in text(server, "/")


def test_the_first_page_lists_models_and_the_command_to_join(server):
    server.model()
    page = text(server, "/")
    assert 'href="/models/digits/"' in page
    assert "<code>handcar join http://testserver</code>" in page
    assert "waiting for volunteers" in page


def test_models_that_want_volunteers_come_first_then_newer_versions(server):
    for name, age in (("old", 3), ("new", 1), ("done", 0)):
        model = server.model(NOW - timedelta(days=age), name=name)
    TrainingModel.objects.filter(pk=model.pk).update(state="finished")
    names = re.findall(r'id="card-(\w+)"', text(server, "/"))
    assert names == ["new", "old", "done"]


def test_a_model_shows_who_trains_and_who_helped(server):
    model = server.model()
    add_machine(model, "few", merged=2)
    add_machine(model, "many", merged=40)
    add_machine(model, "away", merged=9, heard_at=NOW - timedelta(days=2))
    page = services.model_page(model.pk, NOW, versions_shown=15)
    assert {machine.name for machine in page.training} == {"few", "many"}
    assert [helper.name for helper in page.helpers] == ["many", "away", "few"]
    shown = text(server, "/models/digits/")
    assert "2 machines heard from" in shown
    assert "2 days ago" in shown


def test_what_coding_saves_is_told(server):
    model = server.model(layers=WIDE)
    assert "Saved by coding" not in text(server, "/models/digits/")
    frame = update_frame(model)
    server.deliver(server.join(), frame)
    work()
    delta = newest(model).delta_size
    plain = 4 * model.weights
    saved = services.model_page(model.pk, NOW, versions_shown=15).saved
    assert saved == services.Saved(
        2 * plain - len(frame) - delta, plain / len(frame), plain / delta
    )
    shown = text(server, "/models/digits/")
    assert f"an update is {plain / len(frame):.0f} times smaller than the weights" in shown


def test_long_lists_are_cut_and_say_so(server, monkeypatch):
    monkeypatch.setattr(services, "TRAINING_SHOWN", 2)
    monkeypatch.setattr(services, "HELPERS_SHOWN", 3)
    model = server.model()
    for number in range(5):
        add_machine(model, f"machine {number}", merged=number + 1)
    shown = text(server, "/models/digits/")
    assert "3 more than these" in shown
    assert "and 2 more. Thank you all" in shown


def test_only_the_newest_versions_are_shown_until_all_are_asked_for(server):
    add_versions(server.model(), 20)
    some, all_ = (text(server, f"/models/digits/{query}") for query in ("", "?versions=all"))
    assert "6 older not shown" in some
    assert some.count('<tr><th scope="row" class="number">') + 6 == all_.count(
        '<tr><th scope="row" class="number">'
    )
    assert 'hx-get="/models/digits/?versions=all"' in all_


def test_the_data_set_is_named_with_its_licence(server):
    model = server.model()
    assert "not stated" in text(server, "/models/digits/")
    model.dataset.licence = "CC0 1.0"
    model.dataset.save()
    assert "CC0 1.0" in text(server, "/models/digits/")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("preparing", "making its first version"),
        ("paused", "Its owner has paused it"),
        ("finished", "It is finished"),
        ("failed", "too many weights"),
    ],
)
def test_a_model_that_does_not_train_says_why(server, state, words):
    server.model()
    TrainingModel.objects.update(state=state, failure="too many weights")
    assert words in text(server, "/models/digits/")
    assert ("handcar join" in text(server, "/models/digits/")) == (state in ("preparing", "paused"))


def test_a_model_without_a_version_has_a_page(server):
    server.publish()
    assert "being prepared" in text(server, "/models/digits/")


def test_an_unknown_model_has_a_page_that_says_so(server):
    answer = get(server, "/models/nobody/")
    assert answer.status_code == 404
    assert "There is no such page" in answer.content.decode()


def test_pages_are_only_read(server):
    assert server.client.head("/").status_code == 200
    assert server.client.post("/").status_code == 405


# -- parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/models/digits/"])
def test_htmx_gets_the_part_that_changes_and_no_more(server, path):
    server.model()
    page, part = text(server, path), text(server, path, **PART)
    assert "<html" in page
    assert "<html" not in part
    assert part.strip() in page


@pytest.mark.parametrize("path", ["/", "/models/digits/"])
def test_an_unchanged_part_costs_no_body(server, path):
    server.model()
    first = get(server, path, **PART)
    assert "HX-Request" in first["Vary"]
    again = get(server, path, **PART, **{"If-None-Match": first["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_browser_that_takes_gzip_gets_it(server):
    server.model()
    assert get(server, "/", **{"Accept-Encoding": "gzip"})["Content-Encoding"] == "gzip"


# -- strangers' text -------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/models/digits/"])
def test_markup_in_a_name_or_a_description_is_shown_as_text(server, path):
    model = server.model(description=MARKUP)
    add_machine(model, MARKUP, merged=1)
    model.dataset.description = model.dataset.licence = MARKUP
    model.dataset.save()
    shown = text(server, path)
    assert "&lt;img" in shown
    assert "<img src=x" not in shown


def test_nothing_inline_that_the_content_policy_would_refuse(server):
    add_versions(server.model(), 3)
    for path in ("/", "/models/digits/"):
        answer = get(server, path)
        shown = answer.content.decode()
        assert "default-src 'self'" in answer["Content-Security-Policy"]
        assert not re.search(r"\sstyle=|<style|\son\w+=|javascript:", shown)
        scripts = re.findall(r"<script([^>]*)>", shown)
        assert all("src=" in script or "application/json" in script for script in scripts)


# -- curves ----------------------------------------------------------------------------------


def test_a_curve_has_a_point_for_each_version_that_was_measured(server):
    add_versions(server.model(), 3)
    loss, accuracy = services.model_page("digits", NOW, versions_shown=None).curves
    assert loss.as_columns() == {
        "versions": [1, 2, 3],
        "records": [1_000, 2_000, 3_000],
        "values": [1.0, 1 / 2, 1 / 3],
    }
    assert accuracy.name == "accuracy"


def test_a_model_that_was_never_measured_has_no_curve(server):
    server.model()
    assert services.model_page("digits", NOW, versions_shown=None).curves == ()


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1_000])
def test_thinning_keeps_the_first_the_last_and_the_order(count):
    rows = list(range(count))
    kept = services.thin(rows, 8)
    assert len(kept) == min(count, 8)
    assert kept == sorted(set(kept))
    assert kept[:1] + kept[-1:] == rows[:1] + rows[-1:]


# -- words -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filter", "value", "words"),
    [
        (people.size, None, "–"),
        (people.size, 0, "0 B"),
        (people.size, 999, "999 B"),
        (people.size, 61_400, "61.4 kB"),
        (people.size, 4_700_000, "4.7 MB"),
        (people.size, 3.6e12, "3.6 TB"),
        (people.count, 999_999, "999,999"),
        (people.count, 12_000_000, "12.0 million"),
        (people.count, 2_500_000_000, "2.5 billion"),
        (people.loss, None, "–"),
        (people.loss, 0.0, "0.00"),
        (people.loss, 2.3, "2.30"),
        (people.loss, 0.01234, "0.0123"),
        (people.loss, 123.4, "123"),
        (people.loss, 45_678.9, "45,679"),
        (people.percent, 0.968, "96.8%"),
        (people.speed, 12.34, "12.3"),
        (people.speed, 1234.5, "1,234"),
        (people.ago, -5, "just now"),
        (people.ago, 59, "just now"),
        (people.ago, 60, "1 minute ago"),
        (people.ago, 200, "3 minutes ago"),
        (people.ago, 7_200, "2 hours ago"),
        (people.ago, 86_400 * 30, "30 days ago"),
    ],
)
def test_numbers_as_people_read_them(filter, value, words):
    assert filter(value) == words


def test_a_time_is_for_people_and_for_programs():
    moment = datetime(2026, 5, 1, 12, 0, 5, tzinfo=UTC)
    assert people.when(moment, moment + timedelta(minutes=3)) == (
        '<time datetime="2026-05-01T12:00:05+00:00" title="2026-05-01 12:00 UTC">'
        "3 minutes ago</time>"
    )


# -- files of others -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder", [FOLDER / "static/vendor", TESTS / "browser/vendor", TESTS / "wire/vendor"]
)
def test_vendored_files_are_what_their_note_says(folder):
    entries = tomllib.loads((folder / "VENDORED.toml").read_text())["file"]
    noted = {entry["file"]: entry["sha256"] for entry in entries}
    here = [path for path in folder.iterdir() if path.name != "VENDORED.toml"]
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in here} == noted
    assert all(entry["licence"] and entry["version"] for entry in entries)


def test_every_file_that_a_template_names_is_there():
    for template in (FOLDER / "templates").rglob("*.html"):
        for name in re.findall(r"{% static '([^']+)' %}", template.read_text()):
            assert (FOLDER / "static" / name).is_file(), f"{template.name} names {name}"
