"""What each kind of request costs the web server: processor time and queries.

The WSGI application is called in this process, over a real SQLite database with so many
volunteers that take part in one model, 200 versions and as many updates as volunteers, and with
more models beside it. Network and web server cost are left out; `benchmarks/load.py` has those.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from common import Bar, report

VERSIONS = 200
CHUNKS = 500
FRAME = b"an update, as long as this" * 40


@dataclass
class Place:
    """A server's application and who asks it."""

    application: Callable[..., Iterable[bytes]]
    tokens: list[str]
    file: str

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[str, bytes]:
        """Return status and body."""
        said: list[str] = []
        path, _, query = path.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": "application/json",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.url_scheme": "http",
        }
        environ |= {"HTTP_" + name.upper(): value for name, value in headers.items()}
        answer = self.application(environ, lambda status, headers: said.append(status))
        content = b"".join(answer)
        answer.close()  # type: ignore[attr-defined] # Django's
        return said[0], content


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within about a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--volunteers", type=int, default=0)
    parser.add_argument("--models", type=int, default=20)
    wanted = parser.parse_args()
    volunteers = wanted.volunteers or (2_000 if wanted.quick else 10_000)
    with tempfile.TemporaryDirectory(prefix="handcar-requests-") as folder:
        place = made(Path(folder), volunteers, wanted.models)
        rows = [measured(place, name, ask, wanted.quick) for name, ask in kinds(place).items()]
    title = f"{volunteers} volunteers, {wanted.models} models, {VERSIONS} versions"
    bars = [Bar("heartbeat.cpu_ms", rows[2][1], "ms"), Bar("heartbeat.queries", rows[2][3], "")]
    columns = ("request", "CPU ms", "slowest ms", "queries", "most", "bytes")
    report(wanted, title, columns, rows, bars)


def measured(
    place: Place, name: str, ask: Callable[[int], tuple[str, bytes]], quick: bool
) -> tuple[Any, ...]:
    """Return what one kind costs: the mean, since what is remembered is shared by many."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    times = 20 if quick else 100
    queries, content = [], b""
    for number in range(times // 2):
        with CaptureQueriesContext(connection) as captured:
            status, content = ask(number)
        if not status.startswith("20"):
            raise SystemExit(f"{name}: {status} {content[:500]!r}")
        queries.append(len(captured))
    took = []
    for number in range(times // 2, times // 2 + times):
        began = time.process_time()
        ask(number)
        took.append(1e3 * (time.process_time() - began))
    cost = statistics.fmean(took)
    return (name, cost, max(took), statistics.median(queries), max(queries), len(content))


def kinds(place: Place) -> dict[str, Callable[[int], tuple[str, bytes]]]:
    """Return how each kind of request is made for the how-manyth time."""

    def bearer(number: int) -> str:
        return f"Bearer {place.tokens[number % len(place.tokens)]}"

    def get(path: str, own: bool = False) -> Callable[[int], tuple[str, bytes]]:
        return lambda n: place.ask("GET", path, **({"authorization": bearer(n)} if own else {}))

    return {
        # Those that were never heard from by this process come first, and then again.
        "POST /heartbeat, first": lambda n: place.ask(
            "POST", "/api/v1/heartbeat", heartbeat(n), authorization=bearer(n)
        ),
        "POST /heartbeat": lambda n: place.ask(
            "POST", "/api/v1/heartbeat", heartbeat(n), authorization=bearer(n)
        ),
        "POST /heartbeat, 2 pending": lambda n: place.ask(
            "POST",
            "/api/v1/heartbeat",
            heartbeat(n, [uuid.UUID(int=n + 1), uuid.uuid4()]),
            authorization=bearer(n),
        ),
        "POST /updates": lambda n: place.ask(
            "POST", "/api/v1/updates", announcement(n), authorization=bearer(n)
        ),
        "PATCH bytes": lambda n: place.ask(
            "PATCH",
            f"/api/v1/updates/{id_of(n)}/bytes",
            frame(n),
            authorization=bearer(n),
            upload_offset="0",
        ),
        "GET /updates/{id}": lambda n: place.ask(
            "GET", f"/api/v1/updates/{id_of(0)}", authorization=bearer(0)
        ),
        "GET /series": get("/api/v1/series/bench"),
        "GET /list": get("/api/v1/list"),
        "GET /model": get("/api/v1/model?model_id=bench", own=True),
        "GET /default": get("/api/v1/default", own=True),
        "GET /models/{id}": get("/api/v1/models/bench"),
        "GET /files, 1 kB": get(f"/api/v1/files/{place.file}"),
        "GET /health": get("/api/v1/health"),
        "page /": get("/"),
        "page of a model": get("/models/bench/"),
    }


def heartbeat(number: int, pending: Iterable[uuid.UUID] = ()) -> bytes:
    """Return one volunteer's heartbeat."""
    told = {"model_id": "bench", "version": VERSIONS - 1, "step": 1000 + number, "records": 32_000}
    told |= {"steps_per_second": 12.5, "loss": 1.25, "chunks": 20, "bytes_up": 10**7}
    return json.dumps(told | {"pending": [str(id) for id in pending]}).encode()


def id_of(number: int) -> str:
    """Return the id of the how-manyth update that is announced here."""
    return str(uuid.UUID(int=10**9 + number))


def frame(number: int) -> bytes:
    """Return the bytes of an update, each another."""
    return FRAME + str(number).encode()


