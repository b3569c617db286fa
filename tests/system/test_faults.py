"""What can go wrong, with real processes: each ends in a trained model and a clear message."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from processes import Place, blobs_dataset, model_file

from handcar.simulation.network import ThrottledLink
from handcar.simulation.stage import kill

pytestmark = pytest.mark.system


def assert_every_update_counted_once(here: Place) -> None:
    """The versions' own counts agree with the updates that name them."""
    (merged,) = here.rows("select count(*) from rounds_update where state = 'merged'")[0]
    (counted,) = here.rows("select sum(updates) from rounds_version where not undone")[0]
    assert merged == counted
    assert merged > 0


def blocks(here: Place, name: str) -> dict[str, int]:
    folder = here.folder / name / "blocks"
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_volunteers_killed_at_random_go_on_and_nothing_counts_twice(published: Place):
    rng = random.Random(0)
    names = ("ada", "emmy")
    running = {name: published.join(name) for name in names}
    published.until_version(1)
    for _ in range(3):
        name = rng.choice(names)
        time.sleep(rng.uniform(0.5, 4.0))
        kill(running[name])
        before = blocks(published, name)
        running[name] = published.join(name)
        published.until_new_version()
        after = blocks(published, name)
        assert before.items() <= after.items(), "a chunk was fetched again"
        published.until(
            lambda name=name: published.lines(name)[-1].get("progress", {}).get("round_steps"),
            "it trains again",
        )
    for process in running.values():
        process.send_signal(signal.SIGINT)
    assert [process.wait(150) for process in running.values()] == [130, 130], published.logs()
    assert_every_update_counted_once(published)


def test_a_restart_goes_on_at_the_step_where_it_stopped(published: Place):
    ada = published.join("ada")
    published.until_version(2)
    ada.send_signal(signal.SIGINT)
    assert ada.wait(60) == 130
    steps = published.shown("ada")["progress"]["steps"]
    published.join("ada")
    lines = len(published.lines("ada"))
    published.until(
        lambda: (
            len(published.lines("ada")) > lines
            and published.shown("ada")["progress"]["round_steps"]
        ),
        "it trains again",
    )
    assert published.shown("ada")["progress"]["steps"] >= steps > 0


def test_a_server_killed_and_restarted_loses_nothing(published: Place):
    rng = random.Random(1)
    volunteers = [published.join(name) for name in ("ada", "emmy")]
    published.until_version(1)
    for _ in range(3):
        time.sleep(rng.uniform(0.3, 2.0))
        received = set(published.rows(ACKNOWLEDGED))
        kill(published.server)
        time.sleep(rng.uniform(0.0, 1.5))
        published.serve_here()
        assert received <= set(published.rows(ACKNOWLEDGED)), "an acknowledged update was lost"
        published.until_new_version()
    assert all(volunteer.poll() is None for volunteer in volunteers), published.logs()
    assert_every_update_counted_once(published)


ACKNOWLEDGED = "select id from rounds_update where state in ('received', 'checked', 'merged')"


def test_a_server_that_is_away_does_not_stop_the_training(published: Place):
    published.join("ada")
    published.until_version(1)
    kill(published.server)
    before = published.shown("ada")["progress"]["steps"]
    published.until(
        lambda: published.shown("ada")["progress"]["steps"] > before + 300,
        "it trains on without a server",
    )
    published.until(lambda: "Training goes on." in published.said("ada"), "it says so")
    published.serve_here()
    published.until_new_version()


def test_a_chunk_corrupted_on_the_store_is_never_trained_on(here: Place):
    blobs_dataset(here.folder)
    here.publish(model_file(here.folder, epochs=8))
    ((digest,),) = here.rows(
        "select digest from catalog_chunk where split = 'train' order by id limit 1"
    )
    hexadecimal = digest.removeprefix("sha256:")
    (blob,) = (here.folder / "server" / "blobs").rglob(hexadecimal)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 0x55
    blob.chmod(0o644)
    blob.write_bytes(data)
    ada = here.join("ada")
    assert ada.wait(150) == 0, here.logs()
    assert hexadecimal[:12] in here.said("ada"), here.logs()
    assert hexadecimal not in " ".join(map(str, (here.folder / "ada" / "blocks").iterdir()))
    assert here.stands().state == "finished"


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("making a small disk needs root and mount")
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_is_said_and_training_goes_on_with_what_fits(here: Place, small_disk: Path):
    blobs_dataset(here.folder, records=40_000)  # 3.2 MB of records
    here.publish(model_file(here.folder, epochs=2))
    (here.folder / "ada").symlink_to(small_disk)
    ada = here.join("ada")
    assert ada.wait(150) == 0, here.logs()
    assert "no room left on the disk" in here.said("ada")
    assert here.stands().updates_merged > 0


def test_a_line_that_keeps_dropping_still_carries_every_update(here: Place):
    blobs_dataset(here.folder)
    here.publish(model_file(here.folder, epochs=8))
    parts = urlsplit(here.url)
    with ThrottledLink(
        (parts.hostname, parts.port), up_bits_per_s=5e5, down_bits_per_s=4e6, latency_s=0.02
    ) as link:
        ada = here.join("ada", link.url)
        drops = 0
        while ada.poll() is None and drops < 400:
            time.sleep(0.5)
            link.cut()
            drops += 1
        assert ada.wait(150) == 0, here.logs()
    assert drops > 5
    assert_every_update_counted_once(here)
