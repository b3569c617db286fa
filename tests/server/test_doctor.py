"""`handcar doctor`, as people start it."""

import json
import subprocess
import sys

import pytest

import brokers
import postgresql as servers
from weed import KEY, PRIVATE, PUBLIC, SECRET

pytestmark = pytest.mark.system


def doctor(home, **settings):
    """Return the exit code and what was found, by what it is about."""
    done = subprocess.run(
        [sys.executable, "-m", "handcar", "doctor", "--json", "--home", str(home)],
        capture_output=True,
        text=True,
        env=servers.clean() | {f"HANDCAR_{name}": value for name, value in settings.items()},
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["findings"]


def about(findings, what):
    return [one for one in findings if one["what"] == what]


def test_a_new_folder_can_be_served(tmp_path):
    code, findings = doctor(tmp_path / "new")
    assert code == 0
    assert "fault" not in {one["state"] for one in findings}
    assert [one["state"] for one in about(findings, "tables")] == ["warning"]
    for what in ("settings", "folder", "disk", "database", "store", "broker", "memory", "Keras"):
        assert about(findings, what), what
    assert not list((tmp_path / "new" / "blobs").rglob("*.*")), "its trial is taken back"


def test_what_is_wrong_is_said_with_what_to_do(tmp_path):
    (tmp_path / "handcar.toml").write_text('log = "ERROR"')
    (tmp_path / "handcar.toml").chmod(0o644)
    code, findings = doctor(
        tmp_path,
        DATABASE="postgresql://nobody:hidden@127.0.0.1:1/none",
        BROKER="redis://127.0.0.1:1/0",
        BROKR="x",
    )
    assert code == 1
    faults = {one["what"]: one for one in findings if one["state"] == "fault"}
    assert set(faults) == {"database", "broker"}
    assert "HANDCAR_DATABASE" in faults["database"]["do"]
    assert "refused" in faults["broker"]["found"]
    warned = {one["do"] for one in findings if one["state"] == "warning"}
    assert "did you mean HANDCAR_BROKER?" in warned
    assert f"chmod 600 {tmp_path}/handcar.toml" in warned
    assert "hidden" not in json.dumps(findings)


def test_settings_that_can_not_be_right_are_faults(tmp_path):
    code, findings = doctor(tmp_path, DATABASE="mysql://a@b/c", LOG="loud")
    assert code == 1
    assert [one["state"] for one in findings] == ["fault", "fault"]


def test_the_engines_for_many_machines_are_tried(tmp_path):
    with servers.database() as url:
        if url is None or not brokers.answers(brokers.RABBITMQ):
            pytest.skip("PostgreSQL or RabbitMQ does not answer")
        code, findings = doctor(tmp_path, DATABASE=url, BROKER=brokers.RABBITMQ)
        most = doctor(tmp_path, DATABASE=url, WEB_PROCESSES="64")
    assert code == 0
    texts = [one["found"] for one in about(findings, "database")]
    assert texts[0].startswith("PostgreSQL")
    assert about(findings, "clock")[0]["state"] == "ok"
    assert about(findings, "broker")[0]["found"].startswith("amqp answers")
    assert about(findings, "secrets")[0]["state"] == "warning"
    assert most[0] == 1
    assert "raise max_connections" in json.dumps(most[1])


@pytest.mark.xdist_group("weed")
def test_a_bucket_is_tried_and_one_that_everyone_can_read_is_a_fault(tmp_path, weed):
    told = {"STORE_ENDPOINT": weed.endpoint, "STORE_KEY": KEY, "STORE_SECRET": SECRET}
    code, findings = doctor(tmp_path, STORE=f"s3://{PRIVATE}/doctor", **told)
    (found,) = about(findings, "store")
    assert (code, found["state"]) == (0, "ok")
    assert "put, read and removed" in found["found"]
    assert not weed.names(PRIVATE, "doctor/"), "its trial is taken back"
    assert about(findings, "clock")[-1]["found"].endswith("the store's")

    code, findings = doctor(tmp_path, STORE=f"s3://{PUBLIC}/doctor", **told)
    assert code == 1
    assert "open only public/" in about(findings, "store")[-1]["do"]

    code, findings = doctor(tmp_path, STORE="s3://nowhere", **told | {"STORE_SECRET": "wrong"})
    assert code == 1
    assert "HANDCAR_STORE" in about(findings, "store")[0]["do"]
