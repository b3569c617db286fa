"""Whether the inner loops are compiled here: where numba is installed and the work is worth it.

numba takes a second to import and, once on each machine, some to compile. What it makes is kept
beside this package, or in the user's folder for caches where that can't be written.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

log = logging.getLogger(__name__)

FROM = 1 << 20
"""Numbers from which on it is worth it."""


def kernels(size: int) -> Any | None:
    """Return the compiled loops for so many numbers, or none: then NumPy does it."""
    return _loaded() if size >= FROM else None


@lru_cache(maxsize=1)
def _loaded() -> Any | None:
    try:
        from handcar.wire import kernels
    except ImportError:
        return None
    except Exception as error:  # a numba that doesn't fit this NumPy or this machine
        log.warning("numba is installed and can't be used: %s", error)
        return None
    return kernels
