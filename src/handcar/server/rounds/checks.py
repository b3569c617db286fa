"""One received update: is it what it says, and does it count?

received: structure, copies, numbers, length, direction, here in the worker
  -> held-out gate and audit in the process with Keras, for those who are new, those drawn
     by lot, and what looks odd; others don't wait for these
  -> checked | refused(reason)
"""

from __future__ import annotations

import faulthandler
import logging
import secrets
import statistics
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import numpy as np
from django.conf import settings
from django.db.models import Q

from handcar.errors import Corrupt, StateConflict, StoreAway
from handcar.merging import direction, filters, trust
from handcar.merging.filters import Seen, Verdict
from handcar.merging.sketch import Sketch, sketch
from handcar.server import logs, metrics
from handcar.server.catalog import modelfiles
from handcar.server.catalog.models import Chunk
from handcar.server.rounds import (
    alerts,
    auditors,
    decoding,
    liveness,
    participation,
    series,
    services,
    timing,
)
from handcar.server.rounds.leases import OPEN
from handcar.server.rounds.models import (
    ACCEPTED,
    PASSED,
    RECEIVED,
    SKIPPED,
    WANTED,
    Participation,
    Update,
    Version,
)
from handcar.server.rounds.services import Examined
from handcar.wire import coded
from handcar.wire.layout import Flat, Layout

log = logging.getLogger(__name__)

UNREADABLE = "could not be read"
UNDONE_MOST = 1
"""So many versions with an update may be taken back before it is refused."""
GATED = 0.1
"""Share of the updates of those who are known that go through the gate."""
QUEUE = 2
"""While so many wait for the evaluator, only what looks odd joins them: a volunteer whose update
waits makes its rounds longer, and one process can't look at everything that a crowd sends."""
AUDITS_WAITING = 1
"""The same for rounds to be computed again. Who was not audited stays a newcomer, whose work
counts less."""
LOOK_S = 10.0
"""Rounds of this length and more may wait for the evaluator, which takes a second or so; of shorter
ones as many as they are shorter, or what volunteers go on from would be many rounds old."""
WAIT = timedelta(minutes=5)
"""How long an update waits for the process with Keras; then what is known must do."""
LONGEST_LOOK_S = 300.0
"""Seconds that a worker may need for one update's numbers; the largest models take a few."""
IMAGES_KEPT = 16
_images: OrderedDict[tuple[str, bytes], Sketch] = OrderedDict()
"""Of what merging remembers, by its digest."""
OTHERS_LOOKED_AT = 100
OTHERS = 2
"""So many other volunteers' work must lately have counted before a direction is odd."""
FASTER = 4.0
"""Times the speed told by heartbeats from which on a claim of steps looks odd."""


def check_one(now: datetime) -> bool:
    """Check the oldest received update; say whether there was one.

    Whatever a stranger's bytes do, the loop goes on: a failure that we did not foresee is
    tried again after the lease, at most three times in all.
    """
    lease = services.claim_received(now)
    if lease is None:
        return False
    update: Update = lease.row
    if update.attempts >= services.ATTEMPTS:
        services.refuse(update, UNREADABLE, now)
        return True
    try:
        with (
            lease.renewed(),
            _bounded(),
            logs.about(update.request_id),
            metrics.timed("check"),
        ):
            _judge(update, now)
    except StateConflict as error:
        log.info("%s", error)
    except StoreAway as error:
        log.warning("update %s waits for the store: %s", update.pk, error)
        services.uncount(update)
    except Corrupt as error:
        services.refuse(update, str(error), now)
    except Exception:
        log.exception("update %s could not be checked, attempt %d", update.pk, update.attempts + 1)
    return True


