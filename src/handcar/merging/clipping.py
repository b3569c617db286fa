"""Centered clipping: what is far from what was merged lately counts only up to a radius.

After S. P. Karimireddy et al., "Learning from history for Byzantine robust optimization", 2021
(arXiv 2012.10333). Two things differ. Volunteers make tenfold different steps, so updates are
compared by their change per step; chance moves that by one over the root of the steps, so a
distance counts times their root. And distances are taken between sketches, so that each update
is decoded once: clipping is linear in the updates, and the sketches give its coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ITERATIONS = 3

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mixture:
    """The merged difference as a sum: coefficient times update, and `of_start` times the start."""

    of_updates: tuple[float, ...]
    of_start: float = 0.0


def plain(weights: Numbers) -> Mixture:
    """Return the mean by weights."""
    return Mixture(tuple((weights / weights.sum()).tolist()))


def clipped(sketches: Numbers, steps: Numbers, weights: Numbers, start: Numbers) -> Mixture:
    """Return the centered-clipped mean of updates as coefficients.

    `sketches` is of shape (count, size), `steps` and `weights` of (count,); `start` is the sketch
    of the change per step that was merged lately, all zero when there is none. The radius is the
    median distance, so with one update alone nothing is clipped.
    """
    if len(steps) == 1:
        return plain(weights)
    per_step = sketches / steps[:, None]
    shares = weights * steps / (weights * steps).sum()
    center, of_start, of_each = start, 1.0, np.zeros(len(steps))
    for _ in range(ITERATIONS):
        distances = np.linalg.norm(per_step - center, axis=1) * np.sqrt(steps)
        parts = shares * _shortening(distances)
        kept = 1.0 - parts.sum()
        center = kept * center + parts @ per_step
        of_start, of_each = kept * of_start, kept * of_each + parts
    if not start.any():  # nothing is known: only the updates' shares of the mixture matter
        of_start, of_each = 0.0, of_each / of_each.sum()
    mean_steps = (weights * steps).sum() / weights.sum()
    return Mixture(tuple((of_each * mean_steps / steps).tolist()), float(of_start * mean_steps))


def _shortening(distances: Numbers) -> Numbers:
    radius = float(np.median(distances))
    return np.minimum(1.0, radius / np.maximum(distances, 1e-30))
