"""A training whose bytes all lie in a bucket, with real processes and a real S3 server."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Place, blobs_dataset, model_file

from handcar.simulation.stage import kill
from weed import KEY, PRIVATE, SECRET, Weed

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("weed")]
ACKNOWLEDGED = "select id from rounds_update where state in ('received', 'checked', 'merged')"


@pytest.fixture
def here(tmp_path: Path, weed: Weed) -> Iterator[Place]:
    """A running server that keeps its bytes in a bucket, with a model that trains."""
    with Place(tmp_path) as place:
        place.environment |= {
            "HANDCAR_STORE": f"s3://{PRIVATE}/training",
            "HANDCAR_STORE_ENDPOINT": weed.endpoint,
            "HANDCAR_STORE_KEY": KEY,
            "HANDCAR_STORE_SECRET": SECRET,
        }
        place.serve_here()
        blobs_dataset(place.folder)
        place.publish(model_file(place.folder))
        yield place


@pytest.fixture
def nothing_comes_through(here: Place) -> Iterator[None]:
    """The server takes no bytes itself: where they would gather nothing can be written."""
    uploads = here.folder / "server" / "uploads"
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1g", "tmpfs", str(uploads)]
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("making a folder that nobody can write to needs root and mount")
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount")
    yield
    subprocess.run(["umount", "-l", str(uploads)], check=False)


@pytest.mark.usefixtures("nothing_comes_through")
def test_updates_go_straight_to_the_bucket_and_a_killed_server_loses_none(here: Place):
    rng = random.Random(2)
    volunteers = [here.join(name) for name in ("ada", "emmy")]
    here.until_version(2)
    for _ in range(2):
        time.sleep(rng.uniform(0.3, 2.0))
        received = set(here.rows(ACKNOWLEDGED))
        kill(here.server)
        here.serve_here()
        assert received <= set(here.rows(ACKNOWLEDGED)), "an acknowledged update was lost"
        here.until_new_version()
    assert all(volunteer.poll() is None for volunteer in volunteers), here.logs()
    (merged,) = here.rows("select count(*) from rounds_update where state = 'merged'")[0]
    (counted,) = here.rows("select sum(updates) from rounds_version where not undone")[0]
    assert merged == counted > 0
    assert not list((here.folder / "server" / "blobs").iterdir())
