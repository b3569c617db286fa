"""The inner loops of coding, compiled by numba: the same integers as NumPy's way, sooner.

Nothing but `compiled.py` imports this, where numba is installed and once there is enough to do.
"""

from handcar.wire.kernels.lanes import count, decode, encode, in_order
from handcar.wire.kernels.matrices import (
    activity,
    contexts,
    squares,
    symbols,
    turn,
    turn_back,
)
from handcar.wire.kernels.nonzero import add, fold, locate, put

__all__ = [
    "activity",
    "add",
    "contexts",
    "count",
    "decode",
    "encode",
    "fold",
    "in_order",
    "locate",
    "put",
    "squares",
    "symbols",
    "turn",
    "turn_back",
]
