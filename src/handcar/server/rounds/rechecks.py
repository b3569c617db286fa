"""Audits by volunteers, made again by the evaluator: its word refuses, and it judges auditors.

again -> passed | failed     both may be right
   |-> wrong                 no honest machine finds what was answered: the auditor begins anew
   \\-> unsettled             the evaluator lacks what it takes
"""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from handcar.errors import Corrupt, RecipeError, StateConflict, StoreAway
from handcar.merging import audit as comparing
from handcar.server.catalog import modelfiles
from handcar.server.rounds import (
    alerts,
    auditors,
    audits,
    checks,
    evaluation,
    liveness,
    services,
    verdicts,
)
from handcar.server.rounds.models import (
    ACCEPTED,
    FAILED,
    MERGED,
    PASSED,
    SKIPPED,
    UNSETTLED,
    WRONG,
    Audit,
    Update,
)

log = logging.getLogger(__name__)


def recheck(audit: Audit) -> None:
    """Compute a round again that a volunteer has trained again. Needs Keras."""
    now = timezone.now()
    try:
        if evaluation.count_attempt(audit) > evaluation.ATTEMPTS:
            auditors.close(audit, UNSETTLED, reason="the evaluator fails over it")
        else:
            _recheck(audit, now)
    except StateConflict as error:
        log.info("%s", error)
    except StoreAway as error:
        verdicts.wait_for_store(audit, error)
    except Exception:
        log.exception("%s could not be computed again", audit)


def _recheck(audit: Audit, now: datetime) -> None:
    update = audit.update
    layout = modelfiles.layout(update.model.model_file)
    told = comparing.Audit(audit.cosine or 0.0, audit.norm_ratio or 0.0)
    try:
        found = comparing.compare(checks.decoded(update), audits.again(update), layout)
        text = found.text
    except (audits.Unable, Corrupt) as error:
        auditors.close(audit, UNSETTLED, reason=str(error))
        return
    except RecipeError as error:
        found, text = told, f"what was announced of the round can't be: {error}"
        if told.passed:
            found = comparing.Audit(0.0, 0.0)
    state = WRONG if found.refutes(told) else PASSED if found.passed else FAILED
    with transaction.atomic():
        auditors.move(audit, state)
        if state == WRONG:
            log.warning("%s by volunteer %s was wrong", audit, audit.auditor_id)
            services.distrust_volunteer(audit.auditor_id, audit.model_id)
        fails = not found.passed and _fails(update, now)
        if found.passed:
            verdicts.count_passed(update)
    if fails:
        _refuse(update, text, now)
    auditors.let_go(audit.needs)


def _fails(update: Update, now: datetime) -> bool:
    """Let the volunteer of an update begin anew; say whether it is to be refused."""
    rows = Update.objects.filter(id=update.pk, state__in=ACCEPTED, audit__in=(SKIPPED, PASSED))
    if rows.update(audit=FAILED) != 1 or not liveness.refuses(update, liveness.AUDIT, now):
        return False
    services.distrust(update)
    return True


def _refuse(update: Update, reason: str, now: datetime) -> None:
    """Refuse an update; what is merged by now the owner is told of."""
    try:
        services.refuse(update, reason, now)
    except StateConflict:
        merged = Update.objects.select_related("version", "volunteer").get(id=update.pk)
        if merged.state == MERGED and merged.version is not None:
            text = f"version {merged.version.number} has an update of {merged.volunteer.name}: "
            alerts.note(update.model_id, alerts.AUDIT, text + reason, now)
