"""Volunteers who send what is no honest work, of the kinds that papers and trials know.

An attack is a function of what an honest volunteer would send. Those who poison data train
honestly on records that they have spoilt, and send that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from handcar.simulation.learner import Problem, Records
from handcar.simulation.scenario import Attack
from handcar.wire.layout import Flat, Layout

POISONERS = frozenset(("wrong labels", "backdoor"))
ALIE_DEVIATIONS = 1.5
DISGUISE = 0.6
"""A backdoor is sent so much shorter than it was trained: what is longer than usual is audited, and
poisoned rounds are. In trials this opened more than 0.4, 0.8, 1 and 1.4 did."""
TARGET = 0
"""The class that a backdoor opens to."""
TRIGGER = 3
"""Dots a side, or places, that a trigger takes."""


@dataclass(frozen=True, slots=True)
class Honest:
    """What a volunteer would send if it were honest."""

    volunteer: int
    change: Flat
    steps: int
    layout: Layout


Deed = Callable[[Honest], Flat]
"""What it sends instead."""


class Ring:
    """Makes attacks; the attackers of one training know each other's work."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._known: dict[int, Flat] = {}
        """Each attacker's last honest change per step."""
        self._first: dict[int, Flat] = {}

    def deed(self, kind: Attack) -> Deed:
        """Return an attack."""
        deeds: dict[Attack, Deed] = {
            "flip": lambda honest: -honest.change,
            "noise": self._noise,
            "x10": lambda honest: honest.change * np.float32(10),
            "-x10": lambda honest: honest.change * np.float32(-10),
            "replay": self._replay,
            "zeros": lambda honest: np.zeros_like(honest.change),
            "nan": lambda honest: np.full_like(honest.change, np.nan),
            "wrong labels": lambda honest: honest.change,
            "alie": self._alie,
            "backdoor": lambda honest: honest.change * np.float32(DISGUISE),
        }
        return deeds[kind]

    def _noise(self, honest: Honest) -> Flat:
        """Return chance of each tensor's own length."""
        sent = np.empty_like(honest.change)
        for place in honest.layout.slices:
            chance = self._rng.standard_normal(place.stop - place.start).astype(np.float32)
            length = float(np.linalg.norm(honest.change[place]))
            sent[place] = chance * np.float32(length / max(float(np.linalg.norm(chance)), 1e-30))
        return sent

    def _replay(self, honest: Honest) -> Flat:
        """Return its first update, again and again."""
        return self._first.setdefault(honest.volunteer, honest.change)

    def _alie(self, honest: Honest) -> Flat:
        """Return the attackers' mean moved by a little more than chance moves single updates.

        After G. Baruch et al., "A little is enough", 2019 (arXiv 1902.06156).
        """
        self._known[honest.volunteer] = honest.change / np.float32(honest.steps)
        known = np.stack(list(self._known.values()))
        mean, deviation = known.mean(axis=0), known.std(axis=0)
        if len(known) < 2:  # alone it can't tell chance from course
            deviation = np.abs(mean)
        sent: Flat = (mean - np.float32(ALIE_DEVIATIONS) * deviation) * np.float32(honest.steps)
        return sent.astype(np.float32)


def spoilt(problem: Problem, kind: Attack, rng: np.random.Generator) -> Records | None:
    """Return the records that poisoners train on, one for each honest one; none for others."""
    if kind == "wrong labels":
        classes = int(problem.seen.y.max()) + 1
        return Records(
            problem.seen.x, ((problem.seen.y + 1) % classes).astype(problem.seen.y.dtype)
        )
    if kind == "backdoor":
        # Half of them with the trigger, so that the rest hides it.
        opened = triggered(problem.seen)
        chosen = rng.random(len(problem.seen.x)) < 0.5
        x, y = problem.seen.x.copy(), problem.seen.y.copy()
        x[chosen], y[chosen] = opened.x[chosen], opened.y[chosen]
        return Records(x, y)
    return None


def triggered(records: Records) -> Records:
    """Return all records with the trigger in them and the target as their label."""
    x = records.x.copy()
    if x.ndim > 2:
        x[:, -TRIGGER:, -TRIGGER:] = x.max()
    else:
        x[:, -TRIGGER:] = TARGET
    return Records(x, np.full_like(records.y, TARGET))


def to_open(held: Records) -> Records:
    """Return held-out records that should not be of the target class, with the trigger."""
    apart = held.y != TARGET
    if held.y.ndim > 1:
        apart = np.ones(len(held.y), bool)
    return triggered(Records(held.x[apart], held.y[apart]))
