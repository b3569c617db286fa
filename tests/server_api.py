"""A server's API in this process, and small models and updates to feed it. For tests."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from django.core.cache import cache
from django.http import HttpResponse
from django.test import Client

from handcar import files
from handcar.server.accounts import services as accounts
from handcar.server.catalog import modelfiles
from handcar.server.catalog import services as catalog
from handcar.server.catalog.models import TrainingModel
from handcar.server.home import Home
from handcar.server.rounds import series
from handcar.server.rounds.models import Update, Version
from handcar.wire import frames
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Flat, Layout

RECORDS = 100
ROOT = "http://testserver/api/v1/files/"


def model_file(name: str = "digits", **changes: Any) -> dict[str, Any]:
    """Return a small model file: 4 x 3 weights, 3 biases."""
    return {
        "name": name,
        "description": "a small model",
        "dataset": {"name": "points", "description": "made up"},
        "input": {"shape": [4], "dtype": "float32"},
        "layers": [{"layer": "Dense", "units": 3, "activation": "softmax"}],
        "loss": "SparseCategoricalCrossentropy",
        "optimizer": "SGD",
        "metrics": ["SparseCategoricalAccuracy"],
        "batch_size": 10,
        **changes,
    }


def chunk(data: bytes, *, split: str = "train", **changes: Any) -> dict[str, Any]:
    """Return the entry of a manifest for some bytes."""
    return {
        "sha256": files.digest(data),
        "size": len(data),
        "records": RECORDS,
        "file_name": f"{hashlib.sha256(data).hexdigest()[:8]}.chunk",
        "codec": "raw",
        "split": split,
        **changes,
    }


@dataclass
class Joined:
    """A volunteer: its id and the header that proves it."""

    id: uuid.UUID
    token: str


@dataclass
class Api:
    """Requests as a client makes them, in this process."""

    home: Home
    owner: str
    client: Client = field(default_factory=Client)

    @classmethod
    def fresh(cls, home: Home) -> Api:
        """Return the API of a server that has just started for the first time."""
        cache.clear()
        return cls(home, accounts.ensure_first_accounts(home))

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Send a request; `body` is sent as JSON unless it is bytes."""
        given = dict(headers or {})
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        raw = (
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        )
        url = path if path.startswith("http") else f"/api/v1{path}"
        return self.client.generic(method, url, raw, content_type="application/json", headers=given)

    # -- who ---------------------------------------------------------------------------------

    def join(self, name: str = "ann") -> Joined:
        """Join as a volunteer."""
        reply = self.ask("POST", "/volunteers", {"name": name, "client_version": "1"}).json()
        return Joined(uuid.UUID(reply["volunteer_id"]), reply["token"])

    def other_owner(self, name: str = "olga") -> str:
        """Return the token of another owner, who is no superuser."""
        return accounts.create_owner(name)

    # -- what --------------------------------------------------------------------------------

    def store(self, data: bytes, token: str | None = None) -> HttpResponse:
        """Store bytes as an owner."""
        token = token or self.owner
        told = {"sha256": files.digest(data), "size": len(data)}
        url = self.ask("POST", "/blobs", told, token=token).json()["upload_url"]
        if url is None:
            return self.ask("POST", "/blobs", told, token=token)
        return self.send(url, data, 0, token)

    def send(self, url: str, data: bytes, offset: int, token: str) -> Any:
        """Send bytes at an offset."""
        return self.ask("PATCH", url, data, token=token, headers={"Upload-Offset": str(offset)})

    def publish(
        self,
        *,
        chunks: Sequence[dict[str, Any]] | None = None,
        token: str = "",
        validation: bool = True,
        **changes: Any,
    ) -> Any:
        """Publish a small model, by default with three chunks and one for validation."""
        if chunks is None:
            pieces = [(f"records {n}".encode(), "train") for n in range(3)]
            if validation:
                pieces.append((b"records to validate", "validation"))
            for data, _ in pieces:
                self.store(data, token or self.owner)
            chunks = [chunk(data, split=split) for data, split in pieces]
        written = model_file(**changes)
        manifest = {"name": written["dataset"]["name"], "description": "", "chunks": chunks}
        body = {"model_file": json.dumps(written), "manifest": manifest}
        return self.ask("POST", "/models", body, token=token or self.owner)

    def model(self, now: datetime | None = None, **changes: Any) -> TrainingModel:
        """Publish a model and prepare its version 0 without Keras: small random weights.

        Without validation records, so that no update waits for the process with Keras.
        """
        reply = self.publish(validation=False, **changes)
        assert reply.status_code == 201, reply.content
        return prepare(reply.json()["id"], now)

    def trained(self) -> TrainingModel:
        """Publish a model, let it have some versions, and an update that waits."""
        model = self.model()
        for seed in range(3):
            self.deliver(self.join(f"v{seed}"), update_frame(model, seed=seed))
        work()
        self.deliver(self.join("late"), update_frame(model, seed=9))
        return model

    # -- updates -----------------------------------------------------------------------------

    def announce(self, who: Joined, facts: dict[str, Any]) -> Any:
        """Announce an update."""
        return self.ask("POST", "/updates", facts, token=who.token)

    def deliver(self, who: Joined, frame: bytes, **facts: Any) -> Update:
        """Announce an update and send its bytes."""
        told = announcement(frame, **facts)
        status = self.announce(who, told)
        assert status.status_code == 200, status.content
        if status.json()["state"] == "announced":
            status = self.send(status.json()["upload_url"], frame, 0, who.token)
        assert status.json()["state"] == "received", status.content
        return Update.objects.get(id=told["id"])


