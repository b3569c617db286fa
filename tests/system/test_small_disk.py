"""A data set of several times the disk that a volunteer gives it: it goes round."""

import time

import numpy as np
import pytest
from processes import Place, model_file

from handcar.data.blocks import BlockStore

pytestmark = pytest.mark.system

RECORDS = 28_000
BUDGET = 2_300_000


def noise_dataset(folder):
    """Bytes that no coder makes smaller: 7 MB, in chunks of 256 kB to 1 MB."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (RECORDS, 250), dtype=np.uint8)
    np.savez(folder / "blobs.npz", x=x, y=rng.integers(0, 10, RECORDS))


def bytes_in(folder) -> int:
    """What the chunks and blocks in a folder take, those half decoded too."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size * path.is_file()
        except FileNotFoundError:
            continue  # it has just gone
    return total


def test_every_chunk_of_data_larger_than_the_disk_is_trained_on_within_it(here: Place):
    noise_dataset(here.folder)
    here.publish(
        model_file(
            here.folder,
            input={"shape": [250], "dtype": "uint8"},
            layers=[
                {"layer": "Rescaling", "scale": 0.004},
                {"layer": "Dense", "units": 10, "activation": "softmax"},
            ],
            epochs=10_000,
        )
    )
    home = here.folder / "small"
    here.start(
        *("join", here.url, "--home", str(home), "--name", "small", "--json"),
        *("--disk", str(BUDGET / 1e9)),
        log="small.log",
    )
    seen: set[str] = set()
    left: set[str] = set()
    most, before = 0, set()
    ends = time.monotonic() + 240
    chunks = here.rows("select count(*) from catalog_chunk where split = 'train'")[0][0]
    assert chunks >= 8
    while time.monotonic() < ends and (len(seen) < chunks or not seen & left & before):
        most = max(most, bytes_in(home / "blocks"))
        now = set(BlockStore(home / "blocks").digests())
        left |= seen - now
        seen |= now
        before = now
        time.sleep(0.05)
    assert len(seen) == chunks, here.logs()
    assert left & before, "a chunk that went has come back"
    assert most <= BUDGET
    assert here.said("small").count("makes room") == 1
    assert here.shown("small")["progress"]["steps"] > 0
    assert "is left out" not in here.logs()
