"""Keeps a volunteer's rounds as long as its budgets say, while these change."""

from __future__ import annotations

from collections.abc import Iterable

from handcar.protocol.messages import Assignment, RoundLimits
from handcar.volunteer import budget as budgets
from handcar.volunteer.budget import Known, RoundBudget
from handcar.volunteer.line import Line


class Pacing:
    """How long rounds are now; used by the main thread, but for `made`."""

    def __init__(self, assignment: Assignment, line: Line, sizes: Iterable[int] = ()) -> None:
        """Begin with the sizes of the updates that an earlier run made."""
        self._asked = assignment.round
        self._update_step = assignment.update_step
        self._line = line
        self._size: float | None = None
        self._coarse_size: float | None = None
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
            self._coarse_size = budgets.mean_size(self._coarse_size, size)
        else:
            self._size = budgets.mean_size(self._size, size)

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
        used, seconds_left = self._line.up_today()
        a_day = self._line.allowance.up_bytes_a_day
        return Known(
            update_bytes=self._size,
            coarse_bytes=self._coarse_size,
            up_bytes_per_s=self._line.bytes_per_s("up"),
            left_today=budgets.left_today(a_day, used, seconds_left),
        )
