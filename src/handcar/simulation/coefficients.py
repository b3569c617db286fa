"""What benchmarks measured, for `handcar plan`. Each figure names the benchmark that prints it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping

UP_BITS: Mapping[float, float] = {2.0: 1.17, 3.0: 0.70, 4.0: 0.22}
"""Bits a weight of an update by the step of its codec (benchmarks/weights.py)."""
DOWN_BITS = 1.75
"""Bits a weight of a version's delta (benchmarks/weights.py)."""
KEY_BITS = 12.0
"""Bits a weight of a keyframe of trained weights (benchmarks/weights.py)."""
PRESENT = 0.8
"""Share of the volunteers that are there at a time, as in the trainings behind SPEEDUPS."""
SERVER_S_A_WEIGHT = 4.5e-8
"""Seconds of a core to check and merge one update, for each weight (benchmarks/merge_speed.py)."""
SERVER_LOAD = 0.5
"""How much of the worker's time updates may take."""

SPEEDUPS: Mapping[int, float] = {1: 0.8, 4: 2.2, 8: 3.9, 16: 4.9, 64: 3.1}
"""Speed-up over one machine that is never off, by volunteers (speeds ten times apart, a fifth of
them away), in trainings of 4,000 rounds' worth of one machine's work: mean of the tasks measured
(benchmarks/convergence.py, docs/decisions/0013-merging-measured.md)."""
OF_ROUNDS: Mapping[float, float] = {200: 0.73, 4000: 1.0}
"""What is left of it with fewer rounds' worth (the same; eight volunteers, MNIST)."""
MOST_VOLUNTEERS = max(SPEEDUPS)


def up_bits(step: float) -> float:
    """Return the bits a weight of an update coded with this step, in between by its logarithm."""
    return float(2.0 ** _between({s: math.log2(bits) for s, bits in UP_BITS.items()}, step))


def speedup(volunteers: float, rounds: float) -> float:
    """Return the speed-up of a crowd in a training of so many rounds' worth of work."""
    by_size = {math.log2(size): measured for size, measured in SPEEDUPS.items()}
    by_rounds = {math.log2(count): left for count, left in OF_ROUNDS.items()}
    most = _between(by_size, math.log2(max(1.0, volunteers)))
    return max(SPEEDUPS[1], most * _between(by_rounds, math.log2(rounds)))


def _between(table: Mapping[float, float], at: float) -> float:
    """Return the value at a place between those measured; beyond them the nearest."""
    places = sorted(table)
    after = bisect_right(places, at)
    if after in (0, len(places)):
        return table[places[min(after, len(places) - 1)]]
    low, high = places[after - 1], places[after]
    part = (at - low) / (high - low)
    return (1 - part) * table[low] + part * table[high]
