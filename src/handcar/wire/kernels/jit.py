"""What numba compiles, and where it keeps it."""

from __future__ import annotations

from typing import Any

import numba


def compiled(function: Any) -> Any:
    """Return a loop that numba compiles when it is first called, and keeps for the next time."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder to keep it in
        return numba.njit(nogil=True, error_model="numpy")(function)
