"""The whole job with real processes, as an owner and three volunteers would do it."""

import importlib.util
import json
import subprocess
import sys

import pytest
from processes import Place, blobs_dataset, model_file

pytestmark = pytest.mark.system

EPOCHS = 48
"""So many that the last volunteer to start still has work, on a busy machine too."""
LOADED = """
import sys, numpy, keras
model = keras.models.load_model(sys.argv[1])
data = numpy.load(sys.argv[2])
print(float((model.predict(data["x"], verbose=0).argmax(1) == data["y"]).mean()))
"""


def accuracy_of(path: str, data: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, path, data], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def test_a_stranger_s_data_is_trained_by_three_volunteers_and_exported(here: Place):
    data = blobs_dataset(here.folder)
    here.publish(model_file(here.folder, epochs=EPOCHS))
    volunteers = [here.join(name) for name in ("ada", "emmy", "grace")]
    for volunteer in volunteers:
        assert volunteer.wait(150) == 0, here.logs()
    status = here.stands()
    assert status.state == "finished"
    assert status.records_merged >= status.records_wanted == EPOCHS * 3600
    assert sum(version.updates for version in status.history) == status.updates_merged
    assert all(here.merged_updates_of(name) for name in ("ada", "emmy", "grace"))
    exported = here.folder / "taken.keras"
    told = here.call("export", "blobs", "-o", str(exported), "--server", here.url, "--json")
    assert json.loads(told)["version"] == status.version
    assert accuracy_of(str(exported), str(data)) > 0.9


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_trains_the_same_model(here: Place, backend: str):
    if not importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is not installed: pip install 'handcar[{backend}]'")
    blobs_dataset(here.folder)
    here.publish(model_file(here.folder))
    other = here.join("other", KERAS_BACKEND=backend)
    here.until(lambda: here.merged_updates_of("other") > 0, f"{backend} trains")
    reference = here.join("reference", KERAS_BACKEND="tensorflow")
    here.until(lambda: here.merged_updates_of("reference") > 0, "TensorFlow trains")
    here.until(lambda: (here.stands().accuracy or 0) > 0.8, "it has learnt")
    here.call("finish", "blobs", "--server", here.url)
    assert other.wait(60) == 0, here.logs()
    assert reference.wait(60) == 0, here.logs()
    assert f"with Keras on {backend}" in here.said("other")


def test_a_volunteer_sees_messages_pauses_and_goes_on(published: Place):
    published.join("ada")
    published.until_version(1)
    server = ("--server", published.url)
    published.call("message", "Thank you, all of you!", *server)
    published.call("pause", "blobs", *server)
    published.until(lambda: "Paused" in published.said("ada"), "it pauses")
    assert "Thank you, all of you!" in published.said("ada")
    published.call("resume", "blobs", *server)
    published.until(lambda: "asks to go on" in published.said("ada"), "it goes on")
    published.until_new_version()
