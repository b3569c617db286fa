"""How long a round lasts, so that line, day and server carry its update. Pure numbers.

Short rounds train best, so a round is as short as the budgets allow: the line (sending an
update and fetching a version take a small share of the round), the day (bytes that the
volunteer allows), the server (updates that it can decode), and this machine (beginning and
ending a round takes time in which nothing is trained). Only when even the longest round
could not carry an update is it coded coarser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from handcar.protocol import limits
from handcar.protocol.messages import RoundLimits
from handcar.volunteer.words import duration, rate_text, size_text

DAY_S = 24 * 3600.0
SHORTEST_S = 3.0
"""Where nothing needs longer rounds and the model asks for no shorter ones."""
DOWN_SHARE = 0.2
"""The share of a round that fetching a version may take: chunks come over the same line."""
BETWEEN_SHARE = 0.05
"""The share of a round that may pass from its last step to the first of the next."""
COARSE_STEP = 4.0
COARSE_SIZE = 0.4
"""A guess at what an update at COARSE_STEP takes of a finer one, until one was made."""
AHEAD = 2
"""With so many own updates unmerged a round goes on, up to the longest: sending more often
than link and server keep up with would only carry more and more."""
MORE_STEPS = 1000
MORE_S = 10.0
"""A round that is not sent yet goes on by so much, at most."""
NEWS = 1.5
"""A round that becomes so many times longer or shorter is worth telling."""
NEWS_FROM_S = 5.0
NOISE = 0.5
"""What the newest value counts in a running mean."""


Because = Literal["model", "line", "down", "day", "server"]
"""Who needs a round as long as it is: the line up or down, what a day allows, ..."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a volunteer allows of the line; None is no limit."""

    up_share: float = 0.1
    """The share of a round that sending its update may take, while rounds can be that long."""
    up_bytes_per_s: float | None = None
    down_bytes_per_s: float | None = None
    up_bytes_a_day: float | None = None
    down_bytes_a_day: float | None = None

    def in_words(self) -> str | None:
        """Say what is allowed; None where there is no limit."""
        rates = ((self.up_bytes_per_s, "up"), (self.down_bytes_per_s, "down"))
        days = ((self.up_bytes_a_day, "up"), (self.down_bytes_a_day, "down"))
        limits = [f"{rate_text(rate)} {way}" for rate, way in rates if rate is not None]
        limits += [f"{size_text(size)} a day {way}" for size, way in days if size is not None]
        return f"You allow at most {', '.join(limits)}." if limits else None


@dataclass(frozen=True, slots=True)
class Known:
    """What has been measured so far; None where nothing has."""

    update_bytes: float | None = None
    """Mean size of own updates at the step that the model asks for."""
    coarse_bytes: float | None = None
    """The same at COARSE_STEP."""
    up_bytes_per_s: float | None = None
    left_today: float | None = None
    """Bytes a second up that the daily limit leaves for the rest of the day; None without one."""
    version_bytes: float | None = None
    """Mean size of what leads from the version held to the next one fetched."""
    down_bytes_per_s: float | None = None
    down_left_today: float | None = None
    between_s: float | None = None
    """Seconds from the last step of a round to the first of the next."""


@dataclass(frozen=True, slots=True)
class RoundBudget:
    """When a round is over, and the step that its update is coded with."""

    max_steps: int
    max_seconds: float
    update_step: float
    min_seconds: float = 0.0
    """What the budgets need; `max_seconds` is never below it."""
    because: Because = "model"
    """Who needs `min_seconds`."""
    is_coarse: bool = False
    """Whether the step is coarser than the model asks for."""
    update_bytes: float | None = None
    """What its update is expected to take."""
    longest_steps: int | None = None
    """Where a round stands still while own updates wait; None where it goes on."""


def plan(asked: RoundLimits, update_step: float, allowance: Allowance, known: Known) -> RoundBudget:
    """Return how long rounds are from now on.

    Never beyond the longest round. Not longer than the model asks for, unless line, day or
    server need it; else as short as helps: a few seconds, or what this machine needs not to be
    busy with beginnings and ends.
    """
    coarse = is_coarse(update_step, allowance, known)
    size = _coarse_bytes(known) if coarse else known.update_bytes
    needs = _needs(size, asked, allowance, known)
    because = max(needs, key=lambda name: needs[name])
    needed = min(needs[because], limits.ROUND_S)
    short = max(SHORTEST_S, (known.between_s or 0.0) / BETWEEN_SHARE)
    return RoundBudget(
        max_steps=asked.max_steps,
        max_seconds=max(needed, min(asked.max_seconds, short)),
        update_step=COARSE_STEP if coarse else update_step,
        is_coarse=coarse,
        min_seconds=needed,
        because=because if needed else "model",
        update_bytes=size,
        longest_steps=asked.longest_steps,
    )


def _needs(
    size: float | None, asked: RoundLimits, allowance: Allowance, known: Known
) -> dict[Because, float]:
    """Return how many seconds a round must last for each of the budgets."""
    down = _least(allowance.down_bytes_per_s, known.down_bytes_per_s)
    version = known.version_bytes
    days = (_seconds(size, known.left_today), _seconds(version, known.down_left_today))
    return {
        "line": _line_seconds(size, allowance, known) / allowance.up_share,
        "down": _seconds(version, down) / DOWN_SHARE,
        "day": max(days),
        "server": asked.min_seconds,
    }


