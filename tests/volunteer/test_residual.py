"""Error feedback: kept over restarts, bounded, and never depended on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handcar.volunteer.residual import Residual
from handcar.wire import frames
from handcar.wire.frames import FrameFacts
from handcar.wire.layout import Layout, TensorSpec

LAYOUT = Layout((TensorSpec("kernel", (20, 10)), TensorSpec("mean", (10,), "statistic")))
FACTS = FrameFacts("update", "m", 0)


def some(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).laplace(size=LAYOUT.size).astype(np.float32)


def send(residual: Residual, change: np.ndarray, k: float) -> np.ndarray:
    wanted = residual.added_to(change)
    sent = frames.decode_difference(frames.encode_difference(FACTS, wanted, LAYOUT, k=k), LAYOUT)[1]
    residual.keep(wanted, sent, k)
    return sent


def norm(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector))


@pytest.mark.parametrize(("k", "share"), [(2.0, 0.5), (2.9, 1.0)])
def test_what_was_dropped_goes_into_the_next(tmp_path: Path, k: float, share: float):
    residual = Residual(tmp_path / "residual", LAYOUT)
    kernel = LAYOUT.slices[0]
    change = some(1)
    dropped = (change - send(residual, change, k))[kernel]
    added = (residual.added_to(some(2)) - some(2))[kernel]
    assert 0 < norm(dropped) < norm(change[kernel])
    assert np.allclose(added, share * dropped, rtol=0.01, atol=1e-6)


@pytest.mark.parametrize(("k", "limit"), [(1.0, 1.0), (3.0, 1.0), (4.0, 4.0), (16.0, 4.0)])
def test_no_tensor_ever_owes_more_than_a_few_times_its_last_change(
    tmp_path: Path, k: float, limit: float
):
    residual = Residual(tmp_path / "residual", LAYOUT)
    shares = []
    for seed in range(40):
        change = some(seed)
        change[LAYOUT.slices[0]] *= seed % 20 > 0  # rounds in which nothing changes, too
        send(residual, change, k)
        owed = residual.added_to(np.zeros(LAYOUT.size, np.float32))
        for place in LAYOUT.slices:
            assert norm(owed[place]) <= limit * norm(change[place]) * 1.01
            shares.append(norm(owed[place]) / max(norm(change[place]), 1e-9))
    assert k != 3 or max(shares) > 0.9 * limit  # it is met, or this would show nothing


def test_statistics_owe_nothing(tmp_path: Path):
    residual = Residual(tmp_path / "residual", LAYOUT)
    change = some(1)
    sent = send(residual, change, 2.0)
    mean = LAYOUT.slices[1]
    assert sent[mean].tobytes() == change[mean].tobytes()
    assert residual.added_to(change)[mean].tobytes() == change[mean].tobytes()


def test_a_restart_goes_on_with_it(tmp_path: Path):
    before = Residual(tmp_path / "residual", LAYOUT)
    send(before, some(1), 2.0)
    after = Residual(tmp_path / "residual", LAYOUT)
    assert after.added_to(some(2)).tobytes() == before.added_to(some(2)).tobytes()


@pytest.mark.parametrize("damage", ["missing", "cut", "infinite"])
def test_without_it_the_next_update_is_just_what_was_trained(tmp_path: Path, damage: str):
    path = tmp_path / "residual"
    send(Residual(path, LAYOUT), some(1), 2.0)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.write_bytes(b"\x80\x7f" * LAYOUT.size)
    assert Residual(path, LAYOUT).added_to(some(2)).tobytes() == some(2).tobytes()
