import json
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.charts import (
    BOTTOM,
    LEFT,
    MAX_POINTS,
    RIGHT,
    TOP,
    Chart,
    Series,
    chart_html,
    format_value,
)


def chart(y: list[float], x: list[float] | None = None, **options: bool) -> ElementTree.Element:
    steps = x or [float(i) for i in range(len(y))]
    html = chart_html(
        Chart(
            title="Loss",
            unit="nats",
            x_name="step",
            series=[Series(name="total", x=steps, y=y)],
            x_range=(steps[0], steps[-1]),
            **options,
        )
    )
    return ElementTree.fromstring(html)


def points(figure: ElementTree.Element, kind: str = "polyline") -> list[tuple[float, float]]:
    (line,) = figure.iter(kind)
    return [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]


values = (
    st.floats(-1e9, 1e9)
    | st.floats(-1e-9, 1e-9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([5e-324, 1e-310, 2.5e-308, -1e-300, 1e300, 1.7e308, -1.7e308])
)


@given(st.lists(values, min_size=1, max_size=30), st.booleans())
def test_every_point_lies_inside_the_axes(y: list[float], from_zero: bool) -> None:
    for x_place, y_place in points(chart(y, from_zero=from_zero)):
        assert LEFT <= x_place <= RIGHT
        assert TOP - 0.1 <= y_place <= BOTTOM + 0.1


@given(st.lists(values, min_size=2, max_size=30))
def test_axis_has_between_two_and_eight_round_ticks(y: list[float]) -> None:
    figure = chart(y)
    labels = [t.text for t in figure.iter("text") if t.attrib["text-anchor"] == "end"]
    assert 2 <= len(labels) <= 8
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    "y", [[0.0, 5e-324], [-5e-324, 1e-310], [-1.7e308, 1.7e308], [1e-300, 2e-300], [0.0, 1e300]]
)
def test_spans_at_the_ends_of_the_floats_are_drawn(y: list[float]) -> None:
    (_, low), (_, high) = points(chart(y))
    assert TOP <= high <= low <= BOTTOM
    assert (high < low) == (max(y) - min(y) > 1e-305)  # what is tinier is one with 0


def test_larger_values_stand_higher() -> None:
    drawn = points(chart([1.0, 3.0, 2.0]))
    assert drawn[1][1] < drawn[2][1] < drawn[0][1]
    assert [x for x, _ in drawn] == [LEFT, (LEFT + RIGHT) / 2, RIGHT]


def test_axis_from_zero_begins_at_zero() -> None:
    ((_, low),) = points(chart([5.0], from_zero=True))
    assert TOP < low < BOTTOM
    labels = [t.text for t in chart([95.0, 99.0], from_zero=True).iter("text")]
    assert "0" in labels


def test_long_curves_are_averaged_and_keep_their_range() -> None:
    y = [math.sin(i / 300) + (5.0 if i == 1234 else 0.0) for i in range(10_000)]
    figure = chart(y)
    assert len(points(figure)) == MAX_POINTS
    band = points(figure, "polygon")
    assert len(band) == 2 * MAX_POINTS
    assert min(place for _, place in band) < min(place for _, place in points(figure)) - 20
    last = json.loads(figure.attrib["data-curves"])["series"][0]["y"][-1]
    assert float(last) == pytest.approx(sum(y[-41:]) / 41, abs=0.05)


def test_short_curves_have_no_band() -> None:
    assert list(chart([1.0, 2.0]).iter("polygon")) == []


def test_a_single_point_is_seen() -> None:
    assert len(list(chart([1.0]).iter("circle"))) == 1


def test_names_are_escaped_and_told() -> None:
    html = chart_html(
        Chart(
            title="<b>",
            unit="a & b",
            x_name="'step'",
            series=[Series(name=f"<{i}>", x=[0, 1], y=[i, 2]) for i in range(2)],
            x_range=(0, 1),
        )
    )
    figure = ElementTree.fromstring(html)
    (svg,) = figure.iter("svg")
    assert svg.attrib["aria-label"] == "<b> over 'step': <0> from 0 to 2; <1> from 1 to 2 a & b"
    assert json.loads(figure.attrib["data-curves"])["name"] == "'step'"
    assert re.findall(r"<[01]>", html) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (2.3456, "2.346"),
        (95.254, "95.25"),
        (12345.6, "12,346"),
        (100.0, "100"),
        (0.004, "0.004"),
        (0.99999, "1"),
        (1e-6, "1e-6"),
        (3.14159e7, "3.14e7"),
        (-2.5, "-2.5"),
        (5e-324, "4.94e-324"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
    ],
)
def test_values_are_written_as_a_reader_would(value: float, text: str) -> None:
    assert format_value(value) == text
