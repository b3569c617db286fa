"""Keeps a volunteer's rounds as long as its budgets say, while these change."""

from __future__ import annotations

from collections.abc import Iterable

from handcar.protocol.messages import Assignment, RoundLimits
from handcar.volunteer import budget as budgets
from handcar.volunteer.budget import Known, RoundBudget
from handcar.volunteer.line import Line


class Pacing:
    """How long rounds are now; used by the main thread, but for `made` and `took_up`."""

    def __init__(self, assignment: Assignment, line: Line, sizes: Iterable[int] = ()) -> None:
        """Begin with the sizes of the updates that an earlier run made."""
        self._asked = assignment.round
        self._update_step = assignment.update_step
        self._line = line
        self._size: float | None = None
        self._coarse_size: float | None = None
        self._version_size: float | None = None
        self._between_s: float | None = None
        self._told: RoundBudget | None = None
        self.budget = self._plan()
        for size in sizes:
            self.made(size)

    def ask(self, limits: RoundLimits) -> None:
        """Take what the server asks of rounds from now on."""
        self._asked = limits

    def made(self, size: int) -> None:
        """Note the size of an update, made with the budget of this moment."""
        # The two steps apart: a coarse update must not make a fine one look affordable.
        if self.budget.is_coarse:
            self._coarse_size = budgets.mean(self._coarse_size, size)
        else:
            self._size = budgets.mean(self._size, size)

    def took_up(self, size: int) -> None:
        """Note how many bytes led from the version held to another."""
        self._version_size = budgets.mean(self._version_size, size)

    def was_between(self, seconds: float | None) -> None:
        """Note how long it takes from a round's last step to the next one's first."""
        self._between_s = seconds

    def renew(self) -> str | None:
        """Plan anew; return what to tell the person, if it is news."""
        self.budget = self._plan()
        known = self._known()
        told = known.update_bytes and (known.up_bytes_per_s or self.budget.min_seconds)
        if not told or not budgets.is_news(self._told, self.budget):
            return None
        self._told = self.budget
        return budgets.describe(self.budget, self._line.allowance, known)

    def _plan(self) -> RoundBudget:
        return budgets.plan(self._asked, self._update_step, self._line.allowance, self._known())

    def _known(self) -> Known:
        up, down, seconds_left = self._line.used_today()
        allowed = self._line.allowance
        return Known(
            update_bytes=self._size,
            coarse_bytes=self._coarse_size,
            up_bytes_per_s=self._line.bytes_per_s("up"),
            left_today=budgets.left_today(allowed.up_bytes_a_day, up, seconds_left),
            version_bytes=self._version_size,
            down_bytes_per_s=self._line.bytes_per_s("down"),
            down_left_today=budgets.left_today(allowed.down_bytes_a_day, down, seconds_left),
            between_s=self._between_s,
        )
