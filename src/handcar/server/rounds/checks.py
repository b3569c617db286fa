"""One received update: is it what it says, and does it count?"""

from __future__ import annotations

import logging
import math
from datetime import datetime

from handcar.errors import Corrupt
from handcar.merging import filters
from handcar.merging.filters import Verdict
from handcar.server import blobs
from handcar.server.catalog import modelfiles
from handcar.server.rounds import services, timing
from handcar.server.rounds.models import ACCEPTED, Update
from handcar.wire import frames
from handcar.wire.layout import Flat

log = logging.getLogger(__name__)

UNREADABLE = "could not be read"


def check_one(now: datetime) -> bool:
    """Check the oldest received update; say whether there was one.

    Whatever a stranger's bytes do, the loop goes on: a failure that we did not foresee is
    tried again after the lease, at most three times in all.
    """
    update = services.claim_received(now)
    if update is None:
        return False
    if update.attempts >= services.ATTEMPTS:
        services.refuse(update, UNREADABLE, now)
        return True
    try:
        _judge(update, now)
    except Corrupt as error:
        services.refuse(update, str(error), now)
    except Exception:
        log.exception("update %s could not be checked, attempt %d", update.pk, update.attempts + 1)
    return True


def decoded(update: Update) -> Flat:
    """Return the difference that an update holds, if it is what was announced. Raises Corrupt."""
    layout = modelfiles.layout(update.model.model_file)
    facts, change = frames.decode_difference(blobs.read(update.sha256), layout)
    expected = ("update", update.model_id, update.base_version)
    if (facts.kind, facts.model, facts.version) != expected:
        raise Corrupt(
            f"announced was an {expected[0]} of {expected[1]} from version {expected[2]}, "
            f"its bytes are an {facts.kind} of {facts.model} from version {facts.version}"
        )
    return change


def _judge(update: Update, now: datetime) -> None:
    late_weight = timing.late_weight(update.model, update.base_version, update.received_at or now)
    verdict = _examine(update)
    reason = verdict.reason
    if late_weight == 0.0:
        reason = timing.too_late_text(update.base_version)
    if reason is not None:
        services.refuse(update, reason, now)
        return
    services.accept(
        update, norm=verdict.norm, factor=verdict.factor, late_weight=late_weight, now=now
    )


def _examine(update: Update) -> Verdict:
    if _came_before(update):
        return Verdict(0.0, reason="the same bytes came before, and count once")
    norms = services.last_norms(update.model, filters.NORMS_KEPT)
    layout = modelfiles.layout(update.model.model_file)
    verdict = filters.examine(decoded(update), layout, steps=update.steps, norms=norms)
    if verdict.reason is None and not math.isfinite(verdict.norm):
        return Verdict(0.0, reason="its numbers are too large to add up")
    return verdict


def _came_before(update: Update) -> bool:
    same = Update.objects.filter(model_id=update.model_id, sha256=update.sha256, state__in=ACCEPTED)
    return same.exclude(id=update.pk).exists()
