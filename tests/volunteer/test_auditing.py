"""A round of another volunteer is trained again, between two rounds that stay as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from test_training import LAYERS, Run, model_bytes, move_at_once, moving

from handcar import files
from handcar.data import chunks as codec
from handcar.data import draws
from handcar.data.blocks import BlockStore
from handcar.errors import RecipeError
from handcar.merging import audit as comparing
from handcar.merging.sketch import sketch
from handcar.protocol.messages import (
    AuditTask,
    ChunkLink,
    DrawnChunk,
    Frame,
    Link,
    SentUpdate,
    Series,
    Start,
)
from handcar.volunteer import auditing
from handcar.volunteer.rounds import Errand, Inbox
from handcar.wire import frames

KEY = "ab" * 16
DIGEST = "sha256:" + "0" * 64
NORMALISED = {"layer": "BatchNormalization"}


def asked_of(run: Run) -> AuditTask:
    """What a server would ask about the last round that a volunteer made."""
    known = {one.id: one for one in run.made}
    rounds = tuple(known[id] for id in (*run.made[-1].recipe.after, run.made[-1].id))
    carried = {id for one in rounds for start in one.starts() for id in start.carried}
    told = carried | {one.id for one in rounds[:-1]}
    frame = Frame(
        url="http://server/key",
        sha256=DIGEST,
        size=10,
        version=0,
        kind="keyframe",
        weights_sha256=DIGEST,
    )
    return AuditTask(
        model_id="small",
        seconds_left=600,
        key=KEY,
        rounds=rounds,
        series=Series(model_id="small", newest=0, keyframe=frame),
        updates=tuple(
            SentUpdate(id=id, sha256=known[id].sha256, size=known[id].size) for id in told
        ),
    )


def sent(run: Run, id: UUID) -> np.ndarray:
    return frames.decode_difference((run.folder / "sent" / str(id)).read_bytes(), run.layout)[1]


def errand_of(run: Run, asked: AuditTask) -> Errand:
    """What the training thread of another machine is given to do."""
    names = {draws.short(digest): digest for digest in run.digests}
    parts = auditing._Parts(
        run.versions,
        {one.id: sent(run, one.id) for one in asked.updates},
        lambda name: run.store.open(names[name]),
    )
    return Errand(lambda network, expect: auditing._train(network, asked, run, parts, expect))


@pytest.fixture(scope="module")
def ned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three rounds, of which none is merged: the last one carries two."""
    return Run(tmp_path_factory.mktemp("ned"), merges=False).train(3)


def trained_again(folder: Path, errand: Errand, raw: bytes | None = None) -> Run:
    """Let a volunteer train two rounds, and the errand between them."""
    tess = Run(folder, **({} if raw is None else {"raw": raw}))
    tess.inbox.give(errand)
    return tess.train(2)


def test_what_an_honest_volunteer_sent_comes_out_again(ned: Run, tmp_path: Path):
    asked = asked_of(ned)
    assert len(asked.rounds) == 3
    assert len(asked.updates) == 2
    errand = errand_of(ned, asked)
    trained_again(tmp_path, errand)
    images = [
        sketch(change, ned.layout, bytes.fromhex(KEY))
        for change in (sent(ned, ned.made[-1].id), errand.done.result(0))
    ]
    assert comparing.compare_images(*images).cosine > 0.99
    assert comparing.compare_images(*images).passed


def test_a_round_that_took_up_versions_comes_out_again(tmp_path: Path, monkeypatch):
    move_at_once(monkeypatch)
    ned = moving(tmp_path / "ned").train(2)
    assert [len(one.starts()) for one in ned.made] == [3, 3]
    errand = errand_of(ned, asked_of(ned))
    trained_again(tmp_path / "tess", errand)
    change = comparing.compare(sent(ned, ned.made[-1].id), errand.done.result(0), ned.layout)
    assert change.cosine > 0.99


def test_an_earlier_start_that_the_server_does_not_tell_of_ends_the_audit(tmp_path: Path):
    ned = Run(tmp_path / "ned").train(1)
    asked = asked_of(ned)
    lost = Start(base_version=77, steps=5)
    recipe = asked.rounds[-1].recipe.model_copy(update={"earlier_starts": (lost,)})
    rounds = (asked.rounds[-1].model_copy(update={"recipe": recipe}),)
    errand = errand_of(ned, asked.model_copy(update={"rounds": rounds}))
    trained_again(tmp_path / "tess", errand)
    with pytest.raises(auditing.Unable, match="77"):
        errand.done.result(0)


@pytest.mark.parametrize("layers", [LAYERS, [LAYERS[0], NORMALISED, LAYERS[-1]]])
def test_its_own_training_is_untouched_to_the_bit(tmp_path: Path, layers: list[dict]):
    raw = model_bytes(layers)
    ned = Run(tmp_path / "ned", raw=raw).train(2)
    errand = errand_of(ned, asked_of(ned))
    tess = trained_again(tmp_path / "tess", errand, raw)
    assert errand.done.exception(0) is None
    alone = Run(tmp_path / "alone", raw=raw).train(2)
    assert [one.sha256 for one in tess.made] == [one.sha256 for one in alone.made]


