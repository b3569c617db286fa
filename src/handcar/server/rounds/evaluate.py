"""Version 0 of a new model, and how good the newest versions are: all that needs Keras.

Runs in a process of its own, started by the worker when there is such work, so that a
model that eats all memory kills neither the worker nor the web server.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    close_old_connections,
    transaction,
)
from django.db.models import QuerySet
from django.utils import timezone

from handcar.errors import Corrupt, HandcarError, StateConflict, StoreAway
from handcar.server import logs
from handcar.server.catalog import modelfiles
from handcar.server.catalog import services as catalog
from handcar.server.catalog.models import TrainingModel
from handcar.server.rounds import (
    audits,
    checks,
    evaluation,
    gates,
    networks,
    rechecks,
    series,
    services,
)
from handcar.server.rounds.models import Update, Version

log = logging.getLogger(__name__)

IDLE_S = 60.0
POLL_S = 1.0
AFTER_FAULT_S = 2.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Means over all validation records; none for what the model does not measure."""

    loss: float | None
    accuracy: float | None


def run() -> None:
    """Do what there is, and end when nothing has come for a minute: Keras's memory is dear."""
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < IDLE_S:
        try:
            did = evaluate_once()
        except (OperationalError, InterfaceError) as error:
            log.error("the database: %s; trying again in %g s", str(error).strip(), AFTER_FAULT_S)
            close_old_connections()  # one that was cut would fail for ever
            time.sleep(AFTER_FAULT_S)
            continue
        if did:
            idle_since = time.monotonic()
        else:
            time.sleep(POLL_S)


def evaluate_once() -> bool:
    """Do one piece of the work that there is; say whether there was one.

    The gate comes first, since volunteers wait for it; then each kind in turn.
    """
    if _do(evaluation.to_gate, _guarded(gates.judge)):
        return True
    for _ in range(len(KINDS)):
        find, do = KINDS[0]
        KINDS.rotate(-1)
        if _do(find, do):
            return True
    return False


def _do(find: Callable[[], QuerySet[Any]], do: Callable[[Any], None]) -> bool:
    """Do the first thing of a kind that no other process does; say whether there was one."""
    lease = evaluation.claim(find(), timezone.now())
    if lease is None:
        return False
    with lease.renewed():
        do(lease.row)
    lease.release()
    return True


# -- version 0 -------------------------------------------------------------------------------


def _prepare(model: TrainingModel) -> None:
    if evaluation.count_attempt(model) > evaluation.ATTEMPTS:
        reason = "its process died each time it was built: it may need more memory than there is"
        catalog.move(model.pk, "failed", failure=reason)
        return
    try:
        version = _first_version(model)
    except StoreAway as error:
        _wait_for_store(model, error)
        return
    except (HandcarError, ValueError, TypeError, MemoryError) as error:
        log.exception("%s could not be built", model.pk)
        catalog.move(model.pk, "failed", failure=f"Keras could not build it: {error}"[:2_000])
        return
    try:
        with transaction.atomic():
            catalog.move(model.pk, "pending")
            version.save(force_insert=True)
    except (IntegrityError, StateConflict):
        log.info("%s was prepared by another process", model.pk)


def _first_version(model: TrainingModel) -> Version:
    from handcar.modelfile import build

    network = build.build(modelfiles.parsed(model.model_file), seed=networks.seed(model))
    weights = build.initial_weights(network, modelfiles.layout(model.model_file))
    return series.first_version(model, weights, timezone.now())


# -- loss and accuracy -----------------------------------------------------------------------


def _evaluate(version: Version) -> None:
    if evaluation.count_attempt(version) > evaluation.ATTEMPTS:
        return
    try:
        measured = measure(version)
    except StoreAway as error:
        _wait_for_store(version, error)
        return
    except (HandcarError, ValueError, TypeError):
        log.exception("%s could not be evaluated", version)
        return
    now = timezone.now()
    Version.objects.filter(pk=version.pk).update(
        loss=measured.loss, accuracy=measured.accuracy, evaluated_at=now
    )


def measure(version: Version) -> Measured:
    """Return how good a version is on the validation chunks, one chunk in memory at a time."""
    model = version.model
    network = networks.with_weights(model, series.weights_of(model, version))
    sums: dict[str, float] = {}
    records = 0
    for x, y in gates.validation(model.dataset_id):
        result = network.evaluate(x, y, batch_size=model.batch_size, verbose=0, return_dict=True)
        records += len(x)
        for name, value in result.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(x)
    means = {name: total / records for name, total in sums.items()} if records else {}
    return Measured(_finite(means.get("loss")), _finite(_accuracy(means)))


def _accuracy(means: dict[str, float]) -> float | None:
    return next((value for name, value in means.items() if "acc" in name.lower()), None)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


# -- updates ---------------------------------------------------------------------------------


def _guarded(judge: Callable[[Update, datetime], None]) -> Callable[[Update], None]:
    """Return how to judge an update so that whatever a stranger sent, the process goes on."""

    def judged(update: Update) -> None:
        now = timezone.now()
        if evaluation.count_attempt(update) > evaluation.ATTEMPTS:
            checks.go_on_without(update, now)
            return
        try:
            with logs.about(update.request_id):
                judge(update, now)
        except StateConflict as error:
            log.info("%s", error)
        except StoreAway as error:
            _wait_for_store(update, error)
        except Corrupt as error:
            services.refuse(update, str(error), now)
        except (OperationalError, InterfaceError):
            raise  # the database went away, which says nothing of this update
        except Exception:
            log.exception("update %s could not be judged", update.pk)

    return judged


def _wait_for_store(row: TrainingModel | Version | Update, error: StoreAway) -> None:
    log.warning("%s waits for the store: %s", row, error)
    evaluation.uncount_attempt(row)
    time.sleep(POLL_S)


KINDS: deque[tuple[Callable[[], QuerySet[Any]], Callable[[Any], None]]] = deque(
    (
        (evaluation.to_prepare, _prepare),
        (evaluation.to_audit, _guarded(audits.judge)),
        (evaluation.to_recheck, rechecks.recheck),
        (evaluation.to_measure, _evaluate),
    )
)
"""What there is to do, and how; whose turn it is comes first."""
