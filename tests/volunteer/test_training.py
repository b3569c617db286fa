"""Rounds of the training thread, and that who has a round's recipe can train it again."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import keras
import numpy as np
import pytest

import replaying
from handcar import files
from handcar.data import chunks
from handcar.data.blocks import BlockStore
from handcar.data.order import Sampler
from handcar.modelfile import build
from handcar.modelfile.check import check
from handcar.modelfile.shapes import infer
from handcar.protocol import limits
from handcar.protocol.messages import RoundLimits, UpdateAnnouncement
from handcar.volunteer import budget as budgets
from handcar.volunteer import checkpoint, training
from handcar.volunteer.budget import RoundBudget
from handcar.volunteer.folder import Task
from handcar.volunteer.journal import Journal
from handcar.volunteer.rounds import Inbox, Rounds
from handcar.volunteer.schedule import Schedule
from handcar.volunteer.training import Plan, Training
from handcar.wire import frames
from handcar.wire.layout import Layout, TensorSpec

STEPS = 60
LAYERS = [
    {"layer": "Dense", "units": 64, "activation": "relu"},
    {"layer": "LayerNormalization"},
    {"layer": "Dense", "units": 32, "activation": "relu"},
    {"layer": "Dense", "units": 5},
]


def model_bytes(layers: list[dict[str, object]] = LAYERS, **more: object) -> bytes:
    return json.dumps(
        {
            "name": "small",
            "dataset": {"name": "d", "file": "d.npz"},
            "input": {"shape": [20]},
            "layers": layers,
            "loss": {"name": "SparseCategoricalCrossentropy", "from_logits": True},
            "optimizer": {"name": "Adam", "learning_rate": 0.003},
            "batch_size": 16,
        }
        | more
    ).encode()


def store_of(folder: Path, *, labels: Callable[[np.ndarray], np.ndarray] = lambda y: y):
    """Return three chunks of records of five kinds."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(5, 20))
    store, digests = BlockStore(folder), []
    for _ in range(3):
        y = rng.integers(0, 5, 500)
        x = (kinds[y] + rng.normal(0, 1.5, (500, 20))).astype(np.float32)
        chunk = chunks.encode({"x": x, "y": labels(y).astype(np.uint8)})
        digests.append(files.digest(chunk))
        store.add(digests[-1], chunk)
    return store, digests


