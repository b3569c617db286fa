"""The rules by which updates become versions; the model file names one.

`share` is Handcar's own. The others stand beside it for comparison and for classrooms, where
all machines begin and end together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Starts = Literal["carried", "newest", "waits"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How updates are weighed, when they are merged and how far they move the weights."""

    name: str
    starts: Starts
    """What a volunteer's next round starts from: the newest version with its own updates that
    it lacks carried on top, the newest version as it is, or that which holds its last update."""
    share_to_merge: float
    """A merge is due when so much of a round's work waits; of `counts_updates`, so many updates
    for each active volunteer."""
    patience_rounds: float
    """A merge is due when something waits and the last version is so many rounds old."""
    counts_updates: bool = False
    """Whether an update counts by its staleness alone and not by its steps."""
    clips: bool = True
    """Whether centered clipping bounds what single updates do."""
    rate: float | None = None
    """How far a round moves the weights, in mean differences; none: by the effective volunteers."""
    momentum: float = 0.0
    """Nesterov's, a merge."""


SHARE = Rule("share", starts="carried", share_to_merge=0.5, patience_rounds=1.0)
"""Weights by share of work, own updates carried on top."""
AVERAGE = Rule("average", starts="waits", share_to_merge=1.0, patience_rounds=1.5)
"""Synchronous averaging in rounds of equal time, after H. B. McMahan et al., "Communication-
efficient learning of deep networks from decentralized data", 2017; the gain is `share`'s."""
DILOCO = Rule(
    "diloco",
    starts="waits",
    share_to_merge=1.0,
    patience_rounds=1.5,
    clips=False,
    rate=0.7,
    momentum=0.9,
)
"""A. Douillard et al., "DiLoCo", arXiv 2311.08105: Nesterov momentum over synchronous means."""
FEDBUFF = Rule(
    "fedbuff",
    starts="newest",
    share_to_merge=0.5,
    patience_rounds=2.0,
    counts_updates=True,
    clips=False,
    rate=1.0,
)
"""J. Nguyen et al., "Federated learning with buffered asynchronous aggregation", 2022
(arXiv 2106.06639): a buffer of half the volunteers, discounted by 1 / sqrt(1 + staleness)."""

RULES: Mapping[str, Rule] = {rule.name: rule for rule in (SHARE, AVERAGE, DILOCO, FEDBUFF)}
