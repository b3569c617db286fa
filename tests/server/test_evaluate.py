import numpy as np
import pytest

from handcar.data import chunks
from handcar.server.catalog.models import TrainingModel
from handcar.server.rounds import checks, evaluate, evaluation, series
from handcar.server.rounds.models import Version
from handcar.wire.layout import weights_digest
from server_api import chunk, newest, update_frame, work


@pytest.fixture
def digits(server):
    """Publish a model with real chunks."""
    rng = np.random.default_rng(0)
    entries = []
    for split in ("train", "validation", "validation"):
        x = rng.normal(size=(100, 4)).astype(np.float32)
        data = chunks.encode({"x": x, "y": (x[:, 0] > 0).astype(np.int32)})
        server.store(data)
        entries.append(chunk(data, split=split))
    reply = server.publish(chunks=entries)
    assert reply.status_code == 201, reply.content
    return server


def test_a_new_model_gets_its_first_version_and_waits_for_volunteers(digits):
    assert evaluation.waits()
    assert evaluate.evaluate_once()
    model = TrainingModel.objects.get()
    assert model.state == "pending"
    version = newest(model)
    assert version.number == 0
    weights = series.raw(version.published_digest)
    assert weights_digest(weights) == version.weights_sha256
    assert weights.size == model.weights


def test_the_first_weights_of_a_model_file_are_always_the_same(digits):
    model = TrainingModel.objects.get()
    first, second = (evaluate._first_version(model).weights_sha256 for _ in range(2))
    assert first == second


def test_versions_are_measured_on_the_validation_chunks(digits):
    while evaluate.evaluate_once():
        pass
    version = newest(TrainingModel.objects.get())
    assert version.evaluated_at is not None
    assert 0.0 < version.loss < 20.0
    assert 0.0 <= version.accuracy <= 1.0
    assert not evaluation.waits()
    row = digits.ask("GET", "/list").json()[0]
    assert (row["loss"], row["accuracy"]) == (version.loss, version.accuracy)


def test_only_the_newest_version_is_measured(digits, monkeypatch):
    monkeypatch.setattr(checks, "_wants_gate", lambda *args, **named: False)
    evaluate.evaluate_once()
    model = TrainingModel.objects.get()
    ann = digits.join()
    for number in range(2):
        digits.deliver(ann, update_frame(model, base=number, seed=number), base_version=number)
        work()
    while evaluate.evaluate_once():
        pass
    measured = Version.objects.filter(evaluated_at__isnull=False)
    assert list(measured.values_list("number", flat=True)) == [2]


def test_the_measure_is_that_of_all_records_at_once(digits):
    while evaluate.evaluate_once():
        pass
    from handcar.modelfile import build
    from handcar.server import blobs
    from handcar.server.catalog import modelfiles
    from handcar.server.catalog.models import Chunk

    model = TrainingModel.objects.get()
    layout = modelfiles.layout(model.model_file)
    network = build.build(modelfiles.parsed(model.model_file), seed=1)
    build.set_weights(network, layout, series.raw(newest(model).published_digest))
    parts = [
        chunks.decode(blobs.read(row.digest)) for row in Chunk.objects.filter(split="validation")
    ]
    x = np.concatenate([part["x"] for part in parts])
    y = np.concatenate([part["y"] for part in parts])
    whole = network.evaluate(x, y, verbose=0, return_dict=True)
    assert newest(model).loss == pytest.approx(whole["loss"], rel=1e-4)


def test_without_validation_chunks_there_is_nothing_to_measure(server):
    server.store(b"only to train on")
    server.publish(chunks=[chunk(b"only to train on")])
    assert evaluate.evaluate_once()
    assert not evaluation.waits()
    assert newest(TrainingModel.objects.get()).loss is None


def test_a_model_that_can_not_be_built_fails_with_the_reason(digits, monkeypatch):
    from handcar.modelfile import build

    def refuse(*args, **kwargs):
        raise ValueError("this can't be")

    monkeypatch.setattr(build, "build", refuse)
    assert evaluate.evaluate_once()
    status = digits.ask("GET", "/models/digits").json()
    assert status["state"] == "failed"
    assert "this can't be" in status["failure"]


def test_a_model_that_kills_its_process_is_given_up(digits):
    TrainingModel.objects.update(prepare_attempts=evaluation.ATTEMPTS)
    assert evaluate.evaluate_once()
    assert TrainingModel.objects.get().state == "failed"


def test_damaged_validation_chunks_do_not_hold_up_the_others(server):
    entries = []
    for data, split in ((b"no chunk", "validation"), (b"to train on", "train")):
        server.store(data)
        entries.append(chunk(data, split=split))
    server.publish(chunks=entries)
    assert evaluate.evaluate_once()
    for _ in range(evaluation.ATTEMPTS):
        evaluate.evaluate_once()
    assert not evaluation.waits()
    assert TrainingModel.objects.get().state == "pending"
