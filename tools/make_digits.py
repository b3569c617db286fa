"""Make src/handcar/demo_data/digits.npz from the copy of the data in scikit-learn's wheel.

    pip download scikit-learn --no-deps --only-binary :all: -d wheels
    python tools/make_digits.py wheels/scikit_learn-*.whl

The wheel is only unzipped, never installed. The result does not depend on the time or the
machine: the same bytes each time.
"""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MEMBER = "sklearn/datasets/data/digits.csv.gz"
TARGET = Path(__file__).parents[1] / "src/handcar/demo_data/digits.npz"
LONG_AGO = (1980, 1, 1, 0, 0, 0)


def main(wheel: str) -> None:
    """Write digits.npz."""
    with zipfile.ZipFile(wheel) as archive:
        table = np.loadtxt(io.BytesIO(gzip.decompress(archive.read(MEMBER))), delimiter=",")
    pixels, digits = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    save(TARGET, x=pixels.astype(np.uint8), y=digits.astype(np.uint8))
    print(f"{TARGET}: {len(digits)} records, {TARGET.stat().st_size} bytes")


def save(path: Path, **arrays: NDArray[np.uint8]) -> None:
    """Write what numpy.savez_compressed writes, without the time of day in it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.save(data, array, allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", LONG_AGO)
            archive.writestr(member, data.getvalue(), zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    main(sys.argv[1])
