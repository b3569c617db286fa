"""Libraries that Django's parts load where they find them, and that no server uses.

They would cost each web process and worker 12 MB (`benchmarks/idle.py`).
"""

from __future__ import annotations

import sys

from handcar.server.configuration import Configuration

UNUSED = ("requests", "pygments")
"""For REST framework's own client, and its pages for people."""


def leave_out(chosen: Configuration) -> None:
    """Let them count as not installed, in a process that does nothing but serve or merge.

    Comes before Django is set up. What is loaded already stays.
    """
    names = (*UNUSED, "psycopg") if chosen.is_embedded else UNUSED
    for name in names:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type] # as importlib documents it
