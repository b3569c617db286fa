"""A model that was made ready early is the model that would have been made later."""

from __future__ import annotations

import numpy as np
import pytest

from handcar.modelfile.check import check
from handcar.modelfile.shapes import infer
from handcar.modelfile.trainer import Network

MODEL = b"""{"name": "small", "dataset": {"name": "d", "file": "d.npz"}, "input": {"shape": [4]},
    "layers": [{"layer": "BatchNormalization"}, {"layer": "Dense", "units": 3}],
    "loss": "sparse_categorical_crossentropy", "optimizer": {"name": "Adam"}, "batch_size": 8}"""


@pytest.fixture
def network() -> Network:
    model_file = check(MODEL)
    return Network(model_file, infer(model_file).layout, seed=1)


@pytest.mark.parametrize("records", [3, 100])
def test_warming_up_changes_neither_weights_nor_optimizer(network, records):
    weights = network.get()
    columns = {"x": np.ones((records, 4), np.float32), "y": np.zeros(records, np.uint8)}
    network.warm_up(columns["x"], columns["y"])
    assert (network.get() == weights).all()
    iterations, first, pace, factor, began, *moments = network.optimizer()
    assert (iterations, first, pace, factor, began) == (0, 0, 1, 1, 0)
    assert network.rate() == pytest.approx(0.001)
    assert all((moment == 0).all() for moment in moments)
