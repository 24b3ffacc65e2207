import itertools
import xml.etree.ElementTree as ET

import pytest

from edgetiny.page import svg_file
from edgetiny.svg import Series, line_chart, tick_text, ticks


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.3, 7.9), (1e-4, 2e-4), (5, 5), (-3, 1e6)])
def test_ticks_are_round_even_and_span_the_data(low, high):
    found = ticks(low, high)
    steps = {round(b - a, 9) for a, b in itertools.pairwise(found)}
    assert found[0] <= low
    assert found[-1] >= high
    assert len(steps) == 1
    assert 2 <= len(found) <= 12


def test_every_point_lies_inside_the_picture_and_higher_values_stand_higher():
    chart = line_chart(
        [Series("a", [(0, 1.0), (10, 3.0)]), Series("b < c", [(5, 2.0)])], "tokens", "loss"
    )
    root = ET.fromstring(chart)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    lines = [element for element in root.iter() if element.tag == "polyline"]
    points = [
        tuple(map(float, pair.split(",")))
        for line in lines
        for pair in line.attrib["points"].split()
    ]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
    (x0, y0), (x1, y1), _ = points
    assert x0 < x1
    assert y0 > y1
    assert "b < c" in [element.text for element in root.iter() if element.tag == "text"]


def test_no_name_of_the_legend_stands_on_the_plot_or_on_another():
    names = [f"a curve called {number}" for number in range(9)]
    chart = line_chart([Series(name, [(0, 0.0), (1, 1.0)]) for name in names], "x", "y")
    root = ET.fromstring(chart)
    texts = [element for element in root.iter() if element.text in names]
    places = [(float(text.attrib["x"]), float(text.attrib["y"])) for text in texts]
    points = root.find("polyline").attrib["points"].replace(",", " ").split()
    assert len(set(places)) == len(names)
    assert max(y for _, y in places) < min(float(y) for y in points[1::2])
    for (x0, y0), (x1, y1) in itertools.pairwise(places):
        assert (y0 == y1 and x1 - x0 > 100) or (y1 > y0 and x1 < x0)


def test_long_numbers_are_shortened():
    assert [tick_text(value) for value in (0.5, 1500, 2e6)] == ["0.5", "1.5k", "2M"]


def test_a_file_of_its_own_names_no_style_of_a_page():
    chart = line_chart([Series(str(n), [(0, n), (1, n)]) for n in range(7)], "x", "y")
    text = svg_file(chart)
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in text
    assert all(f".s{n} {{ stroke: #" in text for n in range(7))
