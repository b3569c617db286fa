"""How long a round lasts, so that line, day and server carry its update. Pure numbers.

A round is as short as three budgets allow: the line (sending an update takes a small share
of the round), the day (bytes that the volunteer allows), and the server (updates that it can
decode). Only when even the longest round could not carry an update is it coded coarser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from handcar.protocol import limits
from handcar.protocol.messages import RoundLimits
from handcar.volunteer.words import duration, rate_text, size_text

DAY_S = 24 * 3600.0
SHORT_ROUND_S = 60.0
"""Where nothing asks for more, no round lasts longer: shorter ones train better, but beginning
and ending a round costs a second or so with a large model."""
COARSE_STEP = 4.0
COARSE_SIZE = 0.4
"""A guess at what an update at COARSE_STEP takes of one at 2, until one was made."""
AHEAD = 2
"""With so many own updates unmerged a round goes on, up to the longest: sending more often
than link and server keep up with would only carry more and more."""
MORE_STEPS = 100
MORE_S = 10.0
"""A round that is not sent yet goes on by so much."""
NEWS = 1.5
"""A round that becomes so many times longer or shorter is worth telling."""
NEWS_FROM_S = 5.0
NOISE = 0.5
"""What the newest size counts in the running mean of update sizes."""


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
    """Bytes a second that the daily limit leaves for the rest of the day; None without one."""


@dataclass(frozen=True, slots=True)
class RoundBudget:
    """When a round is over, and the step that its update is coded with."""

    max_steps: int
    max_seconds: float
    update_step: float
    min_seconds: float = 0.0
    """What the budgets need; `max_seconds` is never below it."""
    because: Literal["model", "line", "day", "server"] = "model"
    """Who needs `min_seconds`."""
    is_coarse: bool = False
    """Whether the step is coarser than the model asks for."""
    update_bytes: float | None = None
    """What its update is expected to take."""


def plan(asked: RoundLimits, update_step: float, allowance: Allowance, known: Known) -> RoundBudget:
    """Return how long rounds are from now on.

    Never beyond the longest round; not longer than the model asks for, unless a budget
    needs it; and no longer than a minute where nothing needs more.
    """
    coarse = is_coarse(update_step, allowance, known)
    size = _coarse_bytes(known) if coarse else known.update_bytes
    needs = {
        "line": _line_seconds(size, allowance, known) / allowance.up_share,
        "day": _seconds(size, known.left_today),
        "server": asked.min_seconds,
    }
    because = max(needs, key=lambda name: needs[name])
    needed = min(needs[because], limits.ROUND_S)
    return RoundBudget(
        max_steps=asked.max_steps,
        max_seconds=max(needed, min(asked.max_seconds, SHORT_ROUND_S)),
        update_step=COARSE_STEP if coarse else update_step,
        is_coarse=coarse,
        min_seconds=needed,
        because=because if needed else "model",  # type: ignore[arg-type]  # its own keys
        update_bytes=size,
    )


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
    rates = [rate for rate in (allowance.up_bytes_per_s, known.up_bytes_per_s) if rate]
    return min(rates, default=None)


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
    """Return how many more steps to make, and for how many seconds at most."""
    steps_left, seconds_left = budget.max_steps - steps, budget.max_seconds - seconds
    if steps_left > 0 and seconds_left > 0:
        return steps_left, seconds_left
    if steps < limits.ROUND_STEPS and seconds < budget.min_seconds:
        return limits.ROUND_STEPS - steps, budget.min_seconds - seconds
    return MORE_STEPS, MORE_S


def left_today(a_day: float | None, used: float, seconds_left: float) -> float | None:
    """Return the bytes a second that a daily limit leaves until midnight."""
    if a_day is None:
        return None
    return max(0.0, a_day - used) / max(seconds_left, 1.0)


def mean_size(before: float | None, size: float) -> float:
    """Return the running mean of update sizes with one more."""
    return size if before is None else before + NOISE * (size - before)


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
        return f"so a round is as long as the model asks, at most {duration(budget.max_seconds)}."
    if budget.because == "day":
        a_day = size_text(allowance.up_bytes_a_day or 0.0)
        return f"and you allow {a_day} a day, so a round lasts about {lasts}."
    if budget.because == "server":
        return f"and the server asks for rounds of about {lasts} to keep up with everyone."
    return f"so a round lasts about {lasts}."
