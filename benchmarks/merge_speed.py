"""How quickly a server's worker checks and merges updates of a large model, and in what memory.

A real server in a folder for the time being: its database, its bytes on disk, and the steps of its
worker from an update that is received to the version that it is in: claim, digest, decode,
examine (norm, sketch, copies, cosine with the reference), merge with centered clipping, encode
the delta, write, commit. A crowd of volunteers sends a round of updates of a dense network,
differences as a round makes them (a heavy-tailed draw, each tensor at a scale of its own, signs
by unit and input anew for each), coded as volunteers code them; versions are of half a round each.

Processor time of one process; once with the compiled loops, where numba is installed, and once
without. `merge.vs_copy` is the time to add a decoded update to a merge over that of a plain copy
of the same vector; `merge.memory` the most that check and merge hold, in multiples of the
weights, everything counted (tracemalloc).
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from common import Bar, arguments, model_file, report
from handcar import files
from handcar.modelfile.coding import STEP
from handcar.wire import coded, compiled, frames
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Flat, Layout, TensorSpec

WIDTH, QUICK_WIDTH = 3120, 1560
"""Three such layers are 22 million weights, and 6."""
CROWD, QUICK_CROWD = 64, 16
"""Volunteers that send an update each in a round; a version is of half of them."""
FEW = 8
"""The crowd whose round is looked at for memory."""
STEPS = 100
NEVER = 1 << 62


def network(width: int) -> Layout:
    """Return the layout of a dense network for pictures of 28 x 28."""
    sizes = [784, width, width, width, 10]
    tensors = []
    for number, (inputs, units) in enumerate(zip(sizes, sizes[1:], strict=False)):
        tensors += [
            TensorSpec(f"dense_{number}/kernel", (inputs, units)),
            TensorSpec(f"dense_{number}/bias", (units,)),
        ]
    return Layout(tuple(tensors))


def change(layout: Layout, seed: int) -> Flat:
    """Return a difference: units and inputs differ in how busy they are, as trained ones do."""
    rng = np.random.default_rng(seed)
    arrays = []
    for tensor in layout.tensors:
        drawn = rng.standard_normal(tensor.shape, dtype=np.float32)
        for axis, size in enumerate(tensor.shape):
            busy = rng.lognormal(0, 0.7, size).astype(np.float32)
            drawn *= np.expand_dims(busy, tuple(n for n in range(drawn.ndim) if n != axis))
        arrays.append(1e-3 * rng.lognormal() * drawn)
    return layout.flatten(arrays)


def another(drawn: Flat, layout: Layout, seed: int) -> Flat:
    """Return a difference as large that leads elsewhere: signs by unit and input anew."""
    rng = np.random.default_rng(seed)
    made = drawn.copy()
    for view in layout.views(made):
        for axis, size in enumerate(view.shape):
            signs = rng.choice(np.array([-1, 1], np.float32), size)
            others = tuple(n for n in range(view.ndim) if n != axis)
            np.multiply(view, np.expand_dims(signs, others), out=view)
    return made


def seconds(work: Callable[[], object], times: int = 9) -> float:
    """Return the median processor time of some runs."""
    took = []
    for _ in range(times):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return statistics.median(took)


@contextmanager
def loops(are_compiled: bool) -> Iterator[None]:
    """Work with the compiled loops or without them."""
    usual, compiled.FROM = compiled.FROM, compiled.FROM if are_compiled else NEVER
    try:
        yield
    finally:
        compiled.FROM = usual


@dataclass
class Took:
    """Processor seconds of a round's updates."""

    checks: float = 0.0
    merges: float = 0.0
    updates: int = 0
    versions: int = 0

    def step(self, now: datetime) -> bool:
        """Do what the worker does next, and say whether there was anything."""
        from handcar.server.rounds import checks, merges

        for name, work in (
            ("merges", lambda: merges.merge_one(now)),
            ("checks", lambda: checks.check_one(now)),
        ):
            began = time.process_time()
            done = work()
            setattr(self, name, getattr(self, name) + time.process_time() - began)
            if done:
                return True
        return False

    @property
    def rate(self) -> float:
        """Updates a second."""
        return self.updates / (self.checks + self.merges)


