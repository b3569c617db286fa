"""What the columns of a table are, found out in one pass over its rows."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Literal

from handcar.data.readers.csvfile import Table, Value
from handcar.errors import DataError

GAPS = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})
MOST_VALUES = 10_000
"""A column of more texts is an id or prose."""
MOSTLY = 0.9
FEW = 64
SAMPLE = 65_536
"""So many values of a column, drawn at random, give its median."""

Kind = Literal["number", "category", "text", "empty"]


def is_gap(value: Value) -> bool:
    """Say whether a value is missing."""
    if isinstance(value, str):
        return value.lower() in GAPS
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_number(value: Value) -> float | None:
    """Return a finite number, or None for anything else."""
    if value is None or (isinstance(value, str) and "_" in value):  # 1_000: only Python's
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_whole(value: Value) -> bool:
    if isinstance(value, str):
        return value.lstrip("+-").isdecimal()
    return isinstance(value, int)


@dataclass(slots=True)
class Study:
    """What is known of one column so far."""

    name: str
    holds_texts: bool
    """Known from the file: its texts are no numbers, whatever they look like."""
    whole: bool = True
    gaps: int = 0
    numbers: int = 0
    odd: tuple[int, Value] | None = None
    """The first value that is no number, and where."""
    values: dict[str, int] | None = field(default_factory=dict)
    """How often each text occurs, None beyond MOST_VALUES."""
    sample: list[float] = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 - a sample

    @property
    def kind(self) -> Kind:
        """What the column is."""
        if self.numbers and self.odd is None:
            return "number"
        if self.values is None:
            return "text"
        return "category" if self.values else "empty"

    def add(self, number: int, value: Value) -> None:
        """Look at the value of one row."""
        if is_gap(value):
            self.gaps += 1
            return
        got = None if self.holds_texts else as_number(value)
        if got is not None:
            self._add_number(value, got)
        elif self.odd is None:
            self.odd = (number, value)
        if self.values is not None:
            text = str(value)
            self.values[text] = self.values.get(text, 0) + 1
            if len(self.values) > MOST_VALUES:
                self.values = None

    def _add_number(self, value: Value, number: float) -> None:
        self.whole = self.whole and _is_whole(value)
        self.numbers += 1
        if len(self.sample) < SAMPLE:
            self.sample.append(number)
        elif (place := self.rng.randrange(self.numbers)) < SAMPLE:
            self.sample[place] = number


def studied(table: Table, label: int) -> list[Study]:
    """Go through all rows. Raises DataError for what is no table to train on."""
    studies = [Study(*facts) for facts in zip(table.names, table.texts, strict=True)]
    rows = 0
    for number, row in table.rows():
        if is_gap(row[label]):
            raise DataError(
                f"{table.path}: {table.place} {number}: the label {table.names[label]} is "
                "missing: give it or take the row out"
            )
        for study, value in zip(studies, row, strict=True):
            study.add(number, value)
        rows += 1
    for study in studies:
        _expect_even(table, study, rows)
    return studies


def _expect_even(table: Table, study: Study, rows: int) -> None:
    """Refuse a column of numbers with a few other texts in it: somebody mistyped."""
    few = study.values is not None and len(study.values) <= FEW
    if study.odd is None or few or study.numbers < MOSTLY * (rows - study.gaps):
        return
    number, value = study.odd
    raise DataError(
        f"{table.path}: {table.place} {number}: {study.name} is {value}, expected a number like "
        "most others in this column: mend it, or leave it empty if it is not known"
    )
