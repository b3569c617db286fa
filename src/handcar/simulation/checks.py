"""What a simulated server asks of an update before it counts: the product's own filters.

In their order: too late, numbers, copies, length, direction, held-out loss, audit. The last two
cost training or judging, and can be left out.
"""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from handcar.merging import audit, direction, filters, gate, trust, watch
from handcar.merging.filters import Seen, Verdict
from handcar.merging.merge import Memory
from handcar.merging.sketch import SIZE, Sketch
from handcar.merging.trust import Standing
from handcar.simulation.updates import Update
from handcar.wire.layout import Flat, Layout

Judge = Callable[[Flat], float]


@dataclass(slots=True)
class Course:
    """Where one volunteer's updates lead, on the whole."""

    mean: float | None = None
    count: int = 0


class Checks:
    """Judges updates one after the other, and remembers what that takes."""

    def __init__(self, layout: Layout, rng: np.random.Generator, judge: Judge | None) -> None:
        """Check all there is to check with a `judge` of weights on held-out records."""
        self.standings: dict[int, Standing] = defaultdict(Standing)
        self.caught: dict[str, int] = defaultdict(int)
        """How many updates each check has refused."""
        self.audits = 0
        self._layout = layout
        self._rng = rng
        self._judge = judge
        self._key = rng.bytes(16)
        self._norms: deque[float] = deque(maxlen=filters.NORMS_KEPT)
        self._sketches: deque[np.ndarray] = deque(maxlen=filters.SKETCHES_KEPT)
        self._courses: dict[int, Course] = defaultdict(Course)
        self._own: dict[int, deque[tuple[int, float, Sketch]]] = defaultdict(deque)
        self._judged: deque[tuple[bool, float]] = deque(maxlen=direction.LOOKED_AT)
        self._rises: deque[float] = deque(maxlen=gate.LOOKED_AT)
        self._losses: deque[float] = deque(maxlen=watch.LOOKED_AT)
        self._base = (-1, 0.0)
        self.is_suspended = False
        """Whether directions were not held against anyone, as they would have refused most."""

    def fault(self, update: Update, newest: tuple[int, Flat], memory: Memory) -> str | None:
        """Return why an update does not count; none if it does. Sets its factor and sketch."""
        found = self._examined(update, newest[0], memory)
        update.factor, update.sketch = found.factor, found.sketch
        # As the server does: what is longer than usual is computed again, though it may count.
        odd = self._strays(update, found) or found.factor < 1.0
        checks: tuple[tuple[str, Callable[[], str | None]], ...] = (
            ("numbers", lambda: found.reason),
            ("gate", lambda: self._gate(update, newest)),
            ("audit", lambda: self._audit(update, odd)),
        )
        for name, check in checks:
            if reason := check():
                self.caught[name] += 1
                return reason
        self._accept(update)
        return None

    def note_merged(self, updates: Sequence[Update], parts: Sequence[float], number: int) -> None:
        """Remember what is whose in the reference."""
        for update, part in zip(updates, parts, strict=True):
            if update.sketch is not None:
                self._own[update.volunteer].append((number, part, update.sketch))

    def trust(self, volunteer: int) -> float:
        """Return what a volunteer's work counts."""
        return trust.weight(self.standings[volunteer])

    def is_worse(self, weights: Flat) -> bool:
        """Say whether a new version is worse than those before it; always no without a judge."""
        if self._judge is None:
            return False
        loss = self._judge(weights)
        worse = watch.is_worse(loss, list(self._losses))
        if not worse:
            self._losses.append(loss)
        return worse

    # -- one by one

    def _examined(self, update: Update, newest: int, memory: Memory) -> Verdict:
        seen = Seen(
            norms=list(self._norms),
            sketches=np.array(self._sketches, np.float32).reshape(-1, SIZE),
            others=self._others(update.volunteer, newest, memory),
            key=self._key,
        )
        found = filters.examine(update.change, self._layout, steps=update.steps, seen=seen)
        # Refused ones too: when a learning rate warms up, honest updates soon are three times
        # as long as the last accepted, and were all refused for ever after.
        if found.norm > 0.0:
            self._norms.append(found.norm)
        return found

    def _others(self, volunteer: int, newest: int, memory: Memory) -> Sketch | None:
        if memory.reference_sketch is None:
            return None
        own = self._own[volunteer]
        while own and own[0][0] < newest - direction.OWN_VERSIONS:
            own.popleft()
        lately = [(newest - number, part, image) for number, part, image in own]
        return direction.of_others(memory.reference_sketch, lately)

    def _strays(self, update: Update, found: Verdict) -> bool:
        """Say whether its volunteer's updates lead elsewhere than the others': reason to audit."""
        if found.cosine is None:
            return False
        course = self._courses[update.volunteer]
        course.count += 1
        course.mean = direction.follow(course.mean, found.cosine, course.count)
        strays = direction.opposes(course.mean, course.count, self._usual_mean(update.volunteer))
        self._judged.append((strays, float(update.steps)))
        self.is_suspended = direction.is_suspended(list(self._judged))
        return strays and not self.is_suspended

    def _usual_mean(self, but: int) -> float | None:
        """Return the median of the other volunteers' means."""
        others = [one.mean for name, one in self._courses.items() if name != but]
        means = [mean for mean in others if mean is not None]
        return statistics.median(means) if means else None

    def _gate(self, update: Update, newest: tuple[int, Flat]) -> str | None:
        if self._judge is None:
            return None
        number, weights = newest
        if self._base[0] != number:
            self._base = (number, self._judge(weights))
        part = np.float32(gate.PART * update.factor)
        with_it = weights + part * update.change
        for place in self._layout.statistic_slices:
            with_it[place] = weights[place]
        rise = gate.rise(self._judge(with_it), self._base[1])
        rises = list(self._rises)
        if gate.is_too_much(rise, rises):
            return gate.text(rise, rises)
        self._rises.append(rise)
        return None

    def _audit(self, update: Update, odd: bool) -> str | None:
        standing = self.standings[update.volunteer]
        if not odd and self._rng.random() >= trust.audit_rate(standing):
            return None
        self.audits += 1
        found = audit.compare(update.change, update.computed_again(), self._layout)
        if found.passed:
            self.standings[update.volunteer] = replace(standing, audited=standing.audited + 1)
            return None
        self.standings[update.volunteer] = Standing(failed=standing.failed + 1)
        return found.text

    def _accept(self, update: Update) -> None:
        if update.sketch is not None:
            self._sketches.append(update.sketch)
        standing = self.standings[update.volunteer]
        self.standings[update.volunteer] = replace(standing, accepted=standing.accepted + 1)
