"""A server under training is backed up, restored elsewhere, and its volunteers go on with it."""

from __future__ import annotations

import json
import shutil

import pytest
from processes import MODEL, Place

from handcar.simulation.stage import stop

pytestmark = pytest.mark.system


def test_volunteers_go_on_with_a_server_that_was_restored_elsewhere(published: Place):
    here = published
    ada = here.join("ada")
    here.until_version(2)
    file = here.folder / "all.tar.zst"
    told = json.loads(
        here.call("backup", str(file), "--home", str(here.folder / "server"), "--json")
    )
    assert told["blobs"] > 3
    here.until_new_version()  # what comes after the backup is lost, and must not hurt
    stop(here.server)
    shutil.rmtree(here.folder / "server")
    here.call("restore", str(file), "--home", str(here.folder / "server"))
    here.serve_here()
    restored = here.stands()
    assert restored.version >= 2
    merged = here.merged_updates_of("ada")
    # A volunteer that is ahead believes it when it was told twice, a minute apart.
    here.until(lambda: here.stands().version > restored.version, "it goes on", wait_s=300)
    here.until_version(restored.version + 3)
    assert here.merged_updates_of("ada") > merged
    assert ada.poll() is None, here.logs()
    reasons = [row.reason for row in here.stands().refusals]
    assert not [one for one in reasons if "bytes" in one or "read" in one or "fails" in one]
    assert here.status(MODEL).state == "pending"
