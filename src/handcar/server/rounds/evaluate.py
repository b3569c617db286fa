"""Version 0 of a new model, and how good the newest versions are: all that needs Keras.

Runs in a process of its own, started by the worker when there is such work, so that a
model that eats all memory kills neither the worker nor the web server.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.db import transaction
from django.utils import timezone

from handcar.data import chunks as codec
from handcar.errors import HandcarError
from handcar.server import blobs
from handcar.server.catalog import modelfiles
from handcar.server.catalog import services as catalog
from handcar.server.catalog.models import Chunk, TrainingModel
from handcar.server.rounds import evaluation, series
from handcar.server.rounds.models import Version

log = logging.getLogger(__name__)

IDLE_S = 60.0
POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Means over all validation records; none for what the model does not measure."""

    loss: float | None
    accuracy: float | None


def run() -> None:
    """Do what there is, and end when nothing has come for a minute: Keras's memory is dear."""
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < IDLE_S:
        if evaluate_once():
            idle_since = time.monotonic()
        else:
            time.sleep(POLL_S)


def evaluate_once() -> bool:
    """Prepare one model or evaluate one version; say whether there was one."""
    if (model := evaluation.next_to_prepare()) is not None:
        _prepare(model)
        return True
    if (version := evaluation.next_to_measure()) is not None:
        _evaluate(version)
        return True
    return False


# -- version 0 -------------------------------------------------------------------------------


def _prepare(model: TrainingModel) -> None:
    if evaluation.count_attempt(model) > evaluation.ATTEMPTS:
        reason = "its process died each time it was built: it may need more memory than there is"
        catalog.move(model.pk, "failed", failure=reason)
        return
    try:
        version = _first_version(model)
    except (HandcarError, ValueError, TypeError, MemoryError) as error:
        log.exception("%s could not be built", model.pk)
        catalog.move(model.pk, "failed", failure=f"Keras could not build it: {error}"[:2_000])
        return
    with transaction.atomic():
        version.save(force_insert=True)
        catalog.move(model.pk, "pending")


def _first_version(model: TrainingModel) -> Version:
    from handcar.modelfile import build

    network = build.build(modelfiles.parsed(model.model_file), seed=seed(model))
    weights = build.initial_weights(network, modelfiles.layout(model.model_file))
    return series.first_version(model, weights, timezone.now())


def seed(model: TrainingModel) -> int:
    """Return the seed of a model's first weights: always the same for the same model file."""
    return int(model.model_file_digest.removeprefix(blobs.PREFIX)[:8], 16)


# -- loss and accuracy -----------------------------------------------------------------------


def _evaluate(version: Version) -> None:
    if evaluation.count_attempt(version) > evaluation.ATTEMPTS:
        return
    try:
        measured = measure(version)
    except (HandcarError, ValueError, TypeError):
        log.exception("%s could not be evaluated", version)
        return
    Version.objects.filter(pk=version.pk).update(
        loss=measured.loss, accuracy=measured.accuracy, evaluated_at=timezone.now()
    )


def measure(version: Version) -> Measured:
    """Return how good a version is on the validation chunks, one chunk in memory at a time."""
    from handcar.modelfile import build

    model = version.model
    layout = modelfiles.layout(model.model_file)
    network = _network(model.model_file, seed(model))
    build.set_weights(network, layout, series.weights_of(model, version))
    sums: dict[str, float] = {}
    records = 0
    for x, y in _validation(model):
        result = network.evaluate(x, y, batch_size=model.batch_size, verbose=0, return_dict=True)
        records += len(x)
        for name, value in result.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(x)
    means = {name: total / records for name, total in sums.items()} if records else {}
    return Measured(_finite(means.get("loss")), _finite(_accuracy(means)))


def _validation(model: TrainingModel) -> Iterator[tuple[Any, Any]]:
    for chunk in Chunk.objects.filter(dataset_id=model.dataset_id, split="validation"):
        arrays = codec.decode(blobs.read(chunk.digest))
        yield arrays["x"], arrays["y"]


@lru_cache(maxsize=1)
def _network(model_file: str, seed: int) -> Any:
    from handcar.modelfile import build

    return build.build(modelfiles.parsed(model_file), seed=seed)


def _accuracy(means: dict[str, float]) -> float | None:
    return next((value for name, value in means.items() if "acc" in name.lower()), None)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
