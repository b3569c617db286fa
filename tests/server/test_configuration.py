import re
from pathlib import Path

import pytest

from handcar.server import configuration
from handcar.server.configuration import BadConfiguration, Configuration

ROOT = Path(__file__).parent.parent.parent
KEY = "0123456789abcdef" * 4


def read(folder: Path, file: str = "", **environment: str) -> Configuration:
    if file:
        (folder / "handcar.toml").write_text(file)
    given = {f"HANDCAR_{name}": value for name, value in environment.items()}
    return configuration.read({"HANDCAR_SERVER_HOME": str(folder), "PATH": "/bin", **given})


def refusal(folder: Path, file: str = "", **environment: str) -> str:
    with pytest.raises(BadConfiguration) as caught:
        read(folder, file, **environment)
    return str(caught.value)


def test_without_any_setting_everything_is_in_the_folder(tmp_path):
    found = read(tmp_path)
    assert (found.home.folder, found.database, found.store, found.broker) == (
        tmp_path,
        None,
        None,
        None,
    )
    assert found.is_embedded
    assert configuration.databases(found)["default"]["NAME"] == tmp_path / "db.sqlite3"


def test_values_come_from_the_file_and_the_environment_wins(tmp_path):
    file = 'broker = "redis://127.0.0.1/9"\nweb_threads = 7\nbehind_proxy = true\nlog = "info"\n'
    found = read(tmp_path, file + 'allowed_hosts = ["a.org", "b.org"]', LOG="error", WEB_THREADS="")
    assert found.broker == "redis://127.0.0.1/9"
    assert (found.web_threads, found.behind_proxy, found.log) == (7, True, "ERROR")
    assert found.allowed_hosts == ("a.org", "b.org")


def test_another_file_can_be_named(tmp_path):
    (tmp_path / "other.toml").write_text('log = "ERROR"')
    assert read(tmp_path, CONFIG=str(tmp_path / "other.toml")).log == "ERROR"
    assert "expected a file" in refusal(tmp_path, CONFIG=str(tmp_path / "none.toml"))


def test_the_address_of_postgresql_becomes_djangos_settings(tmp_path):
    url = "postgresql://ann:p%40ss@db.example.org:5433/handcar?sslmode=require"
    one = configuration.databases(read(tmp_path, DATABASE=url))["default"]
    assert (one["NAME"], one["USER"], one["PASSWORD"]) == ("handcar", "ann", "p@ss")
    assert (one["HOST"], one["PORT"]) == ("db.example.org", "5433")
    assert one["OPTIONS"]["sslmode"] == "require"
    assert one["CONN_HEALTH_CHECKS"]


def test_a_bucket_has_a_name_and_a_prefix(tmp_path):
    assert read(tmp_path, STORE="s3://carts/one/two/").bucket == ("carts", "one/two")
    assert read(tmp_path, STORE="s3://carts").bucket == ("carts", "")
    assert read(tmp_path).bucket is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DATABASE", "mysql://ann:hidden@db/handcar", "postgresql://user:password@host:port/name"),
        ("DATABASE", "postgresql://ann:hidden@db:port/handcar", "no number from 1 to 65535"),
        ("DATABASE", "postgresql://ann:hidden@db", "no name of a database"),
        ("DATABASE", "postgresql://ann:hidden@db/x?pool=1", "only host, sslmode"),
        ("BROKER", "kafka://ann:hidden@mq", "amqp://user:password@host:port/ or redis://"),
        ("BROKER", "amqp://", "redis://"),
        ("STORE", "/srv/blobs", "s3://bucket/prefix"),
        ("STORE_ENDPOINT", "s3.example.org", "https://s3.example.org"),
        ("SECRET_KEY", "hidden", "at least 32 letters, got 6"),
        ("SIGNING_KEY", "hidden", "64 hexadecimal digits, got 6 letters"),
        ("LOG", "loud", "DEBUG or INFO or WARNING or ERROR or CRITICAL, got 'loud'"),
        ("LOG_FORMAT", "xml", "line or json"),
        ("DEBUG", "perhaps", "1 or 0"),
        ("WEB_PROCESSES", "0", "a whole number from 1 to 64"),
        ("WEB_THREADS", "many", "a whole number from 1 to 512"),
        ("TRUSTED_ORIGINS", "https://a.org, b.org", "got 'b.org'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_what_was_expected(
    tmp_path, name, value, expected
):
    said = refusal(tmp_path, **{name: value})
    assert f"HANDCAR_{name}: expected" in said
    assert expected in said
    assert "hidden" not in said


def test_a_misspelt_name_in_the_file_is_refused_with_the_right_one(tmp_path):
    said = refusal(tmp_path, 'databse = "postgresql://a@b/c"')
    assert f"`databse` in {tmp_path}/handcar.toml" in said
    assert "did you mean `database`?" in said


def test_all_mistakes_are_told_at_once(tmp_path):
    said = refusal(tmp_path, "log = [1]\nmystery = 1", DEBUG="maybe", STORE_KEY="a")
    assert len(said.splitlines()) == 5
    for part in ("`log`", "`mystery`", "HANDCAR_DEBUG", "HANDCAR_STORE_SECRET"):
        assert part in said


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    assert "handcar.toml can't be read" in refusal(tmp_path, "log: ERROR")


@pytest.mark.parametrize("name", ["STORE_KEY", "STORE_SECRET", "S3_KEY", "S3_SECRET"])
def test_half_of_a_pair_of_credentials_is_refused(tmp_path, name):
    assert "with it" in refusal(tmp_path, STORE="s3://carts", **{name: "a"})


def test_a_part_of_a_store_without_a_store_is_refused(tmp_path):
    said = refusal(tmp_path, STORE_PUBLIC="https://cdn.example.org")
    assert "HANDCAR_STORE_PUBLIC is set without HANDCAR_STORE" in said


def test_no_secret_is_shown_with_the_configuration(tmp_path):
    secrets = {
        "DATABASE": "postgresql://a:hidden@b/c",
        "BROKER": "amqp://a:hidden@b/",
        "STORE": "s3://carts",
        "STORE_KEY": "a",
        "STORE_SECRET": "hidden",
        "SECRET_KEY": "hidden" * 8,
        "SIGNING_KEY": KEY,
        "METRICS_TOKEN": "hidden",
    }
    shown = repr(read(tmp_path, **secrets))
    assert "hidden" not in shown
    assert repr(bytes.fromhex(KEY)) not in shown


def test_every_setting_is_in_the_reference():
    page = (ROOT / "docs/reference/settings.md").read_text()
    documented = set(re.findall(r"^\| `(HANDCAR_[A-Z0-9_]+)`", page, re.M))
    assert documented == set(configuration.VARIABLES)
