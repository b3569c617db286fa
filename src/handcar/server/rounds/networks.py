"""Models built with Keras, for the process that has it; the last one is kept."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from handcar.server import blobs
from handcar.server.catalog import modelfiles
from handcar.server.catalog.models import TrainingModel
from handcar.wire.layout import Flat


def with_weights(model: TrainingModel, weights: Flat) -> Any:
    """Return a model's network, compiled, with these weights."""
    from handcar.modelfile import build

    network = built(model.model_file, seed(model))
    build.set_weights(network, modelfiles.layout(model.model_file), weights)
    return network


@lru_cache(maxsize=1)
def built(model_file: str, seed: int) -> Any:
    """Return the network of a model file, with weights of this seed the first time."""
    from handcar.modelfile import build

    return build.build(modelfiles.parsed(model_file), seed=seed)


def seed(model: TrainingModel) -> int:
    """Return the seed of a model's first weights: always the same for the same model file."""
    return int(model.model_file_digest.removeprefix(blobs.PREFIX)[:8], 16)