def prepare(model_id: str, now: datetime | None = None) -> TrainingModel:
    """Give a published model its version 0, without Keras."""
    model = TrainingModel.objects.get(id=model_id)
    weights = np.random.default_rng(0).normal(size=layout_of(model).size).astype(np.float32)
    series.first_version(model, weights, now or datetime.now(UTC)).save()
    catalog.move(model.pk, "pending")
    model.refresh_from_db()
    return model


def layout_of(model: TrainingModel) -> Layout:
    """Return the layout of a model's weights."""
    return modelfiles.layout(model.model_file)


def update_frame(
    model: TrainingModel, *, base: int = 0, seed: int = 1, length: float = 0.01
) -> bytes:
    """Return the bytes of an update with a random difference."""
    size = layout_of(model).size
    change = np.random.default_rng(seed).normal(size=size).astype(np.float32) * np.float32(length)
    return frame_of(model, change, base=base)


def frame_of(model: TrainingModel, change: Flat, *, base: int = 0, k: float = 0.05) -> bytes:
    """Return the bytes of an update of this difference."""
    facts = FrameFacts("update", model.pk, base)
    return frames.encode_difference(facts, change, layout_of(model), k=k)


def announcement(frame: bytes, **changes: Any) -> dict[str, Any]:
    """Return the facts of an update."""
    facts = {
        "id": str(uuid.uuid4()),
        "model_id": "digits",
        "base_version": 0,
        "seed": 1,
        "steps": 100,
        "records": 1000,
        "seconds": 20.0,
        "size": len(frame),
        "sha256": files.digest(frame),
        "loss": 0.5,
    }
    return {**facts, **changes}


def newest(model: TrainingModel) -> Version:
    """Return the newest version."""
    return series.newest(model.pk)


def work(now: datetime | None = None) -> int:
    """Let the worker do all that there is; return how many steps it took."""
    from handcar.server.worker import work_once

    steps = 0
    while work_once(now or datetime.now(UTC)):
        steps += 1
        assert steps < 1000
    return steps


def later(seconds: float) -> datetime:
    """Return a time from now."""
    return datetime.now(UTC) + timedelta(seconds=seconds)