def test_what_layers_drew_by_chance_is_drawn_again(tmp_path: Path):
    raw = model_bytes([LAYERS[0], {"layer": "Dropout", "rate": 0.3}, LAYERS[-1]])
    ned = Run(tmp_path / "ned", raw=raw).train(2)
    errand = errand_of(ned, asked_of(ned))
    trained_again(tmp_path / "tess", errand, raw)
    change = comparing.compare(sent(ned, ned.made[-1].id), errand.done.result(0), ned.layout)
    assert change.cosine > 0.99


def test_a_recipe_that_can_not_be_ends_the_audit_and_not_the_training(ned: Run, tmp_path: Path):
    asked = asked_of(ned)
    recipe = asked.rounds[-1].recipe
    drawn = recipe.drawn[0].model_copy(update={"steps": 100_000})
    lied = recipe.model_copy(update={"drawn": (drawn,)})
    last = asked.rounds[-1].model_copy(update={"recipe": lied})
    asked = asked.model_copy(update={"rounds": (*asked.rounds[:-1], last)})
    errand = errand_of(ned, asked)
    tess = trained_again(tmp_path, errand)
    with pytest.raises(RecipeError):
        errand.done.result(0)
    assert len(tess.made) == 2


def test_stopping_does_not_wait_for_an_audit(ned: Run, tmp_path: Path):
    errand = errand_of(ned, asked_of(ned))
    tess = Run(tmp_path)
    train, begun = errand.train, threading.Event()

    def stopped(network, expect):
        begun.set()
        tess.inbox.stop.set()
        return train(network, expect)

    tess.inbox.give(Errand(stopped, errand.done))
    tess.train(0)
    assert begun.is_set()
    with pytest.raises(Exception, match="to end"):
        errand.done.result(0)


# -- what it takes -------------------------------------------------------------------------------


class Machine:
    """A volunteer's folder, and the chunks that can be fetched to it."""

    def __init__(self, folder: Path, chunks: int) -> None:
        store, rng = BlockStore(folder / "blocks"), np.random.default_rng(0)
        self.folder, self.store = folder, store
        self.data: dict[str, bytes] = {}
        for _ in range(chunks):
            x = rng.normal(size=(20, 4)).astype(np.float32)
            data = codec.encode({"x": x, "y": np.zeros(20, np.uint8)})
            self.data[files.digest(data)] = data
        self.links = {digest: self.link(digest) for digest in self.data}
        self.came: list[str] = []
        self.auditor = auditing.Auditor(
            None, store, Inbox(), fetch=self.fetch, came=self.came.append
        )

    def link(self, digest: str) -> ChunkLink:
        return ChunkLink(
            url="http://server/chunk",
            sha256=digest,
            size=len(self.data[digest]),
            file_name="a.chunk",
            dataset_name="d",
            records=20,
            codec="columns",
        )

    def fetch(self, link: Link, name: str) -> Path:
        path = self.folder / f"{name}.part"
        path.write_bytes(self.data[link.sha256])
        return path

    def asked(self, ned: Run, names: Iterable[str]) -> AuditTask:
        asked = asked_of(ned)
        chunks = tuple(DrawnChunk(chunk=name, opening=0, draw=0) for name in names)
        recipe = asked.rounds[-1].recipe
        drawn = recipe.drawn[0].model_copy(update={"chunks": chunks})
        told = recipe.model_copy(update={"drawn": (drawn,)})
        last = asked.rounds[-1].model_copy(update={"recipe": told})
        return asked.model_copy(update={"rounds": (last,)})


def test_a_few_chunks_that_are_not_here_are_fetched_and_stay(ned: Run, tmp_path: Path):
    machine = Machine(tmp_path, 3)
    first, *others = machine.data
    machine.store.add(first, machine.data[first])
    asked = machine.asked(ned, map(draws.short, machine.data))
    known = machine.auditor._chunks(asked, machine.links)
    assert sorted(known.values()) == machine.store.digests() == sorted(machine.data)
    assert sorted(machine.came) == sorted(others)


def test_many_chunks_that_are_not_here_are_not_fetched(ned: Run, tmp_path: Path):
    machine = Machine(tmp_path, auditing.CHUNKS_FETCHED + 1)
    asked = machine.asked(ned, map(draws.short, machine.data))
    with pytest.raises(auditing.Unable, match="5 chunks"):
        machine.auditor._chunks(asked, machine.links)
    assert machine.store.digests() == []


def test_a_chunk_of_another_data_set_can_not_have_been_drawn(ned: Run, tmp_path: Path):
    machine = Machine(tmp_path, 1)
    with pytest.raises(RecipeError, match="no chunk"):
        machine.auditor._chunks(machine.asked(ned, ["0" * 16]), machine.links)


def test_no_audit_is_waited_for_longer_than_the_server_waits(tmp_path: Path):
    machine = Machine(tmp_path, 1)
    errand = Errand(lambda network, expect: np.zeros(1, np.float32))
    with pytest.raises(auditing.Unable, match="in time"):
        machine.auditor._wait(errand, 0.0)
    assert errand.done.cancelled()
