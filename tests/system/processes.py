"""What the system tests share: a stage of real processes, a small data set, a model file."""

from __future__ import annotations

import json
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from handcar.protocol.messages import ModelStatus
from handcar.simulation.stage import Process, Stage

MODEL = "blobs"


class Place(Stage):
    """A stage whose server keeps its port, so that it can be killed and come back."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.server: Process | None = None

    def serve_here(self) -> Process:
        """Start the server, or start it again, at the same address."""
        self.server = self.serve(port=self.port)
        return self.server

    def publish(self, model: Path) -> None:
        self.call("publish", str(model), "--server", self.url)

    def stands(self) -> ModelStatus:
        """How the model stands, as soon as the server answers."""
        return self.until(lambda: self.status(MODEL), "the server answers")

    def until_version(self, version: int) -> ModelStatus:
        def reached() -> ModelStatus | None:
            status = self.status(MODEL)
            return status if status and status.version >= version else None

        return self.until(reached, f"version {version} is there")

    def until_new_version(self) -> ModelStatus:
        return self.until_version(self.stands().version + 1)

    def rows(self, query: str, *values: object) -> list[tuple]:
        """Ask the server's database, as it is on the disk."""
        address = f"file:{self.folder}/server/db.sqlite3?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as database:
            return database.execute(query, values).fetchall()

    def merged_updates_of(self, name: str) -> int:
        """How many updates of a volunteer count."""
        query = (
            "select count(*) from rounds_update u join accounts_volunteer v "
            "on v.id = u.volunteer_id where v.name = ? and u.state = 'merged'"
        )
        return self.rows(query, name)[0][0]

    def said(self, name: str) -> str:
        """All that a volunteer told the person who runs it."""
        return "\n".join(line["said"] for line in self.lines(name) if "said" in line)

    def shown(self, name: str) -> dict[str, Any]:
        """What a volunteer showed last."""
        shown = [line for line in self.lines(name) if "progress" in line]
        return shown[-1] if shown else {"progress": {"steps": 0, "round_steps": 0}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def blobs_dataset(folder: Path, *, records: int = 4000, seed: int = 0) -> Path:
    """A small data set that is easy to learn a little and hard to learn well."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(10, 20))
    y = rng.integers(0, 10, records)
    x = centres[y] + rng.normal(scale=1.0, size=(records, 20))
    path = folder / "blobs.npz"
    np.savez(path, x=x.astype(np.float32), y=y)
    return path


def model_file(folder: Path, **changes: Any) -> Path:
    """A model file as a person would write it, beside its data."""
    model = {
        "name": MODEL,
        "description": "Ten clouds of points",
        "dataset": {"name": "clouds", "file": "blobs.npz", "validation": 0.1},
        "input": {"shape": [20]},
        "layers": [
            {"layer": "Dense", "units": 32, "activation": "relu"},
            {"layer": "BatchNormalization"},
            {"layer": "Dense", "units": 10, "activation": "softmax"},
        ],
        "loss": "sparse_categorical_crossentropy",
        "optimizer": {"name": "Adam", "learning_rate": 0.002},
        "metrics": ["accuracy"],
        "batch_size": 32,
        "round": {"max_steps": 100, "max_seconds": 20},
    }
    path = folder / "blobs.json"
    path.write_text(json.dumps(model | changes, indent=2))
    return path
