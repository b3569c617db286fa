"""What a volunteer's standing is, and what follows from it: weight, audits, limits.

Standing is earned by work alone and lost at once. It belongs to one volunteer in one model, so
many new accounts are many newcomers, and what newcomers of one address can do is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

NEW_ROUNDS = 4
NEW_WEIGHT = 0.25
"""A volunteer's first rounds count so much, until two of them came out the same in audits."""
ALWAYS_AUDITED = 2
AUDITED_AT_LEAST = 0.02
AUDITED = 6.0
"""Over the updates found sound in a row: the chance of the next audit. With 1, as BOINC has it, who
earned standing and then poisons was found after a dozen updates, which leave their mark."""
TRUSTED_FROM = 10
"""As many sound updates in a row as make a host trusted in BOINC."""
MOST = 1 / 3
"""Of a round's work that one account or one block of addresses may have in a merge."""

Groups = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one volunteer in one model."""

    accepted: int = 0
    """Updates, since the last that failed an audit."""
    audited: int = 0
    """Of these, how many passed an audit."""
    failed: int = 0
    """Audits failed, ever."""

    @property
    def is_trusted(self) -> bool:
        """Whether it has shown enough to count for itself and to audit others."""
        return self.accepted >= TRUSTED_FROM and self.audited >= ALWAYS_AUDITED


def weight(standing: Standing) -> float:
    """Return what its work counts, in (0, 1]."""
    is_new = standing.accepted < NEW_ROUNDS and standing.audited < ALWAYS_AUDITED
    return NEW_WEIGHT if is_new else 1.0


def audit_rate(standing: Standing) -> float:
    """Return the chance that its next update is audited.

    The first two always; then six over the updates found sound in a row, after BOINC's one,
    by which it replicates the work of hosts (D. P. Anderson, "BOINC: a platform for volunteer
    computing", 2020, on adaptive replication), and never below 2 %. After a failed audit it
    begins anew.
    """
    if standing.audited < ALWAYS_AUDITED:
        return 1.0
    return min(1.0, max(AUDITED / max(standing.accepted, 1), AUDITED_AT_LEAST))


def within_shares(
    counted: Sequence[float],
    groups: Sequence[Groups],
    *,
    total: float,
    all_groups: Sequence[Groups],
) -> list[float]:
    """Return what updates count when no group has more than its share of a round's work.

    `counted` and `groups` are of the updates in a merge; `total` is the work of a round and
    `all_groups` those of everyone who is there. The share is a third, or what is even where
    there are fewer than three groups of a kind. Who is in no group of a kind is on its own.
    """
    kept = list(counted)
    for kind in range(max(map(len, groups), default=0)):
        names = [_name(one, kind, index) for index, one in enumerate(groups)]
        there = {_name(one, kind, index) for index, one in enumerate(all_groups)}
        most = max(MOST, 1.0 / max(1, len(there))) * total
        sums: Counter[Hashable] = Counter()
        for name, work in zip(names, kept, strict=True):
            sums[name] += work  # type: ignore[assignment]  # work is a fraction of steps
        kept = [
            work * min(1.0, most / sums[name]) if sums[name] else work
            for name, work in zip(names, kept, strict=True)
        ]
    return kept


def _name(groups: Groups, kind: int, index: int) -> Hashable:
    name = groups[kind] if kind < len(groups) else None
    return ("alone", index) if name is None else name
