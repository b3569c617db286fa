"""What goes wrong with a living project: one function a kind, each puts right what it broke.

Each draws all that is left to chance from the `rng` that it gets, so that a seed repeats a run as
far as the machine's own timing lets it.
"""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress

import psutil

from engines import rabbit
from faults_project import Project, Scribe
from handcar.simulation.stage import kill

HOUR_S = 3600.0
RESERVE_LEFT = 100_000_000
"""Less than the server keeps free of strangers' bytes."""


class NotHere(Exception):
    """This machine, or what the project runs on, has no such thing to break."""


Kind = Callable[[Project, Scribe, random.Random], None]


# -- processes ---------------------------------------------------------------------------------


def web_killed(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Kill -9 the web server, or the process in it that answers."""
    found = project.processes("web")
    if found:
        one = rng.choice([found[0], *found[0].children(recursive=True)])
        _kill(one)


def worker_killed(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Kill -9 the worker, wherever it is."""
    time.sleep(rng.uniform(0.0, 1.0))
    found = project.processes("worker")
    if found:
        _kill(rng.choice(found))
    time.sleep(rng.uniform(0.0, 1.0))
    project.mend()


def evaluator_killed(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Kill -9 the evaluator as soon as there is one."""
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        if found := project.processes("evaluator"):
            time.sleep(rng.uniform(0.0, 2.0))
            _kill(found[0])
            return
        time.sleep(0.2)


def volunteer_killed(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Kill -9 a volunteer, and let it go on."""
    name = rng.choice(project.names)
    kill(project.volunteers[name])
    time.sleep(rng.uniform(0.0, 1.0))
    project.join_here(name)


def server_killed(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Kill -9 the whole server, and start it again."""
    project.kill_server()
    project.note_acknowledged()
    time.sleep(rng.uniform(0.0, 2.0))
    project.serve_here()


def process_frozen(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Stop a process in mid-work, and let it go on as if nothing had been."""
    found = project.processes(rng.choice(("web", "worker")))
    if found:
        one = rng.choice([found[0], *found[0].children(recursive=True)])
        with suppress(psutil.Error):
            one.send_signal(signal.SIGSTOP)
            time.sleep(rng.uniform(0.5, 5.0))
            one.send_signal(signal.SIGCONT)


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.kill()


# -- disk and clock ----------------------------------------------------------------------------


def disk_full(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Leave no byte of the server's disk, for a while."""
    _fill(project, rng, rng.choice((0, 0, 50_000)))


def disk_nearly_full(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Leave less of the disk than the server needs to take strangers' bytes."""
    _fill(project, rng, RESERVE_LEFT)


def _fill(project: Project, rng: random.Random, leave_bytes: int) -> None:
    if not project.has_small_disk:
        raise NotHere("making a small disk needs root and mount")
    ballast = project.fill_disk(leave_bytes)
    try:
        time.sleep(rng.uniform(1.0, 5.0))
    finally:
        ballast.unlink()


def clock_ahead(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Let the server's clock jump ahead."""
    project.set_clock(rng.choice((60.0, HOUR_S, 3 * 24 * HOUR_S)) * rng.uniform(0.5, 1.0))
    time.sleep(rng.uniform(0.5, 2.0))


def clock_back(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Let the server's clock jump back."""
    project.set_clock(-rng.choice((2.0, 60.0, HOUR_S)) * rng.uniform(0.5, 1.0))
    time.sleep(rng.uniform(0.5, 2.0))


# -- line and requests -------------------------------------------------------------------------


def line_cut(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Reset every volunteer's connections, several times."""
    for _ in range(rng.randint(2, 8)):
        project.proxies["server"].cut()
        time.sleep(rng.uniform(0.1, 0.8))


def line_down(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Let no volunteer reach the server, for a while."""
    with project.proxies["server"].down():
        time.sleep(rng.uniform(1.0, 4.0))


def line_slow(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Let every piece of every request and answer wait."""
    with project.proxies["server"].slow(rng.uniform(0.1, 0.5)):
        time.sleep(rng.uniform(2.0, 5.0))


def requests_said_again(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Send what volunteers sent before again, in any order, several at once."""
    project.proxies["server"].replay(rng, rng.randint(10, 40), cut=False)


def requests_cut_short(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Send requests again that end in the middle."""
    project.proxies["server"].replay(rng, rng.randint(10, 40), cut=True)


def update_sent_twice(_project: Project, scribe: Scribe, rng: random.Random) -> None:
    """Send the bytes of the next updates twice at the same time."""
    _ask(scribe, ["twice"] * rng.randint(1, 3))


def update_out_of_order(_project: Project, scribe: Scribe, rng: random.Random) -> None:
    """Send the pieces of the next updates in the wrong order, and some twice."""
    _ask(scribe, ["reordered"] * rng.randint(1, 3))


def update_cut_short(_project: Project, scribe: Scribe, rng: random.Random) -> None:
    """Break off in the middle of the next updates."""
    _ask(scribe, ["truncated"] * rng.randint(1, 3))


def _ask(scribe: Scribe, habits: list[str]) -> None:
    scribe.habits += habits
    ends = time.monotonic() + 30
    while scribe.habits and time.monotonic() < ends:
        time.sleep(0.2)


# -- database, broker, store -------------------------------------------------------------------


def database_held(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Let somebody else hold SQLite's only lock for writing, for a while."""
    if project.engine.database:
        raise NotHere("PostgreSQL has no such lock")
    path = project.folder / "server" / "db.sqlite3"
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as database:
        with suppress(sqlite3.Error):
            database.execute("begin immediate")
        # Now and then longer than the server waits for it.
        time.sleep(rng.choice((1.0, 3.0, 5.0, 22.0)) * rng.uniform(0.5, 1.0))
        with suppress(sqlite3.Error):
            database.execute("rollback")


def database_connections_ended(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Let PostgreSQL end the server's connections, some or all."""
    if not project.engine.database:
        raise NotHere("SQLite has no connections")
    import psycopg

    with psycopg.connect(project.engine.server, autocommit=True) as connection:
        for _ in range(rng.randint(1, 5)):
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = %s and application_name like 'handcar%%' and random() < %s",
                (project.engine.database, rng.choice((0.5, 1.0))),
            )
            time.sleep(rng.uniform(0.1, 0.8))


def database_away(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Let nobody reach the database, for a while."""
    _away(project, "database", rng)


def broker_away(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Let nobody reach the broker, for a while."""
    _away(project, "broker", rng)


def broker_connections_closed(project: Project, _scribe: Scribe, _rng: random.Random) -> None:
    """Let RabbitMQ close the server's connections."""
    if not project.engine.vhost:
        raise NotHere("no RabbitMQ that this run may command")
    with suppress(subprocess.CalledProcessError):
        rabbit("close_all_connections", "--vhost", project.engine.vhost, "a fault run")


def store_away(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Let nobody reach the store, for a while."""
    _away(project, "store", rng)


def store_fails(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Let the store answer every request with an error, for a while."""
    with _proxy(project, "store").failing():
        time.sleep(rng.uniform(1.0, 4.0))


def store_slow(project: Project, _scribe: Scribe, rng: random.Random) -> None:
    """Let the store take its time."""
    with _proxy(project, "store").slow(rng.uniform(0.2, 1.0)):
        time.sleep(rng.uniform(2.0, 5.0))


def _away(project: Project, part: str, rng: random.Random) -> None:
    with _proxy(project, part).down():
        time.sleep(rng.uniform(0.5, 4.0))


def _proxy(project: Project, part: str):  # noqa: ANN202
    if part not in project.proxies:
        raise NotHere(f"this project has no {part} of its own")
    return project.proxies[part]


KINDS: dict[str, Kind] = {
    kind.__name__.replace("_", " "): kind
    for kind in (
        web_killed,
        worker_killed,
        evaluator_killed,
        volunteer_killed,
        server_killed,
        process_frozen,
        disk_full,
        disk_nearly_full,
        clock_ahead,
        clock_back,
        line_cut,
        line_down,
        line_slow,
        requests_said_again,
        requests_cut_short,
        update_sent_twice,
        update_out_of_order,
        update_cut_short,
        database_held,
        database_connections_ended,
        database_away,
        broker_away,
        broker_connections_closed,
        store_away,
        store_fails,
        store_slow,
    )
}


def draw(count: int, seed: int, kinds: list[str]) -> list[tuple[str, random.Random]]:
    """Return faults of all kinds in turn, the turns shuffled, each with its own chance."""
    rng = random.Random(seed)
    drawn: list[str] = []
    while len(drawn) < count:
        turn = list(kinds)
        rng.shuffle(turn)
        drawn += turn
    return [(kind, random.Random(f"{seed} {n}")) for n, kind in enumerate(drawn[:count])]
