"""What may differ from server to server: read once, checked once, then plain data.

Each value comes from the environment, or from `handcar.toml` in the server's folder (or the file
that HANDCAR_CONFIG names); the environment wins. In the file a name stands without HANDCAR_ and
in lower case: `database = "postgresql://..."`. docs/reference/settings.md has them all.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from handcar.errors import BadInput
from handcar.server import home as homes
from handcar.server.home import Home

PREFIX = "HANDCAR_"
CONFIG = "HANDCAR_CONFIG"
FILE = "handcar.toml"
SECRET_LETTERS = 32
KEY = re.compile(r"[0-9a-fA-F]{64}")
BUCKET = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,62})(?:/([A-Za-z0-9/._-]*))?")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
POSTGRESQL_OPTIONS = ("host", "sslmode", "sslrootcert", "sslcert", "sslkey")
"""What may stand behind the `?` of a database's address; libpq knows them."""


class BadConfiguration(BadInput):
    """One or more values that a server can't run with, a sentence each."""


class Wrong(Exception):
    """What was expected of a value, what was got, and what to do; its name is added."""

    def __init__(self, expected: str, got: str, do: str = "") -> None:
        super().__init__(f"expected {expected}, got {got}" + (f": {do}" if do else ""))


# -- kinds of values -------------------------------------------------------------------------


def flag(text: str) -> bool:
    """Read yes or no."""
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in known:
        raise Wrong("1 or 0", repr(text))
    return known[text.lower()]


def names(text: str) -> tuple[str, ...]:
    """Read names with commas between them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def count(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number between two others."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise Wrong(f"a whole number from {least} to {most}", repr(text))
        return int(text)

    return read


def one_of(*known: str) -> Callable[[str], str]:
    """Return what reads one of some words, in either case."""

    def read(text: str) -> str:
        found = [word for word in known if word.lower() == text.lower()]
        if not found:
            raise Wrong(" or ".join(known), repr(text))
        return found[0]

    return read


def web_address(text: str) -> str:
    """Read an http(s) address; it is kept without a slash at its end."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Wrong("an address such as https://s3.example.org", repr(text))
    return text.rstrip("/")


def origins(text: str) -> tuple[str, ...]:
    """Read addresses that people log in from."""
    return tuple(web_address(part) for part in names(text))


def secret(text: str) -> str:
    """Read a secret of some length."""
    if len(text) < SECRET_LETTERS:
        raise Wrong(
            f"at least {SECRET_LETTERS} letters",
            f"{len(text)}",
            "`python -c 'import secrets; print(secrets.token_urlsafe(48))'` makes one",
        )
    return text


def key(text: str) -> bytes:
    """Read 32 secret bytes, in hexadecimal."""
    if not KEY.fullmatch(text):
        raise Wrong(
            "64 hexadecimal digits",
            f"{len(text)} letters",
            "take those from the file of this name in the first server's folder, or let "
            "`python -c 'import secrets; print(secrets.token_hex(32))'` make new ones",
        )
    return bytes.fromhex(text)


def database(text: str) -> str:
    """Read where PostgreSQL is."""
    expected = "postgresql://user:password@host:port/name"
    parts = urlsplit(text)
    if parts.scheme not in ("postgresql", "postgres"):
        raise Wrong(expected, f"{parts.scheme or 'no scheme'}://...", "leave it away for SQLite")
    if not parts.path.strip("/") or "/" in parts.path.strip("/"):
        raise Wrong(expected, "no name of a database behind the last /")
    _expect_port(text, expected)
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in POSTGRESQL_OPTIONS:
            raise Wrong(f"behind the ? only {', '.join(POSTGRESQL_OPTIONS)}", repr(name))
    return text


def broker(text: str) -> str:
    """Read where RabbitMQ or Redis is."""
    expected = "amqp://user:password@host:port/ or redis://host:port/number"
    parts = urlsplit(text)
    if parts.scheme not in ("amqp", "amqps", "redis", "rediss") or not parts.hostname:
        raise Wrong(expected, f"{parts.scheme or 'no scheme'}://...", "leave it away for none")
    _expect_port(text, expected)
    return text


def bucket(text: str) -> str:
    """Read which bucket, and what stands before the names in it."""
    if not BUCKET.fullmatch(text):
        raise Wrong(
            "s3://bucket or s3://bucket/prefix", repr(text), "leave it away for the folder blobs/"
        )
    return text.rstrip("/")


def _expect_port(text: str, expected: str) -> None:
    try:
        port = urlsplit(text).port
    except ValueError:
        port = 0
    if port == 0:
        raise Wrong(expected, "a port that is no number from 1 to 65535")


# -- all of them -----------------------------------------------------------------------------


def setting(read: Callable[[str], Any], default: Any, *, hidden: bool = False) -> Any:
    """Return a field that is read from the environment or the file."""
    return field(default=default, repr=not hidden, metadata={"read": read})


def text(given: str) -> str:
    """Read any text."""
    return given