@dataclass
class Run:
    """A volunteer that trains by itself, in `folder`; each update is merged at once."""

    folder: Path
    raw: bytes = field(default_factory=model_bytes)
    labels: Callable[[np.ndarray], np.ndarray] = lambda y: y
    steps: int = STEPS
    starts: str = "carried"
    merges: bool = True
    longest_steps: int | None = None
    said: RoundLimits = field(default_factory=RoundLimits)
    ends: list[str | None] = field(default_factory=list)
    on_step: Callable[[Any], None] = lambda network: None

    def __post_init__(self) -> None:
        self.model_file = check(self.raw)
        self.layout = infer(self.model_file).layout
        self.store, self.digests = store_of(self.folder / "blocks", labels=self.labels)
        (self.folder / "model.json").write_bytes(self.raw)
        self.task = Task(self.folder)
        self.journal = Journal(self.task.journal)
        self.schedule = Schedule(self.model_file.batch_size)
        self.schedule.hear(0, self.said)
        self.versions = {0: build.get_weights(build.build(self.model_file, seed=3), self.layout)}
        self.made: list[UpdateAnnouncement] = []
        self.merged = 0
        self.begun: list[tuple[int, np.ndarray]] = []
        self.inbox = Inbox()
        np.save(self.folder / "version0.npy", self.versions[0])

    def train(self, rounds: int, on_made: Callable[[UUID], None] | None = None) -> Run:
        known = self.journal.recall(max(self.versions))
        reached = threading.Event()
        sampler = Sampler(self.store.open, batch_size=self.model_file.batch_size, seed=11)
        for digest in self.digests:
            sampler.add(digest)
        (self.folder / "sent").mkdir(exist_ok=True)

        def made(update: UpdateAnnouncement) -> None:
            self.made.append(update)
            data = self.task.update(update.id).read_bytes()
            (self.folder / "sent" / str(update.id)).write_bytes(data)
            if self.merges:
                self.merge(update)
            if on_made:
                on_made(update.id)
            if 0 < rounds <= len(self.made):
                self.inbox.stop.set()
                reached.set()

        plan = Plan(
            task=self.task,
            model_file=self.model_file,
            layout=self.layout,
            budget=RoundBudget(
                max_steps=self.steps,
                max_seconds=600,
                update_step=2.0,
                longest_steps=self.longest_steps,
            ),
            seed=5,
            schedule=self.schedule,
            steps_before=known.steps,
            round_before=known.last_round,
        )
        rounds_of = Rounds(
            self.task,
            model_id="small",
            layout=self.layout,
            base=(max(self.versions), self.versions[max(self.versions)]),
            pending={id: known.announcements[id].records for id in known.pending},
            journal=self.journal,
            update_step=2.0,
            starts=self.starts,
        )
        self.note_changes(rounds_of)
        self.thread = Training(
            plan,
            rounds=rounds_of,
            sampler=sampler,
            inbox=self.inbox,
            made=made,
            say=lambda text: None,
            ended=self.ends.append,
        )
        use = self.thread.use

        def using(now: float) -> None:
            use(now)
            self.on_step(self.thread._network)

        self.thread.use = using
        self.thread.start()
        self.thread.join(240)
        assert reached.is_set() or not rounds, self.ends
        assert self.ends[-1] is None
        return self

    def note_changes(self, rounds: Rounds) -> None:
        """Keep what each round starts from and changes: nobody else ever sees that."""
        begin, finish = rounds.begin, rounds.finish

        def beginning(inbox: Inbox, *, number: int):
            round = begin(inbox, number=number)
            self.begun.append((round.base_version, round.start.copy()))
            return round

        def finishing(round, weights, **more):
            change = frames.difference(weights, round.start, self.layout)
            np.save(self.folder / "change.npy", change)
            return finish(round, weights, **more)

        rounds.begin, rounds.finish = beginning, finishing

    def merge(self, update: UpdateAnnouncement) -> None:
        newest = max(self.versions)
        data = self.task.update(update.id).read_bytes()
        change = frames.decode_difference(data, self.layout)[1]
        self.versions[newest + 1] = frames.apply(change, self.versions[newest], self.layout)
        np.save(self.folder / f"version{newest + 1}.npy", self.versions[newest + 1])
        self.merged += update.records
        said = self.said.model_copy(update={"records_done": self.merged})
        self.schedule.hear(newest + 1, said)
        self.journal.merged(newest + 1, [update.id])
        self.inbox.take_up(newest + 1, self.versions[newest + 1], [update.id])

    def merge_others(self) -> None:
        """Publish a version that holds what somebody else did, and hand it over."""
        newest = max(self.versions)
        rng = np.random.default_rng(newest)
        change = 0.01 * rng.normal(size=self.layout.size).astype(np.float32)
        change[self._statistics()] = 1.0
        self.versions[newest + 1] = frames.apply(change, self.versions[newest], self.layout)
        np.save(self.folder / f"version{newest + 1}.npy", self.versions[newest + 1])
        self.inbox.take_up(newest + 1, self.versions[newest + 1], [])

    def _statistics(self) -> np.ndarray:
        places = [np.arange(one.start, one.stop) for one in self.layout.statistic_slices]
        return np.concatenate([np.empty(0, int), *places])

    def replayed(self, backend: str | None = None, **changed: object) -> dict[str, float]:
        """Train the last round again, in another process if a backend is named."""
        told = [one.model_dump(mode="json") for one in self.made]
        told[-1] |= changed
        (self.folder / "updates.json").write_text(json.dumps(told))
        found = (
            again_elsewhere(self.folder, backend) if backend else replaying.replayed(self.folder)
        )
        print(backend, found)
        return found


