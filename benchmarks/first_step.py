"""How soon a volunteer makes its first training step on 10 GB of data, over 8 Mbit/s.

`handcar join` runs behind a line that is throttled for real. The data set is scaled down in one
way only: its first chunks are there, cut by the product from the real pictures in HANDCAR_DATA
(or made-up ones), and the rest of the 10 GB are entries of the same size in the list of chunks,
which nobody fetches before the first step. So the list is as long, the first chunk and the key
frame are as large, and everything is fetched as it would be. What downloading all first would
take is computed: the bytes of the key frame and of all chunks over the line's rate.

Seconds count from the start of the program, so the share is more than what the bar asks for,
which leaves start-up aside: `start-up`, measured beside it, is what Python, Handcar and Keras
take to load on this machine with nothing to fetch. Bytes come in meanwhile.

HANDCAR_PEERS names a Python with webdataset, mosaicml-streaming and litdata, for the first batch
that their loaders give of the same pictures over such a line, in shards of 64 MB, their libraries
loaded already and without any weights to fetch (`first_step_peers.py`). Without it, and with
--quick, they are left out: that takes minutes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np

from common import Bar, arguments, report
from handcar.cli.client import Api
from handcar.data.cut import CHUNK_BYTES, CutChunk, cut
from handcar.data.importers import Column
from handcar.data.survey import survey, travel_type
from handcar.files import digest
from handcar.protocol.messages import Assignment, ChunkEntry, Manifest, PublishRequest
from handcar.simulation.network import ThrottledLink
from handcar.simulation.stage import Stage
from handcar.stores.handcar import HandcarStore

MEGABITS = 8.0
IN_ALL = 10_000_000_000
LATENCY_S = 0.02
PICTURES = 2_000
STARTING = "import handcar.volunteer.join, handcar.modelfile.build"
MODELS = {"1 million": (320,), "20 million": (4096, 1900)}
"""Widths of dense networks over pictures of 32 x 32 x 3, of about so many weights."""
PEERS = Path(__file__).with_name("first_step_peers.py")
LIBRARIES = ("webdataset", "streaming", "litdata")
SHARD_PICTURES = 40_000
"""As PNG files they fill a shard of 64 MB and more."""
NOWHERE = "http://127.0.0.1:9/"


@dataclass(frozen=True)
class Measured:
    """One volunteer's first step."""

    weights: int
    chunks: int
    keyframe: int
    first_chunk: int
    fetched: int
    """Bytes that the line carried down until then, requests and lists included."""
    first_step_s: float
    whole_s: float
    """What downloading everything takes, computed."""


def pictures() -> tuple[np.ndarray, np.ndarray, str]:
    """Return coloured pictures, their labels, and where they come from."""
    path = Path(os.environ.get("HANDCAR_DATA", ".")) / "cifar10_lossless/cifar10_lossless_4k.npz"
    if path.is_file():
        data = np.load(path)
        return data["x"][:PICTURES], data["y"][:PICTURES], "CIFAR-10"
    rng = np.random.default_rng(0)
    shape = (PICTURES, 32, 32, 3)
    return rng.integers(0, 256, shape, np.uint8), rng.integers(0, 10, PICTURES, np.uint8), "made up"


def model_file(widths: tuple[int, ...]) -> str:
    """Return a dense network for the pictures."""
    dense = [{"layer": "Dense", "units": units, "activation": "relu"} for units in widths]
    return json.dumps(
        {
            "name": "bench",
            "dataset": {"name": "pictures", "file": "pictures.npz", "validation": 0.02},
            "input": {"shape": [32, 32, 3]},
            "layers": [
                {"layer": "Rescaling", "scale": 1 / 255},
                {"layer": "Flatten"},
                *dense,
                {"layer": "Dense", "units": 10, "activation": "softmax"},
            ],
            "loss": "sparse_categorical_crossentropy",
            "optimizer": {"name": "Adam", "learning_rate": 0.001},
            "batch_size": 32,
        }
    )


