from datetime import timedelta

import numpy as np
import pytest

from handcar.server import blobs
from handcar.server.rounds import series, services
from handcar.server.rounds.models import Version
from handcar.wire import frames
from handcar.wire.layout import weights_digest
from server_api import ROOT, later, layout_of, newest, update_frame, work

WIDE = [
    {"layer": "Dense", "units": 300, "activation": "relu"},
    {"layer": "Dense", "units": 3, "activation": "softmax"},
]


def train(server, model, rounds, *, start=0):
    """Let one volunteer make versions; return the bytes of every frame as it came out."""
    ann = server.join()
    seen = {}
    for number in range(start, start + rounds):
        server.deliver(ann, update_frame(model, base=number, seed=number), base_version=number)
        work()
        version = newest(model)
        seen[version.number] = blobs.read(version.delta_digest)
    return seen


def test_every_version_follows_from_the_first_bit_for_bit(server):
    model = server.model()
    keyframe = blobs.read(newest(model).keyframe_digest)
    deltas = train(server, model, 12)
    layout = layout_of(model)
    facts, weights = frames.decode_keyframe(keyframe, layout)
    assert weights_digest(weights) == facts.weights_sha256
    for number, data in sorted(deltas.items()):
        facts, weights = frames.lead(data, weights, layout)
        digest = Version.objects.get(number=number).weights_sha256
        assert (facts.version, facts.weights_sha256) == (number, digest)
        assert weights_digest(weights) == digest


def test_the_published_weights_follow_the_exact_ones(server):
    model = server.model(layers=WIDE)
    first = series.raw(newest(model).master_digest)
    train(server, model, 15)
    master = series.raw(newest(model).master_digest)
    published = series.raw(newest(model).published_digest)
    behind = np.linalg.norm(master - published)
    assert 0 < behind < np.linalg.norm(master - first)


def test_a_newcomer_gets_the_newest_keyframe_and_what_follows(server):
    model = server.model(layers=WIDE)
    train(server, model, 5)
    body = series.of("digits", ROOT)
    layout = layout_of(model)
    weights = frames.decode_keyframe(blobs.read(body.keyframe.sha256), layout)[1]
    for delta in body.deltas:
        if delta.version > body.keyframe.version:
            weights = frames.lead(blobs.read(delta.sha256), weights, layout)[1]
    assert weights_digest(weights) == newest(model).weights_sha256
    assert body.newest == 5
    reply = server.ask("GET", "/series/digits").json()
    assert reply["keyframe"]["url"].startswith("http://testserver/api/v1/files/")


def test_a_keyframe_is_made_when_deltas_cost_more_than_half_of_one(server):
    model = server.model(layers=WIDE)
    size = newest(model).keyframe_size
    train(server, model, 12)
    made = list(
        Version.objects.filter(keyframe_size__isnull=False).values_list("number", flat=True)
    )
    assert len(made) > 1
    deltas = dict(Version.objects.values_list("number", "delta_size"))
    between = range(made[0] + 1, made[1] + 1)
    assert sum(deltas[number] for number in between) > size / 2
    # The digest of what it leads to makes a delta longer after its size was looked at.
    assert sum(deltas[number] for number in between[:-1]) <= size / 2 + 100


def test_a_keyframe_is_made_after_twenty_deltas_at_the_latest(server, monkeypatch):
    monkeypatch.setattr(series, "DELTAS_SHARE", 1e9)
    model = server.model()
    train(server, model, 21)
    made = Version.objects.filter(keyframe_size__isnull=False).values_list("number", flat=True)
    assert list(made) == [0, 20]


