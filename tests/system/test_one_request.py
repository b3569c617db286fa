"""One request, followed through the processes of a real server; and what a stop leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from processes import MODEL, Place, blobs_dataset, model_file

from handcar.simulation.stage import stop

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.fixture
def talking(tmp_path: Path) -> Iterator[Place]:
    """A server that logs all that it does as JSON, with a model."""
    with Place(tmp_path) as place:
        place.environment |= {"HANDCAR_LOG": "INFO", "HANDCAR_LOG_FORMAT": "json"}
        place.serve_here()
        blobs_dataset(place.folder)
        place.publish(model_file(place.folder))
        yield place


def logged(place: Place) -> list[dict[str, Any]]:
    lines = (place.folder / "serve.log").read_text().splitlines()
    # TensorFlow writes lines of its own from C++.
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [told for told in found if "logger" in told]


def test_one_id_leads_from_the_announcement_through_web_and_worker_to_the_version(talking):
    talking.join("ann")
    talking.until_version(2)

    def merged() -> list[dict[str, Any]]:
        return [line for line in logged(talking) if ": merged in version " in line["message"]]

    last = talking.until(merged, "the log names an update that was merged")[0]
    update = last["message"].split()[1]
    assert last["request_id"] == f"update-{update}"
    about = [line for line in logged(talking) if line.get("request_id") == last["request_id"]]
    said = [line["message"].rpartition(": ")[2] for line in about]
    for event in ("announced by volunteer", "received", "checked", "merged in version"):
        assert any(text.startswith(event) for text in said), (event, said)
    processes = {line["process"] for line in about}
    assert len(processes) > 1
    version = int(last["message"].rpartition(" ")[2])
    rows = talking.rows("select number from rounds_version where number = ?", version)
    assert rows == [(version,)]


def test_what_heartbeats_told_is_written_when_the_server_stops(talking):
    talking.until(lambda: talking.stands().version >= 0, "version 0 is there")
    api = f"{talking.url}/api/v1"
    told = {"name": "ann", "client_version": "1"}
    token = httpx2.post(f"{api}/volunteers", json=told).json()["token"]
    beat = {"model_id": MODEL, "version": 0, "step": 1, "records": 1}
    headers = {"Authorization": f"Bearer {token}"}
    for step in (1, 77):
        answer = httpx2.post(f"{api}/heartbeat", json=beat | {"step": step}, headers=headers)
        assert answer.status_code == 200
    stop(talking.server)
    assert talking.rows("select step from rounds_participation") == [(77,)]
