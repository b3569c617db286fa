"""A curve as an SVG picture: no library, light and dark alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 40, 52
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2")


@dataclass(frozen=True, slots=True)
class Line:
    """Points in order, and what they are called; an empty name has no place in the key."""

    points: Sequence[tuple[float, float]]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis says; a logarithmic one needs numbers above zero."""

    name: str
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies, in no unit."""
        return math.log(value) if self.logarithmic else value


def draw(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """Return the picture. Raises ValueError without a point."""
    points = [point for line in lines for point in line.points]
    if not points:
        raise ValueError("nothing to draw: no line has a point")
    horizontal = _scale(x, [at for at, _ in points], LEFT, WIDTH - RIGHT)
    vertical = _scale(y, [at for _, at in points], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(title, {chr(34): "&quot;"})}" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#6b7280">',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
        *(_tick_x(at, horizontal.at(at)) for at in horizontal.ticks),
        *(_tick_y(at, vertical.at(at)) for at in vertical.ticks),
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 10}" '
        f'text-anchor="middle">{escape(x.name)}</text>',
        f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y.name)}</text>',
    ]
    for number, line in enumerate(lines):
        parts += _drawn(line, number, horizontal, vertical)
    return "\n".join([*parts, "</svg>"]) + "\n"


@dataclass(frozen=True, slots=True)
class _Scale:
    axis: Axis
    first: float
    last: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        share = (self.axis.place(value) - self.first) / (self.last - self.first)
        return self.start + share * (self.end - self.start)


def _scale(axis: Axis, values: list[float], start: float, end: float) -> _Scale:
    least, most = min(values), max(values)
    ticks = _powers(least, most) if axis.logarithmic else _even(least, most)
    first, last = (axis.place(value) for value in (least, most))
    if first == last:
        first, last = first - 0.5, last + 0.5
    return _Scale(axis, first, last, start, end, ticks)


def _even(least: float, most: float) -> tuple[float, ...]:
    rough = (most - least) / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
    count = range(math.ceil(least / step), math.floor(most / step) + 1)
    return tuple(number * step for number in count)


def _powers(least: float, most: float) -> tuple[float, ...]:
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    marks = [times * 10.0**power for power in powers for times in (1, 2, 5)]
    return tuple(mark for mark in marks if least <= mark <= most)


def _tick_x(value: float, at: float) -> str:
    y = HEIGHT - BOTTOM
    return (
        f'<path d="M{at:.1f} {TOP}V{y}" stroke="#9ca3af" stroke-opacity=".3"/>'
        f'<text x="{at:.1f}" y="{y + 18}" text-anchor="middle">{value:.6g}</text>'
    )


def _tick_y(value: float, at: float) -> str:
    return (
        f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#9ca3af" stroke-opacity=".3"/>'
        f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:.4g}</text>'
    )


def _drawn(line: Line, number: int, x: _Scale, y: _Scale) -> list[str]:
    colour = COLOURS[number % len(COLOURS)]
    corners = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in line.points)
    parts = [f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="2"/>']
    parts += [
        f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="3" fill="{colour}"/>'
        for a, b in line.points
    ]
    if line.name:
        at = TOP + 16 + 18 * number
        parts.append(
            f'<text x="{WIDTH - RIGHT - 6}" y="{at}" text-anchor="end" fill="{colour}">'
            f"{escape(line.name)}</text>"
        )
    return parts
