"""Line charts as inline SVG: drawn without a library, readable in light and dark.

Colours, fonts and the reading of values under the pointer belong to page.css and page.js; a chart
names its series by class (c0, c1, ..) and carries its numbers in `data-curves`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 360, 220  # drawn at about this size on every screen, so text keeps its size
LEFT, RIGHT, TOP, BOTTOM = 46, 350, 10, 188
SMALLEST, LARGEST = 1e-300, 1e300  # that are drawn: spans and steps of both are floats, too
MAX_POINTS = 240  # of a curve; more are averaged in buckets, with their range as a band


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One curve: x ascending, y finite, of equal length, not empty."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] = ()  # standard errors of y, drawn as a band; empty: not known


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """A horizontal line to compare the curves with, such as chance."""

    name: str
    y: float  # finite


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Curves over one x axis, at most four of them."""

    title: str
    unit: str
    x_name: str
    series: Sequence[Series]
    x_range: tuple[float, float]  # of the axis; holds every x
    levels: Sequence[Level] = ()
    from_zero: bool = False  # let the y axis begin at 0
    marks: bool = False  # dots on the points: for curves of few


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scale:
    """From values to pixels, linearly; ticks at round values."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def chart_html(chart: Chart) -> str:
    """Return a `<figure>` with heading, curves, axes, and the last values as legend."""
    assert 1 <= len(chart.series) <= 4, "page.css has four colours"
    curves = [_thin(one) for one in chart.series]
    y_values = [y for curve in curves for y in (*curve.low, *curve.high)]
    y_values += [_drawable(level.y) for level in chart.levels]
    x_scale = _x_scale(*chart.x_range)
    y_scale = _y_scale(min(y_values), max(y_values), from_zero=chart.from_zero)
    drawn = "".join(
        _curve(index, curve, x_scale, y_scale, marks=chart.marks)
        for index, curve in enumerate(curves)
    )
    return (
        f"<figure class='card chart' data-curves='{_data(chart, curves, x_scale)}'>"
        f'<figcaption><h3>{escape(chart.title)}</h3><span class="unit">{escape(chart.unit)}</span>'
        "</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_spoken(chart)}">'
        f"{_axes(chart, x_scale, y_scale)}{_levels(chart, y_scale)}{drawn}"
        f'<line class="cursor" y1="{TOP}" y2="{BOTTOM}"/></svg>{_legend(chart)}</figure>'
    )


def format_value(value: float) -> str:
    """Return a value in four significant digits, as a reader would write it; or nan, inf, -inf."""
    if not math.isfinite(value):
        return f"{value}"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    decimals = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, kw_only=True, slots=True)
class _Curve:
    """What is drawn of a series: means of buckets and their range."""

    name: str
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


def _thin(series: Series) -> _Curve:
    count = len(series.x)
    assert count == len(series.y) > 0
    buckets = min(count, MAX_POINTS)
    edges = [round(i * count / buckets) for i in range(buckets + 1)]
    spans = [slice(a, b) for a, b in pairwise(edges)]
    y = [_drawable(value) for value in series.y]
    error = series.error or [0.0] * count
    low = [_drawable(value - one) for value, one in zip(y, error, strict=True)]
    high = [_drawable(value + one) for value, one in zip(y, error, strict=True)]
    return _Curve(
        name=series.name,
        x=[_mean(series.x[span]) for span in spans],
        y=[_mean(y[span]) for span in spans],
        low=[min(low[span]) for span in spans],
        high=[max(high[span]) for span in spans],
    )


def _drawable(value: float) -> float:
    """Return what is drawn of a value: 0 if it is tiny, at most LARGEST."""
    return 0.0 if abs(value) < SMALLEST else max(-LARGEST, min(value, LARGEST))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _step(span: float, count: int) -> float:
    """Return the round step (1, 2 or 5 times a power of ten) that cuts a span into <= count."""
    power: float = 10 ** math.floor(math.log10(span / count))
    return next(power * nice for nice in (1, 2, 5, 10) if power * nice * count >= span * 0.999)


def _ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    step = _step(high - low, count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(i * step for i in range(first, last + 1))


def _x_scale(low: float, high: float) -> _Scale:
    if low == high:
        low, high = low - 1, high + 1
    ticks = _ticks(low, high, 5)
    return _Scale(low=low, high=high, start=LEFT, end=RIGHT, ticks=ticks)


def _y_scale(low: float, high: float, *, from_zero: bool) -> _Scale:
    if from_zero:
        low = min(low, 0.0)
    if low == high == 0:
        high = 1.0
    elif high - low <= 1e-5 * max(abs(high), abs(low)):  # a constant: give it some air
        room = abs(high) * 0.5 or 1.0
        low, high = (low if from_zero and low == 0 else low - room), high + room
    step = _step(high - low, 4)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return _Scale(low=low, high=high, start=BOTTOM, end=TOP, ticks=_ticks(low, high, 6))


def _tick_text(value: float, ticks: Sequence[float]) -> str:
    """Return the label of a tick: all ticks of an axis have the same decimals."""
    largest = max(abs(tick) for tick in ticks)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else largest or 1.0
    places = math.floor(math.log10(step) + 1e-9)  # of the step's first digit
    if not value:
        return "0"
    if not 1e-3 <= largest < 1e6:
        exponent = math.floor(math.log10(largest) + 1e-9)
        return f"{value / 10.0**exponent:.{max(0, exponent - places)}f}e{exponent}"
    if step >= 1000:
        return f"{value / 1000:,.0f}k"
    return f"{value:.{max(0, -places)}f}"


def _axes(chart: Chart, x_scale: _Scale, y_scale: _Scale) -> str:
    parts = []
    for tick in y_scale.ticks:
        y = y_scale(tick)
        parts.append(f'<line class="grid-line" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>')
        label = _tick_text(tick, y_scale.ticks)
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{label}</text>')
    parts.append(f'<line class="axis-line" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/>')
    for tick in x_scale.ticks:
        x = x_scale(tick)
        label = _tick_text(tick, x_scale.ticks)
        parts.append(f'<text x="{x}" y="{BOTTOM + 15}" text-anchor="middle">{label}</text>')
    parts.append(
        f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 2}" text-anchor="middle">'
        f"{escape(chart.x_name)}</text>"
    )
    return "".join(parts)


def _curve(index: int, curve: _Curve, x_scale: _Scale, y_scale: _Scale, *, marks: bool) -> str:
    points = [(x_scale(x), y_scale(y)) for x, y in zip(curve.x, curve.y, strict=True)]
    drawn = ""
    if curve.low != curve.high:
        upper = [f"{x_scale(x)},{y_scale(y)}" for x, y in zip(curve.x, curve.high, strict=True)]
        lower = [f"{x_scale(x)},{y_scale(y)}" for x, y in zip(curve.x, curve.low, strict=True)]
        drawn += f'<polygon class="band f{index}" points="{" ".join(upper + lower[::-1])}"/>'
    line = " ".join(f"{x},{y}" for x, y in points)
    drawn += f'<polyline class="curve c{index}" points="{line}"/>'
    if marks or len(points) == 1:
        drawn += "".join(f'<circle class="f{index}" cx="{x}" cy="{y}" r="3"/>' for x, y in points)
    return drawn


def _levels(chart: Chart, y_scale: _Scale) -> str:
    places = [y_scale(_drawable(level.y)) for level in chart.levels]
    return "".join(
        f'<line class="level" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>' for y in places
    )


def _legend(chart: Chart) -> str:
    items = []
    for index, one in enumerate(chart.series):
        last = escape(_value_text(chart, one, -1))
        name = f'<i class="f{index}"></i>{escape(one.name)} ' if len(chart.series) > 1 else "last "
        items.append(f'<span>{name}<output data-last="{last}">{last}</output></span>')
    items += [
        f'<span><i class="level"></i>{escape(level.name)} {_even(chart, level.y)}</span>'
        for level in chart.levels
    ]
    return f'<div class="legend">{"".join(items)}<span class="at"></span></div>'


def _even(chart: Chart, value: float) -> str:
    """Return a value with as many decimals as all values of the chart: four digits of the largest.

    Whole numbers have none.
    """
    values = [*(y for one in chart.series for y in one.y), *(level.y for level in chart.levels)]
    largest = max(map(abs, values))
    if not 1e-3 <= largest < 1e6:
        return format_value(value)
    whole = all(y == int(y) for y in values)
    decimals = 0 if whole else max(0, 3 - math.floor(math.log10(largest)))
    return f"{value:,.{decimals}f}"


def _value_text(chart: Chart, series: Series, index: int) -> str:
    text = _even(chart, series.y[index])
    return f"{text} ± {_even(chart, series.error[index])}" if series.error else text


def _spoken(chart: Chart) -> str:
    """Return the chart in words, for those who listen to the page."""
    told = "; ".join(
        f"{one.name} from {_even(chart, one.y[0])} to {_even(chart, one.y[-1])}"
        for one in chart.series
    )
    told += "".join(f"; {level.name} {_even(chart, level.y)}" for level in chart.levels)
    return escape(f"{chart.title} over {chart.x_name}: {told} {chart.unit}", quote=True)


def _data(chart: Chart, curves: Sequence[_Curve], x_scale: _Scale) -> str:
    data = {
        "x0": x_scale.low,
        "x1": x_scale.high,
        "left": LEFT,
        "right": RIGHT,
        "name": chart.x_name,
        "series": [
            {"x": [round(x, 1) for x in one.x], "y": [_even(chart, y) for y in one.y]}
            for one in curves
        ],
    }
    return escape(json.dumps(data, separators=(",", ":")), quote=True)