def announcement(number: int) -> bytes:
    """Return the announcement of an update."""
    from handcar import files

    told = {"id": id_of(number), "model_id": "bench", "base_version": VERSIONS - 1, "seed": 1}
    told |= {"steps": 100, "records": 3200, "seconds": 20.0, "loss": 1.0}
    told |= {"size": len(frame(number)), "sha256": files.digest(frame(number))}
    return json.dumps(told).encode()


# -- the place -------------------------------------------------------------------------------


def made(folder: Path, volunteers: int, models: int) -> Place:
    """Return a server over a database of this size."""
    os.environ["HANDCAR_LOG"] = "ERROR"
    from handcar.server import setup

    home = setup.prepare(folder / "server")
    home.make_folders()
    setup.first_start(home)
    from django.db import transaction

    from handcar.server.wsgi import application

    with transaction.atomic():
        tokens = people(volunteers)
        digest = network("bench")
        for number in range(models - 1):
            network(f"other-{number}")
    return Place(application, tokens, digest.removeprefix("sha256:"))


def people(count: int) -> list[str]:
    """Make volunteers and return their tokens."""
    from handcar.server.accounts import services
    from handcar.server.accounts.models import Volunteer

    tokens = [f"{services.VOLUNTEER_PREFIX}{number:040d}" for number in range(count)]
    Volunteer.objects.bulk_create(
        Volunteer(name=f"machine {n}", token_hash=services.token_hash(t), client_version="1")
        for n, t in enumerate(tokens)
    )
    return tokens


def network(name: str) -> str:
    """Make a model whose volunteers are all there; return the digest of a file of it."""
    from django.utils import timezone

    from handcar import files
    from handcar.server import blobs
    from handcar.server.accounts.models import Owner
    from handcar.server.catalog import modelfiles
    from handcar.server.catalog.models import Chunk, Dataset, TrainingModel

    owner = Owner.objects.get(name="admin")
    facts = modelfiles.read(json.dumps(model_file(name)).encode())
    dataset = Dataset.objects.create(name=f"data-{name}", content_digest="", owner=owner)
    Chunk.objects.bulk_create(
        Chunk(
            dataset=dataset,
            index=n,
            split="train",
            digest=files.digest(f"{name} {n}".encode()),
            size=2_000_000,
            records=10_000,
            file_name=f"{n}.chunk",
            codec="raw",
            on_server=True,
        )
        for n in range(CHUNKS)
    )
    digest = blobs.put(FRAME)
    model = TrainingModel.objects.create(
        id=name,
        model_file=facts.canonical.decode(),
        model_file_digest=digest,
        model_file_size=len(FRAME),
        dataset=dataset,
        owner=owner,
        state="pending",
        weights=facts.weights,
        batch_size=facts.batch_size,
        round_steps=facts.round_steps,
        round_seconds=facts.round_seconds,
    )
    history(model, timezone.now() - timedelta(minutes=2 * VERSIONS))
    if name == "bench":
        crowd(model)
    return digest


def model_file(name: str) -> dict[str, Any]:
    """Return a model of 20 million weights."""
    dense = {"layer": "Dense", "units": 3120, "activation": "relu"}
    return {
        "name": name,
        "dataset": {"name": f"data-{name}", "description": "made up"},
        "input": {"shape": [784]},
        "layers": [dense, dense, dense, {"layer": "Dense", "units": 10, "activation": "softmax"}],
        "loss": "sparse_categorical_crossentropy",
        "optimizer": "SGD",
        "batch_size": 32,
    }


def history(model: Any, began: Any) -> None:
    """Make versions with a keyframe now and then."""
    from handcar import files
    from handcar.server.rounds.models import Version

    Version.objects.bulk_create(
        Version(
            model=model,
            number=n,
            weights_sha256=files.digest(b"w%d" % n),
            delta_digest=files.digest(f"{model.pk} d{n}".encode()) if n else None,
            delta_size=3_000_000 if n else 0,
            keyframe_digest=files.digest(f"{model.pk} k{n}".encode()) if n % 20 == 0 else None,
            keyframe_size=30_000_000 if n % 20 == 0 else None,
            updates=20,
            counted_steps=2000.0,
            records_merged=64_000 * n,
            updates_merged=20 * n,
            begin_bytes=30_000_000 + n % 20 * 3_000_000,
            deltas_bytes=3_000_000 * n,
            loss=2.0 - n / 200,
            published_at=began + timedelta(minutes=2 * n),
        )
        for n in range(VERSIONS)
    )


def crowd(model: Any) -> None:
    """Let every volunteer take part, with an update merged each."""
    from django.utils import timezone

    from handcar import files
    from handcar.server.accounts.models import Volunteer
    from handcar.server.rounds.models import MERGED, Participation, Update, Version

    now = timezone.now()
    versions = list(Version.objects.filter(model=model))
    volunteers = list(Volunteer.objects.all())
    Participation.objects.bulk_create(
        Participation(
            volunteer=one,
            model=model,
            number=n,
            heard_at=now + timedelta(minutes=10),
            steps_per_second=10.0,
            last_steps=100,
            accepted=20,
            audited=5,
            updates_merged=1,
            activity="training",
        )
        for n, one in enumerate(volunteers)
    )
    Update.objects.bulk_create(
        Update(
            id=uuid.UUID(int=n + 1),
            volunteer=one,
            model=model,
            base_version=VERSIONS - 2,
            seed=1,
            steps=100,
            records=3200,
            seconds=1800.0,
            size=10_000_000,
            sha256=files.digest(b"u%d" % n),
            state=MERGED,
            version=versions[n % VERSIONS],
            announced_at=now,
            received_at=now,
            examined_at=now,
            checked_at=now,
            norm=1.0,
        )
        for n, one in enumerate(volunteers)
    )


if __name__ == "__main__":
    main()