@contextmanager
def _bounded() -> Iterator[None]:
    """End this process, saying where it was, if a look takes ages: who started it starts another.

    The update was claimed by then, so the next one looks at it last, and three times at most.
    """
    # The real one: what a program puts in its place may have no file to write to.
    faulthandler.dump_traceback_later(LONGEST_LOOK_S, exit=True, file=sys.__stderr__ or 2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def decoded(update: Update) -> Flat:
    """Return the difference that an update holds, if it is what was announced. Raises Corrupt."""
    return coded.dense(decoding.decode(update), modelfiles.layout(update.model.model_file))


# -- numbers, length, direction --------------------------------------------------------------


def _judge(update: Update, now: datetime) -> None:
    came_at = update.received_at or now
    late_weight = timing.late_weight(
        update.model, update.base_version, came_at, seconds=update.seconds
    )
    verdict = _examine(update)
    reason = _unfit(update, late_weight) or (None if verdict.is_by_length else verdict.reason)
    if reason is not None:
        services.refuse(update, reason, now)
        return
    part = participation.of(update)
    services.note_examined(update, _found(update, part, verdict, late_weight), now)
    reason = _beside_others(update, verdict, now)
    if reason is not None:
        services.refuse(update, reason, now)
    elif not update.gate_wanted:
        conclude(update, now, audit=update.audit)


def _unfit(update: Update, late_weight: float) -> str | None:
    if update.model.state not in OPEN:
        return services.TRAINING_OVER  # it was announced while the training ended
    if late_weight == 0.0:
        return timing.too_late_text(update.base_version)
    if update.undone > UNDONE_MOST:
        return f"{update.undone} versions that it was merged in had to be taken back"
    return None


def _examine(update: Update) -> Verdict:
    if _came_before(update):
        return Verdict(0.0, reason="the same bytes came before, and count once")
    layout = modelfiles.layout(update.model.model_file)
    seen = Seen(
        services.last_norms(update.model),
        services.last_sketches(update),
        _others(update),
        settings.HANDCAR_CHECKING_KEY,
    )
    change = decoding.decode(update)
    verdict = filters.examine(change, layout, steps=update.steps, seen=seen)
    if verdict.reason is None:
        decoding.keep(update, change)
    return verdict


def _came_before(update: Update) -> bool:
    same = Update.objects.filter(model_id=update.model_id, sha256=update.sha256, state__in=ACCEPTED)
    return same.exclude(id=update.pk).exists()


def _others(update: Update) -> Sketch | None:
    """Return the image of what others brought lately; none where that is next to nothing."""
    model_id = update.model_id
    digest = series.newest(model_id).reference_digest
    reference = _reference(digest, update.model.model_file) if digest is not None else None
    if reference is None or not _has_company(update):
        return None
    merged = Version.objects.filter(model_id=model_id, undone=False, rolled_back_to=None)
    numbers = merged.order_by("-number").values_list("number", flat=True)
    ages = {number: age for age, number in enumerate(numbers[: direction.OWN_VERSIONS])}
    own = Update.objects.filter(
        volunteer_id=update.volunteer_id,
        version__model_id=model_id,
        version__number__in=ages,
        part__isnull=False,
    ).values_list("version__number", "part", "sketch")
    return direction.of_others(
        reference,
        [
            (ages[number], part, np.frombuffer(image, "<f4"))
            for number, part, image in own
            if image is not None
        ],
    )


def _reference(digest: str, model_file: str) -> Sketch | None:
    """Return the image of the slow mean of what was merged."""
    if (found := _images.get((digest, settings.HANDCAR_CHECKING_KEY))) is not None:
        return found
    try:
        reference = series.raw(digest)
    except Corrupt as error:
        log.warning("directions can't be compared until the next merge: %s", error)
        return None
    return image_of(digest, reference, modelfiles.layout(model_file))


def image_of(digest: str | None, vector: Flat | None, layout: Layout) -> Sketch | None:
    """Return the image of a vector that merging remembers by its digest, and keep it at hand."""
    if digest is None or vector is None:
        return None
    key = settings.HANDCAR_CHECKING_KEY
    if (found := _images.get((digest, key))) is None:
        found = _images[digest, key] = sketch(vector, layout, key)
        while len(_images) > IMAGES_KEPT:
            _images.popitem(last=False)
    return found


def _has_company(update: Update) -> bool:
    """Say whether there are others to be held against."""
    rows = Update.objects.filter(model_id=update.model_id, state__in=ACCEPTED)
    last = rows.order_by("-checked_at").values_list("volunteer_id", flat=True)
    others = set(last[: direction.LOOKED_AT]) - {update.volunteer_id}
    return len(others) >= OTHERS


def _usual(update: Update) -> float | None:
    """Return the median of the directions of the other volunteers."""
    rows = Participation.objects.filter(model_id=update.model_id, direction__isnull=False)
    others = rows.exclude(volunteer_id=update.volunteer_id).order_by("-heard_at")
    means = list(others.values_list("direction", flat=True)[:OTHERS_LOOKED_AT])
    return statistics.median(means) if means else None


def _beside_others(update: Update, verdict: Verdict, now: datetime) -> str | None:
    """Return why it is refused by comparison with others, unless those filters are suspended."""
    if verdict.is_by_length and liveness.refuses(update, liveness.LENGTH, now):
        return verdict.reason
    if not verdict.is_by_length:
        liveness.passes(update, liveness.LENGTH, now)
    _note_direction(update, now)
    return None


def _note_direction(update: Update, now: datetime) -> None:
    """Have an update computed again whose volunteer, on the whole, leads elsewhere than others."""
    part = participation.of(update)
    if update.cosine is None or not direction.opposes(
        part.direction, part.directions, _usual(update)
    ):
        liveness.passes(update, liveness.DIRECTION, now)
        return
    if liveness.refuses(update, liveness.DIRECTION, now):
        audit = SKIPPED if update.recipe is None else WANTED
        Update.objects.filter(id=update.pk).update(audit=audit)
        update.audit = audit
    else:
        update.objection = ""  # suspended: it does not decide


# -- gate and audit --------------------------------------------------------------------------


def _found(update: Update, part: Participation, verdict: Verdict, late_weight: float) -> Examined:
    odd = verdict.factor < 1.0 or update.undone > 0 or _is_faster_than_told(update, part)
    return Examined(
        norm=verdict.norm,
        factor=verdict.factor,
        late_weight=late_weight,
        cosine=verdict.cosine,
        sketch=None if verdict.sketch is None else verdict.sketch.astype("<f4").tobytes(),
        gate_wanted=_wants_gate(update, part, odd=odd),
        audit=_wants_audit(update, part, odd=odd),
    )


def _is_faster_than_told(update: Update, part: Participation) -> bool:
    """Say whether it claims more steps than its machine told of: no reason to refuse, but odd."""
    told: float = part.steps_per_second
    most = FASTER * told * max(float(update.seconds), 1.0)
    return told > 0 and update.steps > most


def _wants_gate(update: Update, part: Participation, *, odd: bool) -> bool:
    hidden = Chunk.objects.filter(dataset_id=update.model.dataset_id, split="validation")
    if not hidden.exists():
        return False
    if odd:
        return True
    if waiting(update.model_id) >= QUEUE or not _may_wait(update):
        return False
    return part.accepted < trust.TRUSTED_FROM or chance() < GATED


def _wants_audit(update: Update, part: Participation, *, odd: bool) -> str:
    if not odd and chance() >= trust.audit_rate(part.standing()):
        return ""
    busy = _audits_waiting(update.model_id) >= AUDITS_WAITING
    if update.recipe is None or (not odd and (busy or not _may_wait(update))):
        return SKIPPED
    return WANTED


def _may_wait(update: Update) -> bool:
    """Say whether a look of the evaluator is short beside a round; by chance where it is not."""
    usual = timing.usual_seconds(update.model)
    return chance() < (update.seconds if usual is None else usual) / LOOK_S


def _audits_waiting(model_id: str) -> int:
    rows = Update.objects.filter(model_id=model_id, state=RECEIVED, audit=WANTED)
    return rows.filter(examined_at__isnull=False).count()


def chance() -> float:
    """Return a number in [0, 1) that nobody can foresee."""
    return secrets.SystemRandom().random()


def waiting(model_id: str) -> int:
    """Return how many updates wait for the process with Keras."""
    rows = Update.objects.filter(model_id=model_id, state=RECEIVED, examined_at__isnull=False)
    return rows.count()


def pass_one(now: datetime) -> bool:
    """Let go on what has waited too long for the gate or the audit; say whether there was one.

    What was looked at in the future, before the clock was set back, has waited too.
    """
    waited = Q(examined_at__lt=now - WAIT) | Q(examined_at__gt=now + WAIT)
    rows = Update.objects.filter(waited, state=RECEIVED)
    update = rows.select_related("model").order_by("examined_at").first()
    if update is None:
        return False
    try:
        go_on_without(update, now)
    except StateConflict as error:
        log.info("%s", error)  # another process has just decided on it
    return True


def go_on_without(update: Update, now: datetime) -> None:
    """Accept an update by what is known without the process with Keras, and tell the owner."""
    text = (
        f"updates count without having been tried on held-out records or computed again: the "
        f"server's evaluating process fails, or needs more than {WAIT.seconds // 60} minutes"
    )
    alerts.raise_(update.model_id, alerts.EVALUATOR, text, now)
    conclude(update, now, audit=SKIPPED if update.audit == WANTED else update.audit)


def conclude(update: Update, now: datetime, *, audit: str) -> None:
    """Decide on an update whose gate is done, unless it is still to be computed again.

    Leading elsewhere than others do is no proof: what came out the same, computed again, counts.
    What could not be computed again does not.
    """
    rows = Update.objects.filter(id=update.pk, state=RECEIVED)
    if rows.update(gate_wanted=False, audit=audit) != 1:
        raise StateConflict(f"update {update.pk} was no longer received")
    update.gate_wanted, update.audit = False, audit
    if audit == WANTED:
        return
    strays = update.objection == liveness.DIRECTION and audit != PASSED
    if strays and not liveness.is_suspended(update.model_id, liveness.DIRECTION):
        led = participation.of(update).direction or 0.0
        services.refuse(update, direction.text(led, _usual(update)), now)
        return
    services.accept(update, now)
    if audit == SKIPPED:
        auditors.draw(update, now)
