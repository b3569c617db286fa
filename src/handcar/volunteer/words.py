"""Sizes, rates and times as people say them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return a length of time as people say it."""
    if seconds < 0.1:
        return "less than 0.1 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 120 * 60:
        return f"{seconds / 60:.0f} minutes"
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.0f} days"


def rate_text(bytes_per_s: float) -> str:
    """Return a rate as providers advertise it."""
    megabits = bytes_per_s * 8 / 1e6
    return f"{megabits:.0f} Mbit/s" if megabits >= 10 else f"{megabits:.2g} Mbit/s"


def size_text(count: float) -> str:
    """Return a number of bytes as people write it."""
    units = ["B", "kB", "MB", "GB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.0f} B" if units[0] == "B" else f"{count:.1f} {units[0]}"