def again_elsewhere(folder: Path, backend: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, replaying.__file__, folder],
        env=os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


AUDITED = 0.85
"""The cosine from which on merging's audit takes a round for the one that was trained again."""
needs_jax = pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="needs JAX")


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Run:
    rate = {"name": "CosineDecay", "initial_learning_rate": 0.002, "decay_steps": 300}
    raw = model_bytes(optimizer={"name": "Adam", "learning_rate": rate})
    said = RoundLimits(records_done=0, rate_factor=1.5)
    return Run(tmp_path_factory.mktemp("honest"), raw=raw, said=said).train(3)


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=needs_jax)])
def test_an_honest_round_is_trained_again_elsewhere(honest: Run, backend: str):
    found = honest.replayed(backend)
    assert found["rounds"] == 3, "the optimizer remembers the rounds before"
    assert found["exact"] >= 0.99
    assert found["exact_norm"] == pytest.approx(1, abs=0.05)
    assert found["sent"] >= AUDITED
    assert found["sent_norm"] == pytest.approx(1, abs=0.2)


def test_a_recipe_takes_some_hundred_bytes(honest: Run):
    assert len(honest.made[-1].recipe.model_dump_json()) < 800


def test_a_round_of_half_the_steps_is_not_what_was_claimed(honest: Run):
    recipe = honest.made[-1].recipe.model_dump(mode="json")
    recipe["drawn"][0]["steps"] //= 2
    found = honest.replayed(recipe=recipe)
    assert found["sent"] < AUDITED


def test_a_round_on_wrong_labels_is_not_what_was_claimed(tmp_path: Path):
    liar = Run(tmp_path, labels=lambda y: (y + 1) % 5).train(1)
    honest, digests = store_of(tmp_path / "honest")
    for name, digest in zip(liar.digests, digests, strict=True):
        # Under the digests that the recipe names, the labels that the owner published.
        y = tmp_path / "blocks" / name.removeprefix("sha256:") / "y.npy"
        np.save(y, honest.open(digest).columns["y"])
    assert liar.replayed()["sent"] < AUDITED


def test_layers_that_draw_by_chance_draw_the_same_again(tmp_path: Path):
    layers = [LAYERS[0], {"layer": "Dropout", "rate": 0.5}, *LAYERS[2:]]
    run = Run(tmp_path, raw=model_bytes(layers)).train(2)
    assert run.replayed()["sent"] >= 0.99
    assert run.replayed(seed=run.made[-1].seed + 1)["sent"] < 0.99


def restarted(run: Run, *, after: int, rounds: int) -> Run:
    """Stop a volunteer after some steps, and let it make rounds when it runs again."""
    on_step, made = run.on_step, itertools.count(1)

    def stop(network: object) -> None:
        on_step(network)
        if next(made) == after:
            run.inbox.stop.set()

    run.on_step = stop
    run.train(0)
    run.inbox = Inbox()
    return run.train(rounds)


def test_a_round_that_a_restart_interrupted_is_trained_again(tmp_path: Path):
    layers = [LAYERS[0], {"layer": "Dropout", "rate": 0.2}, *LAYERS[2:]]
    run = Run(tmp_path, raw=model_bytes(layers)).train(2)
    assert checkpoint.load(run.task.checkpoint, run.layout.size).round.steps == 0
    run.inbox = Inbox()
    restarted(run, after=25, rounds=3)
    last = run.made[-1]
    assert [part.steps for part in last.recipe.drawn] == [25, STEPS - 25]
    assert len(last.recipe.after) == 2
    assert run.replayed()["sent"] >= 0.99


