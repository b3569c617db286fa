"""What a training will take before it is begun: hours, traffic, waits, and who still helps.

Round lengths come from the volunteers' own budget; how much a crowd gains over one machine and
what updates weigh comes from `coefficients`, which holds what benchmarks measured. Nothing is
trained here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from handcar.merging.rules import SHARE
from handcar.protocol import limits
from handcar.protocol.messages import RoundLimits
from handcar.simulation import coefficients
from handcar.volunteer import budget
from handcar.volunteer.budget import Allowance, Known

HOUR_S = 3600.0
MBIT = 1e6 / 8
CROWDS = (1, 2, 4, 8, 16, 32, 64)
HELPS = 0.1
"""Half as many volunteers again still help if they save this share of the time."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be trained; sizes in bytes."""

    weights: int
    steps: float
    """That one machine would make."""
    step_of_updates: float
    """k of the step codec."""
    dataset: float = 0.0
    first_chunk: float = 0.0
    round_limits: RoundLimits = RoundLimits()


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who trains, on average."""

    volunteers: int
    up_mbit: float
    down_mbit: float
    steps_per_second: float
    """Of one volunteer while it is there."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What to expect; bytes and seconds unless said."""

    volunteers: int
    hours: float
    speedup: float
    """Over one machine of the same speed that is never off."""
    round_s: float
    rounds: float
    """How many rounds' worth of one machine's work the training holds."""
    update: float
    up_an_hour: float
    """Of each volunteer, as `down_an_hour`."""
    down_an_hour: float
    server_bytes: float
    """In and out of the server or the stores in all, chunks included."""
    updates_per_second: float


def outlook(job: Job, crowd: Crowd) -> Outlook:
    """Return what to expect of a training by such a crowd."""
    update = job.weights * coefficients.up_bits(job.step_of_updates) / 8
    delta = job.weights * coefficients.DOWN_BITS / 8
    round_s = _round_s(job, crowd, update)
    rounds = max(1.0, job.steps / (crowd.steps_per_second * round_s))
    speedup = coefficients.speedup(crowd.volunteers, rounds)
    seconds = job.steps / crowd.steps_per_second / speedup
    versions_an_hour = HOUR_S / round_s / SHARE.share_to_merge
    present = crowd.volunteers * coefficients.PRESENT
    sent = present * seconds / round_s * update
    fetched = present * seconds / HOUR_S * versions_an_hour * delta
    begun = crowd.volunteers * (job.dataset + keyframe(job.weights))
    return Outlook(
        volunteers=crowd.volunteers,
        hours=seconds / HOUR_S,
        speedup=speedup,
        round_s=round_s,
        rounds=rounds,
        update=update,
        up_an_hour=update * HOUR_S / round_s,
        down_an_hour=delta * versions_an_hour,
        server_bytes=sent + fetched + begun,
        updates_per_second=present / round_s,
    )


def outlooks(job: Job, crowd: Crowd) -> list[Outlook]:
    """Return what to expect of crowds of the usual sizes, and of the one given."""
    sizes = sorted({*CROWDS, crowd.volunteers})
    return [outlook(job, replace(crowd, volunteers=size)) for size in sizes]


def most_that_help(job: Job, crowd: Crowd) -> int:
    """Return the crowd from which on half as many again save less than a tenth of the time."""
    size = 1
    while size < coefficients.MOST_VOLUNTEERS:
        more = max(size + 1, math.ceil(1.5 * size))
        now, then = (outlook(job, replace(crowd, volunteers=n)).hours for n in (size, more))
        if then > (1 - HELPS) * now:
            return size
        size = more
    return size


def keyframe(weights: int) -> float:
    """Return about how many bytes all weights take on the line."""
    return weights * coefficients.KEY_BITS / 8


def newcomer_wait_s(job: Job, crowd: Crowd) -> float:
    """Return the seconds until a newcomer's first step, start-up of programs aside."""
    return (keyframe(job.weights) + job.first_chunk) / (crowd.down_mbit * MBIT)


def _round_s(job: Job, crowd: Crowd, update: float) -> float:
    known = Known(update_bytes=update, up_bytes_per_s=crowd.up_mbit * MBIT)
    server = crowd.volunteers * coefficients.PRESENT * job.weights * coefficients.SERVER_S_A_WEIGHT
    asked = job.round_limits.model_copy(
        update={"min_seconds": min(limits.ROUND_S, server / coefficients.SERVER_LOAD)}
    )
    made = budget.plan(asked, job.step_of_updates, Allowance(), known)
    most = made.max_steps / crowd.steps_per_second
    return max(made.min_seconds, min(made.max_seconds, most))
