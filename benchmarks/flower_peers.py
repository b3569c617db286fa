"""Flower's own aggregation, in a Python that has flwr, for benchmarks/flower.py.

    python flower_peers.py STRATEGY

Reads rounds from stdin and answers each on stdout, arrays in NumPy's format behind their length
in eight bytes. First come the initial weights; then, for each round, how many examples each
client trained on and one row of weights for each; back comes the next version.
"""

from __future__ import annotations

import io
import struct
import sys
from typing import Any

import numpy as np

SETTINGS: dict[str, dict[str, float]] = {
    "FedAvg": {},
    # Twice the mean in the long run; the 0.9 of T.-M. H. Hsu et al. (2019) would be ten times it.
    "FedAvgM": {"server_learning_rate": 1.0, "server_momentum": 0.5},
    "FedAdam": {"eta": 0.003, "tau": 1e-3},
    "FedYogi": {"eta": 0.003, "tau": 1e-3},
}


def read() -> np.ndarray | None:
    """Return the next array; none at the end."""
    head = sys.stdin.buffer.read(8)
    if len(head) < 8:
        return None
    return np.load(io.BytesIO(sys.stdin.buffer.read(struct.unpack("<Q", head)[0])))


def write(array: np.ndarray) -> None:
    """Answer with an array."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    sys.stdout.buffer.write(struct.pack("<Q", buffer.tell()) + buffer.getvalue())
    sys.stdout.buffer.flush()


def main() -> None:
    """Aggregate until stdin ends."""
    from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays

    first = read()
    strategy = made(sys.argv[1], ndarrays_to_parameters([first]))
    number = 0
    while (examples := read()) is not None:
        rows = read()
        number += 1
        results = [
            (None, FitRes(Status(Code.OK, ""), ndarrays_to_parameters([row]), int(count), {}))
            for count, row in zip(examples, rows, strict=True)
        ]
        aggregated, _ = strategy.aggregate_fit(number, results, [])
        write(parameters_to_ndarrays(aggregated)[0].astype(np.float32))


def made(name: str, first: Any) -> Any:
    """Return a strategy."""
    from flwr.server import strategy as strategies

    return getattr(strategies, name)(initial_parameters=first, **SETTINGS[name])


if __name__ == "__main__" and sys.argv[1:] != ["--quick"]:
    main()
