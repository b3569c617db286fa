"""The held-out gate: what an update does to the loss on records that volunteers never see.

Needs Keras, and runs in the process that has it. The records are decoded once and kept there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np

from handcar.data import chunks as codec
from handcar.errors import Corrupt, Problem, StateConflict
from handcar.merging import gate
from handcar.server import blobs
from handcar.server.catalog import modelfiles
from handcar.server.catalog.models import Chunk, TrainingModel
from handcar.server.rounds import checks, decoding, liveness, networks, series, services
from handcar.server.rounds.models import Update, Version
from handcar.wire import coded
from handcar.wire.layout import Flat

log = logging.getLogger(__name__)


def judge(update: Update, now: datetime) -> None:
    """Measure by how much the loss rises with a part of an update; refuse it or let it go on."""
    model = update.model
    newest = series.newest(model.pk)
    without = _loss_of(model.pk, newest.number)
    if not np.isfinite(without):
        log.warning("%s has no loss that is a number: no update is held against it", newest)
        checks.conclude(update, now, audit=update.audit)
        return
    found = gate.rise(_loss(model, _with_part(update, newest)), without)
    Update.objects.filter(id=update.pk).update(rise=found if np.isfinite(found) else None)
    last = services.last_rises(model)
    if gate.is_too_much(found, last):
        if liveness.refuses(update, liveness.GATE, now):
            services.refuse(update, gate.text(found, last), now)
            return
    else:
        liveness.passes(update, liveness.GATE, now)
    checks.conclude(update, now, audit=update.audit)


def _with_part(update: Update, newest: Version) -> Flat:
    """Return the newest weights with a part of the update's way added."""
    weights = _weights(newest.model_id, newest.number)
    layout = modelfiles.layout(update.model.model_file)
    change = coded.dense(decoding.kept_or_decoded(update), layout)
    for place in layout.statistic_slices:
        change[place] -= weights[place]  # they travel as values
    change *= np.float32(gate.PART * update.factor)
    change += weights
    return change


@lru_cache(maxsize=1)
def _loss_of(model_id: str, number: int) -> float:
    return _loss(TrainingModel.objects.get(pk=model_id), _weights(model_id, number))


@lru_cache(maxsize=1)
def _weights(model_id: str, number: int) -> Flat:
    """Return a version's weights, kept for the next update; not to be changed in place.

    A StateConflict when they went while others were made: what the server no longer keeps is
    no fault of the update that is looked at.
    """
    version = Version.objects.select_related("model").get(model_id=model_id, number=number)
    try:
        return series.weights_of(version.model, version)
    except (Corrupt, Problem) as error:
        raise StateConflict(f"{version} has gone meanwhile: {error}") from error


def _loss(model: TrainingModel, weights: Flat) -> float:
    network = networks.with_weights(model, weights)
    x, y = hidden(model.dataset_id)
    result = network.evaluate(x, y, batch_size=model.batch_size, verbose=0, return_dict=True)
    return float(result["loss"])


@lru_cache(maxsize=1)
def hidden(dataset_id: int) -> tuple[Any, Any]:
    """Return the first validation records, as many as are looked at."""
    xs, ys, count = [], [], 0
    for x, y in validation(dataset_id):
        xs.append(x[: gate.RECORDS - count])
        ys.append(y[: gate.RECORDS - count])
        count += len(xs[-1])
        if count >= gate.RECORDS:
            break
    return np.concatenate(xs), np.concatenate(ys)


def validation(dataset_id: int) -> Iterator[tuple[Any, Any]]:
    """Yield the records and labels of each validation chunk, one chunk in memory at a time."""
    for chunk in Chunk.objects.filter(dataset_id=dataset_id, split="validation"):
        arrays = codec.decode(blobs.read(chunk.digest))
        yield arrays["x"], arrays["y"]