def test_what_nobody_needs_is_let_go(server, monkeypatch):
    monkeypatch.setattr(series, "DELTAS_SHARE", 1e9)
    monkeypatch.setattr(series, "DELTAS_MOST", 3)
    monkeypatch.setattr(series, "FRAMES_KEPT", timedelta(0))
    model = server.model()
    train(server, model, 10)
    kept = {
        field: list(
            Version.objects.filter(**{f"{field}__isnull": False}).values_list("number", flat=True)
        )
        for field in series.DIGESTS
    }
    assert kept["master_digest"] == kept["published_digest"] == [9, 10]
    assert kept["keyframe_digest"] == [6, 9]
    assert kept["delta_digest"] == [7, 8, 9, 10]
    named = {
        value
        for row in Version.objects.values(*series.DIGESTS)
        for value in row.values()
        if value is not None
    }
    on_disk = {blobs.PREFIX + path.name for path in server.home.blobs.glob("*/*")}
    chunks_and_model = 3 + 1
    assert len(on_disk) == len(named) + chunks_and_model + services.MERGED_KEPT
    assert named <= on_disk


def test_a_frame_that_is_no_longer_listed_can_still_be_fetched_for_a_while(server, monkeypatch):
    monkeypatch.setattr(series, "DELTAS_SHARE", 1e9)
    monkeypatch.setattr(series, "DELTAS_MOST", 2)
    model = server.model()
    train(server, model, 3)
    told = server.ask("GET", "/series/digits").json()
    assert [delta["version"] for delta in told["deltas"]] == [1, 2, 3]
    train(server, model, 5, start=3)
    listed = server.ask("GET", "/series/digits").json()
    assert [delta["version"] for delta in listed["deltas"]] == [7, 8]
    for frame in [told["keyframe"], *told["deltas"]]:
        assert server.ask("GET", frame["url"]).status_code == 200
    late = series.timezone.now() + series.FRAMES_KEPT
    monkeypatch.setattr(series.timezone, "now", lambda: late + timedelta(seconds=1))
    series.prune(model)
    assert server.ask("GET", told["deltas"][0]["url"]).status_code == 404


@pytest.mark.parametrize("number", [None, 0, 2, 5])
def test_any_version_that_is_kept_can_be_exported(server, monkeypatch, number):
    monkeypatch.setattr(series, "DELTAS_SHARE", 1e9)
    model = server.model()
    train(server, model, 5)
    query = "" if number is None else f"?version={number}"
    reply = server.ask("GET", f"/models/digits/export{query}", token=server.owner).json()
    expected = 5 if number is None else number
    assert reply["version"] == expected
    data = b"".join(server.ask("GET", reply["weights"]["url"]).streaming_content)
    facts, weights = frames.decode_keyframe(data, layout_of(model))
    row = Version.objects.get(number=expected)
    assert weights_digest(weights) == facts.weights_sha256 == row.weights_sha256
    assert reply["configuration"]["sha256"] == model.model_file_digest


def test_an_export_takes_no_part_in_the_series(server):
    model = server.model()
    train(server, model, 2)
    before = series.of("digits", ROOT)
    server.ask("GET", "/models/digits/export", token=server.owner)
    assert series.of("digits", ROOT) == before


def test_a_version_whose_frames_are_gone_can_not_be_exported(server, monkeypatch):
    monkeypatch.setattr(series, "DELTAS_SHARE", 1e9)
    monkeypatch.setattr(series, "DELTAS_MOST", 2)
    monkeypatch.setattr(series, "FRAMES_KEPT", timedelta(0))
    model = server.model()
    train(server, model, 8)
    path = "/models/digits/export?version="
    assert server.ask("GET", path + "1", token=server.owner).status_code == 410
    assert server.ask("GET", path + "99", token=server.owner).status_code == 404
    assert server.ask("GET", path + "x", token=server.owner).status_code == 400


def test_an_export_is_let_go_after_a_day(server, monkeypatch):
    monkeypatch.setattr(series, "DELTAS_SHARE", 1e9)
    model = server.model()
    train(server, model, 1)
    server.ask("GET", "/models/digits/export", token=server.owner)
    digest = newest(model).export_digest
    monkeypatch.setattr(series.timezone, "now", lambda: later(25 * 3600))
    series.prune(model)
    assert not blobs.present(digest)
