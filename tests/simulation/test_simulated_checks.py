"""What a simulated server computes again."""

from __future__ import annotations

from uuid import uuid4

import numpy as np
import pytest

from handcar.merging.merge import Memory
from handcar.merging.trust import Standing
from handcar.simulation.checks import Checks
from handcar.simulation.updates import Update
from handcar.wire.layout import Layout, TensorSpec

LAYOUT = Layout((TensorSpec("w", (5000,)),))
NEWEST = (0, np.zeros(5000, np.float32))


class Luck:
    """Chance by which no update is drawn for an audit."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def random(self) -> float:
        return 1.0

    def bytes(self, count: int) -> bytes:
        return self._rng.bytes(count)


@pytest.fixture
def checks() -> Checks:
    made = Checks(LAYOUT, Luck(), None)
    made.standings[1] = Standing(accepted=50, audited=5)
    for number in range(6):
        assert made.fault(update(number, 1.0), NEWEST, Memory()) is None
    return made


def update(seed: int, length: float, *, sound: bool = True) -> Update:
    change = np.random.default_rng(seed).normal(0, length, 5000).astype(np.float32)
    return Update(uuid4(), 1, 0, 1, 1.0, change, 1, lambda: change if sound else -change)


@pytest.mark.parametrize(("length", "audits"), [(1.0, 0), (2.0, 1)])
def test_what_is_longer_than_usual_is_computed_again_whoever_sent_it(checks, length, audits):
    assert checks.fault(update(10, length), NEWEST, Memory()) is None
    assert checks.audits == audits


def test_who_is_caught_is_a_newcomer_again(checks):
    assert "came out otherwise" in checks.fault(update(10, 2.0, sound=False), NEWEST, Memory())
    assert checks.standings[1] == Standing(failed=1)
