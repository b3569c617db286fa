"""What an audit by a volunteer shows: one who was drawn by lot and computes right is believed.

answered -> passed                       it came out the same: an audit passed
   |-> again                             to be computed again by the evaluator (`rechecks`)
   \\-> unsettled                         what it is to be compared with is gone

Again is what failed, and by lot some of what passed. Who audits is not told which.
"""

from __future__ import annotations

import logging
from datetime import datetime

import numpy as np
from django.db import transaction
from django.db.models import F

from handcar.errors import Corrupt, StateConflict, StoreAway
from handcar.merging import audit as comparing
from handcar.merging.sketch import sketch
from handcar.server.catalog import modelfiles
from handcar.server.rounds import auditors, checks, leases, participation, services
from handcar.server.rounds.models import (
    ACCEPTED,
    AGAIN,
    ANSWERED,
    PASSED,
    SKIPPED,
    UNSETTLED,
    Audit,
    Participation,
    Update,
)

log = logging.getLogger(__name__)

AGAIN_SHARE = 0.1
"""Of what passed, computed again by the evaluator: who helps another to pass is found out."""


def judge_one(now: datetime) -> bool:
    """Look at one answer; say whether there was one. Without Keras, in the worker."""
    rows = Audit.objects.filter(state=ANSWERED).order_by("drawn_at")
    free = rows.filter(leases.free("leased_until", now))
    audit = free.select_related("update__model").first()
    if audit is None:
        return False
    lease = leases.take(audit, "leased_until", now, rows, attempts=F("attempts") + 1)
    if lease is None:
        return True
    try:
        with lease.renewed():
            _judge(audit)
    except StateConflict as error:
        log.info("%s", error)
    except StoreAway as error:
        wait_for_store(audit, error)
    return True


def wait_for_store(audit: Audit, error: StoreAway) -> None:
    """Take back an attempt that came to nothing because the store was away."""
    log.warning("%s waits for the store: %s", audit, error)
    Audit.objects.filter(pk=audit.pk, attempts__gt=0).update(attempts=F("attempts") - 1)


def _judge(audit: Audit) -> None:
    if audit.attempts >= services.ATTEMPTS or not _is_trusted(audit):
        auditors.close(audit, UNSETTLED)
        return
    try:
        found = _found(audit)
    except Corrupt as error:
        auditors.close(audit, UNSETTLED, reason=str(error))
        return
    numbers = {"cosine": found.cosine, "norm_ratio": found.norm_ratio}
    if not found.passed:
        auditors.move(audit, AGAIN, image=None, **numbers)
        return
    again = checks.chance() < AGAIN_SHARE
    with transaction.atomic():
        auditors.move(audit, AGAIN if again else PASSED, image=None, **numbers)
        count_passed(audit.update)
    if not again:
        auditors.let_go(audit.needs)


def _is_trusted(audit: Audit) -> bool:
    """Say whether it is trusted still: what it answered may be the reason that it is not."""
    return _auditor(audit).standing().is_trusted


def _auditor(audit: Audit) -> Participation:
    return Participation.objects.get(volunteer_id=audit.auditor_id, model_id=audit.model_id)


def _found(audit: Audit) -> comparing.Audit:
    layout = modelfiles.layout(audit.update.model.model_file)
    image = sketch(checks.decoded(audit.update), layout, bytes.fromhex(audit.key))
    return comparing.compare_images(image, np.frombuffer(audit.image or b"", "<f4"))


def count_passed(update: Update) -> None:
    """Count a passed audit, once, of what was accepted without one."""
    rows = Update.objects.filter(id=update.pk, audit=SKIPPED, state__in=ACCEPTED)
    if rows.update(audit=PASSED) == 1:
        participation.rows_of(update).update(audited=F("audited") + 1)
