"""Versions by others are taken up in the middle of a round, with real processes."""

import pytest
from processes import Place, blobs_dataset, model_file

pytestmark = pytest.mark.system

WIDE = [
    {"layer": "Dense", "units": 1000, "activation": "relu"},
    {"layer": "Dense", "units": 1000, "activation": "relu"},
    {"layer": "Dense", "units": 10, "activation": "softmax"},
]
MOVED = "json_array_length(recipe, '$.earlier_starts') > 0"


def count(here: Place, also: str) -> int:
    return here.rows(f"select count(*) from rounds_update where {MOVED} and {also}")[0][0]


def test_a_round_that_took_up_a_version_is_merged_and_trained_again(here: Place):
    blobs_dataset(here.folder)
    # Steps so slow that a round lasts far longer than it takes to go on from another version.
    asked = {"max_steps": 1000, "max_seconds": 4}
    here.publish(model_file(here.folder, layers=WIDE, round=asked))
    here.join("ann")
    here.join("bob")
    here.until(lambda: count(here, "state = 'merged'") > 2, "it counts")
    here.until(lambda: count(here, "audit = 'passed'") > 0, "it comes out the same")
    assert count(here, "audit = 'failed'") == 0
    assert count(here, "state = 'refused'") == 0