class Server:
    """A server whose worker is in this process."""

    def __init__(self, folder: Path, width: int) -> None:
        from handcar.server import setup

        home = setup.prepare(folder)
        setup.first_start(home)
        self.layout = network(width)
        self.drawn = change(self.layout, 0)
        self.model = self._published(width)
        self.seed = 0
        self.ahead = timedelta()
        """Hours pass between rounds, so that what is left of one need not wait for the next."""

    def _published(self, width: int) -> Any:
        from django.utils import timezone

        from handcar.protocol.messages import PublishRequest
        from handcar.server.accounts.models import Owner
        from handcar.server.catalog import services as catalog
        from handcar.server.rounds import series

        dense = [{"layer": "Dense", "units": width, "activation": "relu"}] * 3
        written = model_file(dataset={"name": "pictures"}, layers=[{"layer": "Flatten"}, *dense])
        written["layers"].append({"layer": "Dense", "units": 10, "activation": "softmax"})
        record = {
            "sha256": files.digest(b""),
            "size": 1,
            "records": 1,
            "file_name": "0.chunk",
            "codec": "raw",
            "split": "train",
            "urls": ["https://example.org/0.chunk"],
        }
        manifest = {"name": "pictures", "description": "", "chunks": [record]}
        asked = PublishRequest.model_validate(
            {"model_file": json.dumps(written), "manifest": manifest}
        )
        model, _ = catalog.publish(Owner.objects.get(), asked)
        series.first_version(model, self.drawn, timezone.now()).save()
        catalog.move(model.pk, "pending")
        model.refresh_from_db()
        return model

    def receive(self, crowd: int) -> None:
        """Let a round of updates come in, from as many volunteers."""
        from handcar.server.rounds import series

        base = series.newest(self.model.pk).number
        for _ in range(crowd):
            self.seed += 1
            facts = FrameFacts("update", self.model.pk, base)
            wanted = another(self.drawn, self.layout, self.seed)
            self._receive(frames.encode_difference(facts, wanted, self.layout, k=STEP), base)

    def _receive(self, frame: bytes, base: int) -> None:
        from handcar.protocol.messages import JoinRequest, UpdateAnnouncement
        from handcar.server import blobs
        from handcar.server.accounts import services as accounts
        from handcar.server.accounts.models import Volunteer
        from handcar.server.rounds import services

        joined = accounts.join(JoinRequest(name=f"v{self.seed}", client_version="1"))
        told = UpdateAnnouncement(
            id=uuid.uuid4(),
            model_id=self.model.pk,
            base_version=base,
            seed=self.seed,
            steps=STEPS,
            records=STEPS,
            seconds=60.0,
            size=len(frame),
            sha256=blobs.put(frame),
            loss=1.0,
        )
        update = services.announce(Volunteer.objects.get(id=joined.volunteer_id), told, self.now())
        services.settle(update, self.now())

    def now(self) -> datetime:
        """Return the server's time."""
        from django.utils import timezone

        return timezone.now() + self.ahead

    def work(self) -> Took:
        """Do what the worker does until nothing is left; return what it took."""
        from handcar.server.rounds import series
        from handcar.server.rounds.models import Update

        took, before = Took(), series.newest(self.model.pk).number
        merged = Update.objects.filter(state="merged").count()
        for _ in range(2):
            while took.step(self.now()):
                pass
            self.ahead += timedelta(hours=2)
        took.updates = Update.objects.filter(state="merged").count() - merged
        took.versions = series.newest(self.model.pk).number - before
        return took

    def measured(self, crowd: int, *, are_compiled: bool) -> Took:
        """Return what a round took, the second one: the first fills what is remembered."""
        self.receive(crowd)
        with loops(are_compiled):
            return self.work()

    def peak(self) -> float:
        """Return the most memory of a round, in multiples of the weights."""
        self.receive(FEW)
        tracemalloc.start()
        self.work()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most / self.drawn.nbytes

    def added(self) -> tuple[float, float]:
        """Return the seconds to add a decoded update to a merge, and to copy as large a vector."""
        facts = FrameFacts("update", "large", 1)
        frame = frames.encode_difference(facts, self.drawn, self.layout, k=STEP)
        decoded = frames.decode_coded(frame, self.layout)[1]
        total, place = np.zeros_like(self.drawn), np.empty_like(self.drawn)
        add = seconds(lambda: coded.add(total, [(decoded, np.float32(0.1))]))
        return add, seconds(lambda: np.copyto(place, self.drawn))


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    ways = {"NumPy": False} | ({"compiled": True} if compiled.kernels(NEVER) else {})
    crowd = QUICK_CROWD if wanted.quick else CROWD
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), QUICK_WIDTH if wanted.quick else WIDTH)
        server.measured(FEW, are_compiled=True)
        took = {name: server.measured(crowd, are_compiled=way) for name, way in ways.items()}
        memory = server.peak()
        add, copy = server.added()
    best = list(took.values())[-1]
    report(
        wanted,
        f"Checking and merging updates of {server.layout.size:,} weights, ms of a core for each",
        ("loops", "updates", "a check", "a version", "of", "all", "a second"),
        [
            (
                name,
                one.updates,
                1e3 * one.checks / one.updates,
                1e3 * one.merges / one.versions,
                one.updates / one.versions,
                1e3 / one.rate,
                one.rate,
            )
            for name, one in took.items()
        ],
        [
            Bar("merge.updates_per_s", best.rate, "a second and core"),
            Bar("merge.vs_copy", add / copy, "copies"),
            Bar("merge.memory", memory, "times the weights"),
        ],
    )


if __name__ == "__main__":
    main()
