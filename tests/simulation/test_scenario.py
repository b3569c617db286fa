"""Scenarios are read, and what is wrong with them is said."""

from __future__ import annotations

import json

import pytest

from handcar.errors import BadInput
from handcar.simulation import scenario as scenarios


@pytest.fixture
def written(tmp_path):
    def write(said):
        path = tmp_path / "scenario.json"
        path.write_text(said if isinstance(said, str) else json.dumps(said))
        return path

    return write


def test_what_is_left_out_has_a_default(written):
    scenario = scenarios.read(written({"model": "mine.json", "volunteers": {"count": 3}}))
    assert scenario.volunteers.count == 3
    assert scenario.volunteers.spread == 10
    assert scenario.starts == "carried"


def test_every_problem_is_named_with_its_place(written):
    path = written({"steps": 0, "volunteers": {"leave": 2}, "colour": "red"})
    with pytest.raises(BadInput) as caught:
        scenarios.read(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert any("steps: " in line for line in lines)
    assert any("volunteers.leave: " in line for line in lines)
    assert any("colour: " in line for line in lines)


def test_one_rate_without_the_other_is_refused(written):
    with pytest.raises(BadInput, match="both up_mbit_per_s and down_mbit_per_s"):
        scenarios.read(written({"lines": {"up_mbit_per_s": [1, 2]}}))


def test_what_is_no_json_is_refused(written):
    with pytest.raises(BadInput, match="JSON"):
        scenarios.read(written("{"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match="nothing.json"):
        scenarios.read(tmp_path / "nothing.json")


def test_a_changed_rule_keeps_the_rest(written):
    rule = scenarios.read(written({"merging": {"rule": "diloco", "momentum": 0.5}}))
    assert rule.merging.of_product().momentum == 0.5
    assert rule.merging.of_product().rate == 0.7
