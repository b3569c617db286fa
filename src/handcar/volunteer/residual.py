"""Error feedback: what coding dropped of an update goes into the next one, within limits.

After F. Seide et al., "1-bit stochastic gradient descent", Interspeech 2014, which feeds back
all of it. With a step that follows the rms that has no end: what is never large enough to be
sent makes the step grow, which drops still more. So a fine step feeds back half, and no tensor
may owe more than what the round itself changed of it, or a few times that under a coarse step,
which drops nearly everything. docs/decisions/0005-error-feedback.md has what was measured.

Nothing depends on it: a residual that is lost or stale costs a little training and harms
nothing.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from handcar import files
from handcar.errors import DiskFull
from handcar.wire.feedback import owed_after
from handcar.wire.layout import Flat, Layout


class Residual:
    """What the updates of one model still owe, kept over restarts as bfloat16."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._path = path
        self._layout = layout
        self._owed = self._load()

    def added_to(self, change: Flat) -> Flat:
        """Return the difference with what is owed."""
        return change + self._owed

    def keep(self, wanted: Flat, sent: Flat, k: float) -> None:
        """Owe what `sent`, the decoded update of step `k`, lacks of `wanted`, within limits."""
        self._owed = owed_after(wanted, sent, self._owed, self._layout, k)
        self._save()

    def forget(self) -> None:
        """Owe nothing from now on."""
        self._owed = np.zeros(self._layout.size, dtype=np.float32)
        self._save()

    def _save(self) -> None:
        bits = self._owed.view(np.uint32) >> np.uint32(16)
        with suppress(DiskFull):  # then it is lost at the next restart
            files.write(self._path, bits.astype("<u2").tobytes())

    def _load(self) -> Flat:
        nothing = np.zeros(self._layout.size, dtype=np.float32)
        if not self._path.is_file():
            return nothing
        bits = np.frombuffer(self._path.read_bytes(), dtype=np.uint8)
        if bits.size != 2 * self._layout.size:
            return nothing
        owed: Flat = (bits.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
        return owed if np.isfinite(owed).all() else nothing
