"""Numbers and times as people read them."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from handcar.protocol.messages import ModelSummary

register = template.Library()
NOTHING = "–"
MINUTE, HOUR, DAY = 60, 3600, 86_400


@register.filter
def size(count: float | None) -> str:
    """Return bytes as kB, MB, GB, the same as the command line says them."""
    if count is None:
        return NOTHING
    unit, *larger = "B", "kB", "MB", "GB", "TB"
    while count >= 1000 and larger:
        count /= 1000
        unit = larger.pop(0)
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


@register.filter
def count(number: int) -> str:
    """Return a whole number, large ones rounded and in words."""
    for limit, word in ((1e9, "billion"), (1e6, "million")):
        if number >= limit:
            return f"{number / limit:.1f} {word}"
    return f"{number:,}"


@register.filter
def loss(value: float | None) -> str:
    """Return a loss with three figures."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


@register.filter
def percent(share: float | None) -> str:
    """Return a share of one in per cent."""
    return NOTHING if share is None else f"{share:.1%}"


@register.filter
def measure(value: float | None, name: str) -> str:
    """Return a point of a curve as its own measure is written."""
    return percent(value) if name == "accuracy" else loss(value)


@register.filter
def speed(steps_per_second: float) -> str:
    """Return steps per second."""
    return f"{steps_per_second:.1f}" if steps_per_second < 100 else f"{steps_per_second:,.0f}"


@register.simple_tag
def when(moment: datetime, now: datetime) -> SafeString:
    """Return a time that a person and a program can read."""
    return format_html(
        '<time datetime="{}" title="{} UTC">{}</time>',
        moment.isoformat(timespec="seconds"),
        f"{moment:%Y-%m-%d %H:%M}",
        ago((now - moment).total_seconds()),
    )


def ago(seconds: float) -> str:
    """Return how long ago it was, in the largest unit that fits."""
    for unit_s, unit in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute")):
        if seconds >= unit_s:
            units = int(seconds // unit_s)
            return f"{units} {unit}{'' if units == 1 else 's'} ago"
    return "just now"


@register.filter
def state_words(summary: ModelSummary) -> str:
    """Return a model's state in words for people."""
    if summary.state == "pending":
        return "training" if summary.volunteers else "waiting for volunteers"
    return "being prepared" if summary.state == "preparing" else summary.state
