"""Pictures are sound XML with every point in them."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from handcar.simulation.picture import Axis, Line, draw

SVG = "{http://www.w3.org/2000/svg}"


def test_every_point_has_its_place_within_the_picture():
    lines = [Line([(1, 2.0), (2, 1.0), (4, 0.5)], "a < b"), Line([(1, 3.0), (4, 0.25)], "other")]
    picture = ElementTree.fromstring(draw("Loss & time", lines, Axis("hours"), Axis("loss", True)))
    circles = picture.findall(f"{SVG}circle")
    assert len(circles) == 5
    assert all(0 <= float(circle.get("cx")) <= 640 for circle in circles)
    assert all(0 <= float(circle.get("cy")) <= 400 for circle in circles)


def test_what_is_larger_lies_higher():
    picture = ElementTree.fromstring(draw("t", [Line([(0, 1.0), (1, 2.0)])], Axis("x"), Axis("y")))
    first, second = picture.findall(f"{SVG}circle")
    assert float(second.get("cy")) < float(first.get("cy"))


def test_one_point_alone_can_be_drawn():
    assert "<circle" in draw("t", [Line([(1.0, 1.0)])], Axis("x", True), Axis("y"))


def test_nothing_is_not_drawn():
    with pytest.raises(ValueError, match="nothing to draw"):
        draw("t", [Line([])], Axis("x"), Axis("y"))
