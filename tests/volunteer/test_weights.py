"""Following a version series: the same bits, the fewest bytes, nothing taken on trust."""

from pathlib import Path

import numpy as np
import pytest

from handcar import files
from handcar.errors import FrameError
from handcar.protocol.messages import Frame, Series
from handcar.volunteer.weights import Keeper, cheapest
from handcar.wire import frames
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Layout, TensorSpec, weights_digest

LAYOUT = Layout((TensorSpec("kernel", (50, 40)), TensorSpec("mean", (40,), "statistic")))


class Published:
    """A series as a server would publish it."""

    def __init__(self, versions: int, *, key_at: int = 0) -> None:
        rng = np.random.default_rng(0)
        self.data: dict[str, bytes] = {}
        self.weights = [rng.normal(size=LAYOUT.size).astype(np.float32)]
        deltas = []
        for number in range(1, versions + 1):
            change = rng.laplace(size=LAYOUT.size).astype(np.float32)
            facts = FrameFacts("delta", "m", number)
            data = frames.encode_difference(facts, change, LAYOUT, k=1.0)
            self.weights.append(frames.lead(data, self.weights[-1], LAYOUT)[1])
            deltas.append(self.frame("delta", number, data))
        key = frames.encode_keyframe(FrameFacts("keyframe", "m", key_at), self.weights[key_at])
        self.series = Series(
            model_id="m",
            newest=versions,
            keyframe=self.frame("keyframe", key_at, key),
            deltas=tuple(deltas),
        )

    def frame(self, kind: str, version: int, data: bytes) -> Frame:
        digest = files.digest(data)
        self.data[digest] = data
        return Frame(
            url=f"http://server/{digest}",
            sha256=digest,
            size=len(data),
            version=version,
            kind=kind,
            weights_sha256=weights_digest(self.weights[version]),
        )

    def fetch(self, frame: Frame) -> bytes:
        return self.data[frame.sha256]


def test_a_newcomer_and_a_regular_hold_the_same_bits(tmp_path: Path):
    published = Published(5)
    newcomer, regular = Keeper(tmp_path / "a", LAYOUT), Keeper(tmp_path / "b", LAYOUT)
    for target in (0, 2, 5):
        regular.keep(target, regular.follow(published.series, target, published.fetch))
    newcomer.keep(5, newcomer.follow(published.series, 5, published.fetch))
    assert newcomer.newest()[1].tobytes() == regular.newest()[1].tobytes()
    assert newcomer.newest()[1].tobytes() == published.weights[5].tobytes()


def test_a_restart_finds_the_version_on_disk(tmp_path: Path):
    keeper = Keeper(tmp_path, LAYOUT)
    weights = Published(0).weights[0]
    keeper.keep(6, weights)
    keeper.keep(7, weights + 1)
    again = Keeper(tmp_path, LAYOUT)
    assert again.version == 7
    assert again.newest()[1].tobytes() == (weights + 1).tobytes()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("held", [None, 1, 3, 5])
def test_the_weights_of_several_versions_are_had_from_as_few_frames_as_can_be(
    tmp_path: Path, held: int | None
):
    published, fetched = Published(5), []
    keeper = Keeper(tmp_path, LAYOUT)
    if held is not None:
        keeper.keep(held, published.weights[held])

    def fetch(frame: Frame) -> bytes:
        fetched.append((frame.kind, frame.version))
        return published.fetch(frame)

    found = keeper.several(published.series, {2, 3, 4}, fetch)
    for number, weights in found.items():
        assert weights.tobytes() == published.weights[number].tobytes()
    assert found.keys() == {2, 3, 4}
    assert keeper.version == held
    delta = [("delta", number) for number in range(6)]
    from_key = [("keyframe", 0), delta[1], delta[2]]
    expected = {None: [*from_key, *delta[3:5]], 1: delta[2:5], 3: [*from_key, delta[4]]}
    assert fetched == expected.get(held, expected[None])


def test_weights_damaged_on_disk_are_not_used(tmp_path: Path):
    Keeper(tmp_path, LAYOUT).keep(3, Published(0).weights[0])
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert Keeper(tmp_path, LAYOUT).version is None


def test_the_cheapest_way_is_deltas_for_who_was_away_shortly_and_a_keyframe_else():
    series = Published(30, key_at=28).series
    assert [frame.version for frame in cheapest(series, 30, held=29)] == [30]
    assert [frame.version for frame in cheapest(series, 30, held=3)] == [28, 29, 30]
    assert [frame.version for frame in cheapest(series, 30, held=None)] == [28, 29, 30]


def test_a_series_with_a_hole_is_gone_around_or_refused():
    series = Published(6, key_at=4).series
    holed = series.model_copy(update={"deltas": tuple(d for d in series.deltas if d.version != 3)})
    assert [frame.version for frame in cheapest(holed, 6, held=2)] == [4, 5, 6]
    with pytest.raises(FrameError, match="no longer leads to version 3"):
        cheapest(holed, 3, held=2)


def test_weights_that_do_not_have_the_promised_digest_are_refused(tmp_path: Path):
    published = Published(1)
    lie = published.series.deltas[0].model_copy(update={"weights_sha256": "sha256:" + "0" * 64})
    series = published.series.model_copy(update={"deltas": (lie,)})
    with pytest.raises(FrameError, match="version 1: expected weights"):
        Keeper(tmp_path, LAYOUT).follow(series, 1, published.fetch)


def test_who_holds_what_the_server_made_anew_after_a_backup_takes_a_keyframe(tmp_path: Path):
    published = Published(5, key_at=1)
    keeper = Keeper(tmp_path, LAYOUT)
    keeper.keep(4, published.weights[4] + np.float32(1.0))
    weights = keeper.follow(published.series, 5, published.fetch)
    assert np.array_equal(weights, published.weights[5])


def test_a_frame_of_another_version_is_refused(tmp_path: Path):
    published = Published(2)
    keeper = Keeper(tmp_path, LAYOUT)
    keeper.keep(0, published.weights[0])
    with pytest.raises(FrameError, match="expected version 1 of m, got version 2 of m"):
        keeper.follow(
            published.series, 1, lambda frame: published.fetch(published.series.deltas[1])
        )
