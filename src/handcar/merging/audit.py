"""Whether a round that was computed again came out as it was sent.

Bits differ between machines; the direction of a round of the same batches survives that (a
cosine of 0.9 and more over 200 steps with weights perturbed as much as bfloat16 would), while
other batches, half the steps or one poisoned record a batch fall below 0.85.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from handcar.merging.sketch import Sketch
from handcar.wire.layout import Flat, Layout

COSINE = 0.85
NORMS = 0.2
"""By so much the lengths may differ."""
MARGIN = 0.2
"""Two who train a round again on other machines may be so far apart in both; each may be right."""


@dataclass(frozen=True, slots=True)
class Audit:
    """How alike the two are."""

    cosine: float
    norm_ratio: float
    """Length sent over length computed."""

    @property
    def passed(self) -> bool:
        """Whether they count as the same round."""
        return self.cosine >= COSINE and abs(self.norm_ratio - 1.0) <= NORMS

    def refutes(self, other: Audit) -> bool:
        """Say whether no honest computation of the same round could have come out as another."""
        if self.passed == other.passed:
            return False
        return not self._is_near(other)

    def _is_near(self, other: Audit) -> bool:
        return (
            abs(self.cosine - other.cosine) <= MARGIN
            and abs(self.norm_ratio - other.norm_ratio) <= MARGIN
        )

    @property
    def text(self) -> str:
        """Say it for a person."""
        return (
            f"computed again from what was announced, the round came out otherwise (cosine "
            f"{self.cosine:.2f}, at least {COSINE:g} counts; {self.norm_ratio:.2f} times as long)"
        )


def compare(sent: Flat, computed: Flat, layout: Layout) -> Audit:
    """Compare the trainable parts of two differences, as volunteers send them: coded."""
    return _compare(*(_trainable(change, layout) for change in (sent, computed)))


def compare_images(sent: Sketch, computed: Sketch) -> Audit:
    """Compare two differences by their sketches under one key: within about 2 %."""
    return _compare(sent, computed)


def _compare(one: Flat | Sketch, other: Flat | Sketch) -> Audit:
    lengths = [float(np.linalg.norm(change)) for change in (one, other)]
    if not np.isfinite(lengths).all() or not all(lengths):
        return Audit(0.0, 0.0)
    return Audit(float(np.dot(one, other)) / (lengths[0] * lengths[1]), lengths[0] / lengths[1])


def _trainable(change: Flat, layout: Layout) -> Flat:
    if not layout.statistic_slices:
        return change
    kept = change.copy()
    for place in layout.statistic_slices:
        kept[place] = 0
    return kept
