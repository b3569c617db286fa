"""Whether a volunteer goes, on the whole, where the others go.

One update's cosine with what was merged lately says little: honest ones fall below zero by
chance. A running mean over a volunteer's updates tells flips and noise from work. A filter can
be wrong about everyone, so it is suspended when it would refuse most of the work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from handcar.merging.sketch import Sketch

REFERENCE_KEEP = 0.8
"""What a merge leaves of the reference before it."""
OWN_VERSIONS = 20
"""After so many versions next to nothing is left of an update in the reference."""

KEEP = 0.9
LEAST = 0.02
OF_USUAL = 0.25
"""What a volunteer's mean must be of that of the others, where theirs are small: in short rounds
chance outweighs direction, for everyone."""
FROM = 3
"""A volunteer's updates that must have been measured before it is judged."""
LOOKED_AT = 20
FEWEST = 10
MOST_REFUSED = 0.5


def of_others(reference: Sketch, own: Iterable[tuple[int, float, Sketch]]) -> Sketch:
    """Return the sketch of what was merged lately without a volunteer's own part in it.

    `own` holds, of its merged updates, how many versions ago it was, their part in the reference
    then (`MergeResult.parts`) and their sketch. A round takes back some of what chance did in the
    one before, so fast volunteers, who make much of the reference, would seem to oppose it.
    """
    others = reference.astype(np.float64)
    for versions, part, image in own:
        others -= part * REFERENCE_KEEP**versions * image
    return others.astype(np.float32)


def cosine(image: Sketch, others: Sketch | None) -> float | None:
    """Return the cosine of an update with what others brought, both as sketches."""
    lengths = 0.0 if others is None else float(np.linalg.norm(image) * np.linalg.norm(others))
    return float(image @ others) / lengths if others is not None and lengths else None


def follow(before: float | None, measured: float, count: int) -> float:
    """Return a volunteer's running mean with one more cosine in it, its `count`-th."""
    if before is None:
        return measured
    keep = min(KEEP, (count - 1) / count)  # the plain mean, while there are few
    return keep * before + (1 - keep) * measured


def least(usual: float | None) -> float:
    """Return the mean from which on a volunteer counts; `usual` is the median of the others'."""
    return LEAST if usual is None else min(LEAST, OF_USUAL * usual)


def opposes(mean: float | None, count: int, usual: float | None) -> bool:
    """Say whether a volunteer with so many cosines, this one's among them, is to be refused."""
    return mean is not None and count >= FROM and (math.isnan(mean) or mean < least(usual))


def is_suspended(last: Sequence[tuple[bool, float]]) -> bool:
    """Say whether the filter is wrong about most: from its last judgements, with their steps.

    `last` holds (would be refused, steps) of the last 20 updates that were judged.
    """
    if len(last) < FEWEST:
        return False
    refused = sum(steps for would, steps in last if would)
    return refused > MOST_REFUSED * sum(steps for _, steps in last)


def text(mean: float, usual: float | None) -> str:
    """Say why, for a person."""
    return (
        f"your last updates lead away from where everyone else's lead (mean cosine {mean:.2f}, "
        f"at least {least(usual):.2g} counts): is the data on this machine sound, and is the "
        "program unchanged?"
    )