def moving(folder: Path, raw: bytes = model_bytes(), *, at: tuple[int, ...] = (20, 45)) -> Run:
    """Return a volunteer to whom versions by others come in the middle of its rounds."""
    run, steps = Run(folder, raw=raw), itertools.count(1)

    def others_are_merged(network: object) -> None:
        if next(steps) % STEPS in at:
            run.merge_others()

    run.on_step = others_are_merged
    return run


def move_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MOVES_SHARE", 0)
    monkeypatch.setattr(training, "ENOUGH_MOVES_S", np.inf)


NOISY = [LAYERS[0], {"layer": "BatchNormalization"}, {"layer": "Dropout", "rate": 0.3}, LAYERS[3]]


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=needs_jax)])
def test_a_round_that_took_up_versions_is_trained_again(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
):
    move_at_once(monkeypatch)
    layers = NOISY if backend == "tensorflow" else LAYERS
    run = moving(tmp_path, model_bytes(layers)).train(3)
    starts = run.made[-1].starts()
    assert [one.steps for one in starts] == [20, 25, 15]
    assert [one.base_version for one in starts] == [6, 7, 8]
    found = run.replayed(backend)
    assert found["rounds"] == 3
    assert found["exact"] >= (0.99999 if backend == "tensorflow" else 0.99)
    assert found["sent"] >= AUDITED
    if backend == "tensorflow":
        recipe = run.made[-1].recipe.model_dump(mode="json")
        recipe["earlier_starts"][0]["base_version"] = 0
        assert run.replayed(recipe=recipe)["exact"] < 0.999, "the starts are looked at"


def test_a_round_that_took_up_a_version_and_was_restarted_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    move_at_once(monkeypatch)
    run = restarted(moving(tmp_path, model_bytes(NOISY), at=(10, 40)), after=25, rounds=1)
    last = run.made[-1]
    assert [part.steps for part in last.recipe.drawn] == [25, STEPS - 25]
    assert [one.steps for one in last.starts()] == [10, 30, 20]
    assert run.replayed()["exact"] >= 0.99999


def test_a_long_round_takes_versions_up_all_along(tmp_path: Path):
    def never(text: object) -> None:
        raise AssertionError(text)

    task, layout = Task(tmp_path), Layout((TensorSpec("kernel", (3,)),))
    rounds = Rounds(
        task,
        model_id="small",
        layout=layout,
        base=(0, np.zeros(3, np.float32)),
        pending={},
        journal=Journal(task.journal),
        update_step=2.0,
    )
    inbox, budget = Inbox(), RoundBudget(10_000, 1700.0, 2.0)
    plan = Plan(task, None, layout, budget, seed=1, schedule=Schedule(16))
    thread = Training(
        plan, rounds=rounds, sampler=None, inbox=inbox, made=never, say=never, ended=never
    )
    thread.progress = training.Progress(steps_per_second=1.0)
    round, moved = rounds.begin(inbox, number=1), []
    for now in range(1700):
        round.steps, round.seconds = now, float(now)
        inbox.take_up(now, np.zeros(3, np.float32), [])
        if now and thread.may_move(round, float(now)):
            rounds.move(round, round.start, inbox)
            thread._started_at = float(now)
            moved.append(now)
    assert len(moved) == limits.RECIPE_STARTS
    assert max(np.diff([0, *moved, 1700])) < 120


@pytest.mark.parametrize("freely", [True, False])
def test_versions_are_not_taken_up_all_the_time(
    tmp_path: Path, freely: bool, monkeypatch: pytest.MonkeyPatch
):
    if freely:
        move_at_once(monkeypatch)
    run = moving(tmp_path, at=tuple(range(STEPS))).train(2)
    starts = len(run.made[-1].starts())
    # Steps of a small model are far shorter than it takes to go on from another version.
    assert starts == limits.RECIPE_STARTS + 1 if freely else starts < limits.RECIPE_STARTS / 2