def is_coarse(update_step: float, allowance: Allowance, known: Known) -> bool:
    """Say whether even the longest round can't carry an update at the model's own step."""
    if update_step >= COARSE_STEP or known.update_bytes is None:
        return False
    a_day = allowance.up_bytes_a_day
    too_thin = _line_seconds(known.update_bytes, allowance, known) > limits.ROUND_S
    too_few = a_day is not None and known.update_bytes > a_day * limits.ROUND_S / DAY_S
    return too_thin or too_few


def _coarse_bytes(known: Known) -> float:
    return known.coarse_bytes or COARSE_SIZE * (known.update_bytes or 0.0)


def allowed_rate(allowance: Allowance, known: Known) -> float | None:
    """Return the bytes a second that may go up, measured and allowed; None when unknown."""
    return _least(allowance.up_bytes_per_s, known.up_bytes_per_s)


def _least(*rates: float | None) -> float | None:
    return min((rate for rate in rates if rate), default=None)


def _line_seconds(size: float | None, allowance: Allowance, known: Known) -> float:
    return _seconds(size, allowed_rate(allowance, known))


def _seconds(size: float | None, bytes_per_s: float | None) -> float:
    if size is None or bytes_per_s is None:
        return 0.0
    # Never infinite, so that it can be compared and shown.
    return min(size / bytes_per_s, DAY_S) if bytes_per_s > 0 else DAY_S


def is_over(budget: RoundBudget, *, steps: int, seconds: float, waiting: int) -> bool:
    """Say whether a round ends here, with `waiting` own updates not merged."""
    if waiting >= limits.PENDING_UPDATES:
        return False
    if steps >= limits.ROUND_STEPS or seconds >= limits.ROUND_S:
        return True
    done = steps >= budget.max_steps or seconds >= budget.max_seconds
    return done and seconds >= budget.min_seconds and waiting < AHEAD


def stretch(budget: RoundBudget, *, steps: int, seconds: float) -> tuple[int, float]:
    """Return how many more steps to make, and for how many seconds at most.

    No more steps: the round has its steps, and stands still until it is over.
    """
    steps_left, seconds_left = budget.max_steps - steps, budget.max_seconds - seconds
    if steps_left > 0 and seconds_left > 0:
        return steps_left, seconds_left
    if steps < limits.ROUND_STEPS and seconds < budget.min_seconds:
        return limits.ROUND_STEPS - steps, budget.min_seconds - seconds
    if budget.longest_steps is None:
        return MORE_STEPS, MORE_S
    return max(0, min(MORE_STEPS, budget.longest_steps - steps)), MORE_S


def left_today(a_day: float | None, used: float, seconds_left: float) -> float | None:
    """Return the bytes a second that a daily limit leaves until midnight."""
    if a_day is None:
        return None
    return max(0.0, a_day - used) / max(seconds_left, 1.0)


def mean(before: float | None, value: float) -> float:
    """Return a running mean with one more value."""
    return value if before is None else before + NOISE * (value - before)


# -- in words --------------------------------------------------------------------------------


def is_news(before: RoundBudget | None, now: RoundBudget) -> bool:
    """Say whether a person should be told."""
    if before is None or before.update_step != now.update_step:
        return True
    if max(before.min_seconds, now.min_seconds) < NEWS_FROM_S:
        return False
    ratio = max(before.min_seconds, 0.1) / max(now.min_seconds, 0.1)
    return not 1 / NEWS < ratio < NEWS


def describe(budget: RoundBudget, allowance: Allowance, known: Known) -> str:
    """Say how long a round lasts and why."""
    size = size_text(budget.update_bytes or 0.0)
    takes = duration(_line_seconds(budget.update_bytes, allowance, known))
    line = _line(allowance, known)
    text = f"{line} An update of {size} takes {takes}" if line else f"An update takes {size}"
    if budget.is_coarse:
        text = f"{text}, coded more coarsely: even half an hour would not carry a finer one"
    return f"{text}, {_so(budget, allowance)}"


def _line(allowance: Allowance, known: Known) -> str | None:
    rate, allowed = known.up_bytes_per_s, allowance.up_bytes_per_s
    if allowed is not None and (rate is None or rate > 0.8 * allowed):
        return f"You allow {rate_text(allowed)} up."
    return f"Your line carries about {rate_text(rate)} up." if rate else None


def _so(budget: RoundBudget, allowance: Allowance) -> str:
    lasts = duration(budget.min_seconds)
    if budget.min_seconds < NEWS_FROM_S:
        return f"so rounds are as short as helps, about {duration(budget.max_seconds)}."
    match budget.because:
        case "day":
            days = ((allowance.up_bytes_a_day, "up"), (allowance.down_bytes_a_day, "down"))
            allowed = " and ".join(f"{size_text(size)} a day {way}" for size, way in days if size)
            return f"and you allow {allowed}, so a round lasts about {lasts}."
        case "server":
            return f"and the server asks for rounds of about {lasts} to keep up with everyone."
        case "down":
            return f"and fetching the others' work takes time too, so a round lasts about {lasts}."
    return f"so a round lasts about {lasts}."