@dataclass(frozen=True, slots=True)
class Configuration:
    """Every setting, by its name without HANDCAR_; docs/reference/settings.md says what each is."""

    home: Home
    file: Path | None = None
    """What was read beside the environment; none where there is no such file."""

    database: str | None = setting(database, None, hidden=True)
    store: str | None = setting(bucket, None)
    store_endpoint: str | None = setting(web_address, None)
    store_region: str = setting(text, "us-east-1")
    store_key: str | None = setting(text, None)
    store_secret: str | None = setting(text, None, hidden=True)
    store_public: str | None = setting(web_address, None)
    broker: str | None = setting(broker, None, hidden=True)
    web_processes: int = setting(count(1, 64), 1)
    web_threads: int | None = setting(count(1, 512), None)

    secret_key: str | None = setting(secret, None, hidden=True)
    signing_key: bytes | None = setting(key, None, hidden=True)
    checking_key: bytes | None = setting(key, None, hidden=True)

    debug: bool = setting(flag, False)
    allowed_hosts: tuple[str, ...] = setting(names, ("*",))
    trusted_origins: tuple[str, ...] = setting(origins, ())
    behind_proxy: bool = setting(flag, False)

    s3_key: str | None = setting(text, None)
    s3_secret: str | None = setting(text, None, hidden=True)
    s3_region: str = setting(text, "us-east-1")
    s3_endpoint: str | None = setting(web_address, None)

    log: str = setting(one_of(*LEVELS), "WARNING")
    log_format: Literal["line", "json"] = setting(one_of("line", "json"), "line")
    metrics_token: str | None = setting(text, None, hidden=True)

    @property
    def is_embedded(self) -> bool:
        """Whether the state is in SQLite, so that one machine has one worker."""
        return self.database is None

    @property
    def bucket(self) -> tuple[str, str] | None:
        """The bucket that bytes go to, and what stands before their names in it."""
        found = BUCKET.fullmatch(self.store or "")
        return (found[1], (found[2] or "").strip("/")) if found else None

    @property
    def threads(self) -> int:
        """Requests at once in a web process; slow lines hold none of them (`front.py`).

        With PostgreSQL each thread holds one of its hundred connections.
        """
        return self.web_threads or (64 if self.is_embedded else 32)


SETTINGS: dict[str, Callable[[str], Any]] = {
    one.name: one.metadata["read"] for one in fields(Configuration) if one.metadata
}
VARIABLES = (homes.VARIABLE, CONFIG, *(PREFIX + name.upper() for name in SETTINGS))
TOGETHER = (("store_key", "store_secret"), ("s3_key", "s3_secret"))
ONLY_WITH = {
    name: "store"
    for name in ("store_endpoint", "store_region", "store_key", "store_secret", "store_public")
}


def read(environ: Mapping[str, str]) -> Configuration:
    """Return what the environment and the file say. Raises BadConfiguration with all mistakes."""
    home = homes.named(environ.get(homes.VARIABLE))
    file = _file(environ, home)
    problems: list[str] = []
    given = {} if file is None else _from_file(file, problems)
    for name in SETTINGS:
        # An empty variable is one that is not set: that is how compose files leave one away.
        if value := environ.get(PREFIX + name.upper()):
            given[name] = value, PREFIX + name.upper()
    values = {name: _value(name, *given[name], problems) for name in given}
    problems += _do_not_fit(values)
    if problems:
        raise BadConfiguration("\n".join(problems))
    return Configuration(home=home, file=file, **values)


def _file(environ: Mapping[str, str], home: Home) -> Path | None:
    if named := environ.get(CONFIG):
        path = Path(named).expanduser()
        if not path.is_file():
            raise BadConfiguration(f"{CONFIG}: expected a file, got {path}, which is none")
        return path
    usual = home.folder / FILE
    return usual if usual.is_file() else None


def _from_file(path: Path, problems: list[str]) -> dict[str, tuple[str, str]]:
    """Return each value as text, with the words for where it stands."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadConfiguration(f"{path} can't be read: {error}") from error
    given = {}
    for name, value in table.items():
        place = f"`{name}` in {path}"
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=1)
            hint = f": did you mean `{near[0]}`?" if near else ": take it out"
            problems.append(f"{place}: no setting has this name{hint}")
        elif (as_text := _text(value)) is None:
            problems.append(f"{place}: expected a text, a number, true or false, or a list")
        elif as_text:
            given[name] = as_text, place
    return given


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    return None


def _value(name: str, given: str, place: str, problems: list[str]) -> Any:
    try:
        return SETTINGS[name](given.strip())
    except Wrong as wrong:
        problems.append(f"{place}: {wrong}")
        return None


def _do_not_fit(values: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each setting that lacks another."""
    problems = []
    for pair in TOGETHER:
        for one, other in (pair, pair[::-1]):
            if one in values and other not in values:
                problems.append(f"{_variable(one)} is set: expected {_variable(other)} with it")
    for name, base in ONLY_WITH.items():
        if name in values and base not in values:
            problems.append(
                f"{_variable(name)} is set without {_variable(base)}: set that too, or neither"
            )
    return problems


def _variable(name: str) -> str:
    return PREFIX + name.upper()


# -- for Django ------------------------------------------------------------------------------


def databases(configuration: Configuration) -> dict[str, Any]:
    """Return Django's DATABASES."""
    one = _sqlite(configuration.home) if configuration.is_embedded else _postgresql(configuration)
    return {"default": one}


def _sqlite(home: Home) -> dict[str, Any]:
    return {
        "ENGINE": "handcar.server.sqlite",
        "NAME": home.database,
        # Waits for other processes' small transactions instead of failing at once.
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            # FULL, not NORMAL: an update is acknowledged before the next checkpoint.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
        },
        "CONN_MAX_AGE": 60,
    }


def _postgresql(configuration: Configuration) -> dict[str, Any]:
    parts = urlsplit(configuration.database or "")
    beside = dict(parse_qsl(parts.query))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.strip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": beside.pop("host", parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "OPTIONS": {
            "connect_timeout": 5,
            "application_name": "handcar",
            # A machine that vanished is noticed in a minute, not in two hours.
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            # No request and no step of the worker waits for ever for another's row.
            "options": "-c lock_timeout=20s -c idle_in_transaction_session_timeout=60s",
            **beside,
        },
        "CONN_MAX_AGE": 60,
        # A connection that was cut while nobody used it is made anew, unnoticed.
        "CONN_HEALTH_CHECKS": True,
    }