def test_the_optimizer_begins_afresh_now_and_then(tmp_path: Path):
    run = Run(tmp_path, steps=training.AFRESH_STEPS // 2).train(4)
    ids = [one.id for one in run.made]
    assert [one.recipe.after for one in run.made] == [(), (ids[0],), (), (ids[2],)]


def test_alone_the_rate_is_what_plain_keras_would_have(tmp_path: Path):
    rate = {"name": "CosineDecay", "initial_learning_rate": 0.0, "decay_steps": 200}
    rate |= {"warmup_target": 0.01, "warmup_steps": 50}
    raw = model_bytes(optimizer={"name": "SGD", "learning_rate": rate})
    run = Run(tmp_path, raw=raw, said=RoundLimits(records_done=0))
    rates: list[float] = []
    run.on_step = lambda network: rates.append(network.rate())
    run.train(3)
    plain = keras.optimizers.schedules.CosineDecay(0.0, 200, warmup_target=0.01, warmup_steps=50)
    assert rates == pytest.approx([float(plain(step)) for step in range(1, 3 * STEPS + 1)])


def test_with_others_the_rate_is_where_everyone_is(tmp_path: Path):
    raw = model_bytes(
        optimizer={
            "name": "SGD",
            "learning_rate": {
                "name": "PolynomialDecay",
                "initial_learning_rate": 1.0,
                "decay_steps": 1000,
                "end_learning_rate": 0.0,
            },
        }
    )
    said = RoundLimits(records_done=400 * 16, rate_factor=0.5)
    run = Run(tmp_path, raw=raw, said=said)
    rates: list[float] = []
    run.on_step = lambda network: rates.append(network.rate())
    run.train(1)
    assert rates[9] == pytest.approx(0.5 * (1 - 0.410))


@pytest.mark.parametrize("starts", ["carried", "newest", "waits"])
def test_a_round_starts_from_what_the_merging_rule_says(tmp_path: Path, starts: str):
    run = Run(tmp_path, starts=starts, merges=False)
    merging: list[threading.Timer] = []

    def merge_later(id: UUID) -> None:
        update = next(one for one in run.made if one.id == id)
        merging.append(threading.Timer(0.5, run.merge, (update,)))
        merging[-1].start()

    run.train(2, on_made=merge_later if starts == "waits" else None)
    first, second = run.begun[:2]
    sent = frames.decode_difference(
        (tmp_path / "sent" / str(run.made[0].id)).read_bytes(), run.layout
    )[1]
    merged = frames.apply(sent, first[1], run.layout)
    expected = {"carried": (0, merged), "newest": (0, first[1]), "waits": (1, merged)}[starts]
    assert second[0] == expected[0]
    assert (second[1] == expected[1]).all()
    carried = (run.made[0].id,) if starts == "carried" else ()
    assert run.made[1].carried == carried
    for timer in merging:
        timer.join()


def test_a_round_stands_still_at_its_longest_until_an_update_is_merged(tmp_path: Path):
    run = Run(tmp_path, merges=False, longest_steps=STEPS)
    stood: list[int] = []

    def merge_one_later(id: UUID) -> None:
        if len(run.made) != budgets.AHEAD:
            return

        def merge() -> None:
            stood.append(run.thread.progress.round_steps)
            run.merge(run.made[0])

        threading.Timer(2.0, merge).start()

    run.train(budgets.AHEAD + 1, on_made=merge_one_later)
    assert stood == [STEPS]
    assert [update.steps for update in run.made] == [STEPS] * (budgets.AHEAD + 1)


def test_one_that_waits_for_its_merge_can_be_stopped(tmp_path: Path):
    run = Run(tmp_path, starts="waits", merges=False)
    timer: list[threading.Timer] = []

    def stop_soon(id: UUID) -> None:
        timer.append(threading.Timer(0.5, run.inbox.stop.set))
        timer[0].start()

    run.train(0, on_made=stop_soon)
    assert len(run.made) == 1
