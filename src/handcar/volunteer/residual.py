"""Error feedback: half of what coding dropped of an update goes into the next one.

After F. Seide et al., "1-bit stochastic gradient descent", Interspeech 2014, which feeds back
all of it. With a step that follows the rms that has no end: what is never large enough to be
sent makes the step grow, which drops still more. Half of it can't come to more than the
largest change. docs/decisions/0005-error-feedback.md has what was measured.

Nothing depends on it: a residual that is lost or stale costs a little training and harms
nothing.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from handcar import files
from handcar.errors import DiskFull
from handcar.wire.codecs import round_bf16
from handcar.wire.layout import Flat, Layout

SHARE = np.float32(0.5)


class Residual:
    """What the updates of one model still owe, kept over restarts as bfloat16."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._path = path
        self._layout = layout
        self._owed = self._load()

    def added_to(self, change: Flat) -> Flat:
        """Return the difference with what is owed; statistics travel exactly and owe nothing."""
        return change + self._owed

    def keep(self, wanted: Flat, sent: Flat) -> None:
        """Owe half of what `sent`, the decoded update, lacks of `wanted`, its difference."""
        owed = (wanted - sent) * SHARE
        for place in self._layout.statistic_slices:
            owed[place] = 0
        self._owed = round_bf16(owed)
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
