"""Tables that were made by the first Handcar become today's, rows and all, on a live server.

The rule: a migration adds what may be null or has a default in the database, so that servers of
the version before go on; another fills it; a later version may require it. Nothing is renamed,
and what is no longer used is removed a version later.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection, migrations
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.models import NOT_PROVIDED
from django.utils import timezone

import postgresql as servers
from engines import use
from handcar.server.configuration import Configuration
from handcar.server.home import Home

APPS = ("accounts", "catalog", "rounds")
FIRST = [(app, "0001_initial") for app in APPS]
BEFORE_THE_RULE = {
    # No server of several processes ran before the version that has these.
    ("accounts", "0002_standing"),
    ("catalog", "0002_mirror"),
    ("catalog", "0003_standing"),
    ("catalog", "0004_decoded"),
    ("catalog", "0005_counters"),
    ("rounds", "0002_standing"),
    ("rounds", "0004_counters"),
}
DIGEST = "sha256:" + 64 * "0"


@pytest.fixture(params=["sqlite", "postgresql"])
def bare(request, tmp_path, django_db_blocker):
    """A database without tables."""
    home = Home(tmp_path / "server")
    home.make_folders()
    with servers.database() if request.param == "postgresql" else no_address() as url:
        if request.param == "postgresql" and url is None:
            pytest.skip("PostgreSQL does not answer: set HANDCAR_TEST_DATABASE to where it is")
        with django_db_blocker.unblock():
            use(Configuration(home, database=url))
            yield url
            use(Configuration(home))


class no_address:  # noqa: N801 - a context that yields nothing
    def __enter__(self):
        return None

    def __exit__(self, *_):
        return None


def fill(tables):
    """Put a model, two versions, and updates in some states into the first tables."""
    now = timezone.now()
    owner = tables.get_model("accounts", "Owner").objects.create(name="ann", token_hash="a")
    volunteer = tables.get_model("accounts", "Volunteer").objects.create(name="v", token_hash="b")
    dataset = tables.get_model("catalog", "Dataset").objects.create(name="d", owner=owner)
    model = tables.get_model("catalog", "TrainingModel").objects.create(
        id="digits",
        model_file="{}",
        model_file_digest=DIGEST,
        model_file_size=2,
        dataset=dataset,
        owner=owner,
        state="pending",
        weights=15,
        batch_size=10,
        round_steps=100,
        round_seconds=20.0,
    )
    versions = [
        tables.get_model("rounds", "Version").objects.create(
            model=model, number=number, weights_sha256=DIGEST, published_at=now
        )
        for number in (0, 1)
    ]
    for state, version in (("received", None), ("checked", None), ("merged", versions[1])):
        tables.get_model("rounds", "Update").objects.create(
            volunteer=volunteer,
            model=model,
            base_version=0,
            seed=1,
            steps=100,
            records=1000,
            seconds=20.0,
            size=10,
            sha256=DIGEST,
            state=state,
            version=version,
            announced_at=now,
            received_at=now,
        )
    tables.get_model("rounds", "Participation").objects.create(
        volunteer=volunteer, model=model, number=0, heard_at=now
    )


def test_the_first_tables_with_rows_become_todays(bare):
    executor = MigrationExecutor(connection)
    executor.migrate(FIRST)
    fill(MigrationExecutor(connection).loader.project_state(FIRST).apps)
    call_command("migrate", verbosity=0)
    update = apps.get_model("rounds", "Update")
    assert set(update.objects.values_list("state", flat=True)) == {"received", "checked", "merged"}
    assert update.objects.get(state="merged").version.number == 1
    assert apps.get_model("rounds", "Participation").objects.get().standing().accepted >= 0
    connection.check_constraints()


def test_a_new_column_may_be_left_out_by_servers_of_the_version_before():
    loader = MigrationLoader(None)
    for (app, name), migration in loader.disk_migrations.items():
        if app not in APPS or name == "0001_initial" or (app, name) in BEFORE_THE_RULE:
            continue
        for step in migration.operations:
            assert not isinstance(step, migrations.RenameField | migrations.RenameModel), name
            if isinstance(step, migrations.AddField):
                field = step.field
                has_default = getattr(field, "db_default", NOT_PROVIDED) is not NOT_PROVIDED
                assert field.null or has_default or field.many_to_many, (app, name, step.name)


def test_servers_that_start_at_once_make_the_tables_once(tmp_path):
    with servers.database() as url:
        if url is None:
            pytest.skip("PostgreSQL does not answer: set HANDCAR_TEST_DATABASE to where it is")
        started = [start(tmp_path / str(number), url) for number in range(3)]
        told = [json.loads(one.communicate(timeout=120)[0].splitlines()[-1]) for one in started]
    assert all("token" in one for one in told), told
    # Only the first to come makes an owner, and knows its token.
    assert len([one for one in told if one["token"]]) == 1


def start(home: Path, url: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "handcar.server.processes", "tables", str(home)]
    environment = servers.clean() | {"HANDCAR_DATABASE": url}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