# -- a data set of 10 GB, of which the first chunks are there ----------------------------------


def publish(stage: Stage, model: str, folder: Path) -> None:
    """Publish the model and the list of a data set of 10 GB."""
    x, y, _ = pictures()
    columns = {name: _column(name, array) for name, array in {"x": x, "y": y}.items()}
    chunks = cut(SimpleNamespace(train=columns, test=None), folder, validation=0.02)
    tokens = json.loads((stage.folder / "owner" / "owner-tokens.json").read_text())
    api = Api(stage.url, tokens.get(stage.url) or next(iter(tokens.values())))
    with closing(HandcarStore(api.server, api.token)) as store:
        for chunk in chunks:
            store.put(chunk.digest, chunk.path)
    here = [_entry(chunk) for chunk in chunks]
    missing = IN_ALL - sum(entry.size for entry in here if entry.split == "train")
    rest = [_elsewhere(number) for number in range(missing // CHUNK_BYTES)]
    manifest = Manifest(name="pictures", chunks=(*here, *rest))
    api.post("/models", PublishRequest(model_file=model, manifest=manifest))
    stage.until(lambda: _is_ready(stage), "version 0 is there")


def _column(name: str, array: np.ndarray) -> Column:
    found = survey(name, array)
    return Column(found, travel_type([found]))


def _entry(chunk: CutChunk) -> ChunkEntry:
    return ChunkEntry(
        sha256=chunk.digest,
        size=chunk.size,
        records=chunk.records,
        file_name=chunk.file_name,
        codec=chunk.codec,
        split=chunk.split,
    )


def _elsewhere(number: int) -> ChunkEntry:
    sha256 = digest(str(number).encode())
    name = f"train-{number + 1000:05}.chunk"
    # An address as long as one in a bucket usually is.
    url = f"{NOWHERE}some-owners-bucket/pictures/{sha256.removeprefix('sha256:')}"
    return ChunkEntry(
        sha256=sha256,
        size=CHUNK_BYTES,
        records=2000,
        file_name=name,
        codec="columns-zstd",
        urls=(url,),
    )


def _is_ready(stage: Stage) -> bool:
    status = stage.status("bench")
    return bool(status and status.state == "pending")


# -- a volunteer -------------------------------------------------------------------------------


def first_step(stage: Stage, name: str) -> Measured:
    """Let a volunteer join over the throttled line until its first step."""
    parts = urlsplit(stage.url)
    link = ThrottledLink(
        (parts.hostname or "", parts.port or 0),
        up_bits_per_s=1e6,
        down_bits_per_s=MEGABITS * 1e6,
        latency_s=LATENCY_S,
    )
    with link:
        began = time.monotonic()
        process = stage.join(name, link.url)

        def stepped() -> tuple[float, int] | None:
            steps = [
                line["progress"]["counted_at"]
                for line in stage.lines(name)
                if line.get("progress", {}).get("steps")
            ]
            return (steps[0] - began, link.bytes_down) if steps else None

        first_s, fetched = stage.until(stepped, "the first step", wait_s=300, process=process)
        process.terminate()
        process.wait()
    told = next((stage.folder / name).glob("servers/*/models/bench/assignment.json"))
    return _measured(Assignment.model_validate_json(told.read_bytes()), stage, fetched, first_s)


def _measured(given: Assignment, stage: Stage, fetched: int, first_s: float) -> Measured:
    status = stage.status("bench")
    keyframe = given.series.keyframe.size
    whole = keyframe + sum(link.size for link in given.dataset)
    return Measured(
        weights=status.weights if status else 0,
        chunks=len(given.dataset),
        keyframe=keyframe,
        first_chunk=given.dataset[0].size,
        fetched=fetched,
        first_step_s=first_s,
        whole_s=whole * 8 / (MEGABITS * 1e6),
    )


def start_up_s() -> float:
    """Return what loading the program and Keras takes here, by itself."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", STARTING], check=True, capture_output=True)
    return time.monotonic() - began


def measure(model: str) -> Measured:
    """Publish a model on a stage of its own and measure a newcomer's first step."""
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage:
        stage.serve()
        publish(stage, model, Path(folder) / "chunks")
        return first_step(stage, "ada")


# -- other libraries' loaders --------------------------------------------------------------------


class _Files(SimpleHTTPRequestHandler):
    """A server of files that looks like S3, as far as somebody who reads asks."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.translate_path(urlsplit(self.path).path.removeprefix("/bucket")))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1, len(data)) if asked and asked[2] else len(data)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", f'"{len(data)}"')
        self.send_header("Last-Modified", self.date_time_string(0))
        self.end_headers()
        if self.command == "GET":
            with suppress(ConnectionError):  # some leave as soon as they have their batch
                self.wfile.write(data[start:end])

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


def peer_row(python: str, library: str) -> tuple[object, ...]:
    """Return how soon another library's loader gives its first batch."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shown = folder / "shown"
        shown.mkdir()
        x, y, _ = pictures()
        times = -(-SHARD_PICTURES // len(x))
        np.savez(folder / "records.npz", x=np.concatenate([x] * times), y=np.tile(y, times))
        done = _run(python, library, "write", str(shown), str(folder / "records.npz"))
        if done.returncode:
            return (library, _fault(done))
        handler = partial(_Files, directory=str(shown))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, _line(server) as link:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            done = _run(python, library, "read", link.url, str(folder / "cache"))
            fetched = link.bytes_down
            server.shutdown()
    if done.returncode:
        return (library, _fault(done))
    return (library, "", "", "", fetched / 1e6, float(done.stdout.split()[-1]), "", "", "")


def _run(python: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([python, PEERS, *arguments], capture_output=True, check=False)


def _fault(done: subprocess.CompletedProcess[bytes]) -> str:
    return f"failed: {done.stderr.decode().strip()[-120:]}"


def _line(server: ThreadingHTTPServer) -> ThrottledLink:
    return ThrottledLink(
        ("127.0.0.1", server.server_port),
        up_bits_per_s=1e6,
        down_bits_per_s=MEGABITS * 1e6,
        latency_s=LATENCY_S,
    )


# -- report ------------------------------------------------------------------------------------


def _padded(row: tuple[object, ...]) -> tuple[object, ...]:
    return (*row, *[""] * (9 - len(row)))


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    start_s = min(start_up_s() for _ in range(2))
    rows, bars = [], []
    for name, widths in list(MODELS.items())[: 1 if wanted.quick else None]:
        found = measure(model_file(widths))
        share = found.first_step_s / found.whole_s
        rows.append(
            (
                f"{found.weights:,}",
                found.chunks,
                found.first_chunk / 1e6,
                found.keyframe / 1e6,
                found.fetched / 1e6,
                found.first_step_s,
                start_s,
                found.whole_s,
                100 * share,
            )
        )
        suffix = "" if name == "1 million" else "_20m"
        bars.append(Bar(f"first_step.share{suffix}", share, "of the time to all data"))
    title = f"The first step on 10 GB over {MEGABITS:g} Mbit/s"
    python = os.environ.get("HANDCAR_PEERS")
    if python and not wanted.quick:
        rows += [_padded(peer_row(python, library)) for library in LIBRARIES]
    else:
        title += "; no other loaders: HANDCAR_PEERS names no Python with them, or --quick was given"
    report(
        wanted,
        title,
        (
            "weights, or loader",
            "chunks",
            "first chunk MB",
            "key frame MB",
            "fetched MB",
            "first step s",
            "start-up s",
            "all data s",
            "share %",
        ),
        rows,
        bars,
    )


if __name__ == "__main__":
    main()
