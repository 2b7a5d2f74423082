"""Sections made of numbers: what was run, how it went, how fast it was.

Metrics are the lines of a run's `metrics.jsonl`: one mapping a line with `step` and any numbers; a
number that is rare (knn_top1) is drawn where it occurs. `knn_top1` is in percent; `wait_share`,
`queue_occupancy` and `accuracy` are shares, 0..1, and drawn as percent. Times, speeds and shares
are of the steps since the line before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean, median
from typing import Any

from evaluation.charts import Chart, Level, Series, chart_html
from evaluation.page import Section
from evaluation.results import percent
from pipeline.stats import STAGES

Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """A number that stands out, such as 'kNN top-1', '62.5 %', 'untrained 31.0 %'."""

    name: str
    value: str
    aside: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plot:
    """Which keys one chart draws, and by what they are multiplied."""

    title: str
    unit: str
    keys: Mapping[str, str]  # key -> name in the legend
    factor: float = 1.0
    from_zero: bool = True
    marks: bool = False
    unless_zero: bool = False  # left out as long as there is nothing to tell
    error: str = ""  # key of the standard errors of the first curve
    level: str = ""  # of the levels that are known, the one that is drawn


_CURVES = (
    _Plot(
        title="Loss",
        unit="nats",
        keys={"loss": "total", "contrastive": "contrastive"},
        from_zero=False,
        level="loss_chance",
    ),
    _Plot(title="Invariance term of the loss", unit="nats", keys={"invariance": "invariance"}),
    _Plot(
        title="kNN accuracy on training images",
        unit="% right, each by its neighbours among the others",
        keys={"knn_top1": "top-1"},
        marks=True,
        error="knn_standard_error",
        level="knn_chance",
    ),
    _Plot(
        title="kNN accuracy on validation images",
        unit="% right, by neighbours among training images",
        keys={"knn_top1_validation": "top-1"},
        marks=True,
        error="knn_standard_error",
        level="knn_chance",
    ),
    _Plot(
        title="Contrastive accuracy",
        unit="% of anchors nearest to their own image",
        keys={"accuracy": "accuracy"},
        factor=100,
        level="accuracy_chance",
    ),
    _Plot(
        title="Spread of embeddings",
        unit="std; 1: even, 0: collapsed",
        keys={"embedding_std": "spread"},
    ),
    _Plot(title="RankMe", unit="dimensions in use", keys={"rank_me": "dimensions"}),
    _Plot(title="Learning rate", unit="", keys={"learning_rate": "rate"}),
    _Plot(title="Target decay", unit="EMA factor", keys={"target_decay": "decay"}, from_zero=False),
)
_THROUGHPUT = (
    _Plot(title="Speed", unit="images/s", keys={"images_per_second": "images/s"}),
    _Plot(
        title="Waiting for data",
        unit="% of the time",
        keys={"wait_share": "waiting"},
        factor=100,
    ),
    _Plot(
        title="Other work on the cores",
        unit="% of their time",
        keys={"other_work": "other processes"},
        factor=100,
    ),
    _Plot(
        title="Loader threads at work",
        unit="% of the time",
        keys={"read_busy": "reading", "decode_busy": "decoding", "augment_busy": "augmenting"},
        factor=100,
    ),
    _Plot(
        title="Views ready ahead",
        unit="% of the queue, mean",
        keys={"queue_occupancy": "filled"},
        factor=100,
    ),
    _Plot(
        title="Peak memory",
        unit="GB, the process that needs most",
        keys={"peak_host_bytes": "host", "peak_device_bytes": "GPU"},
        factor=1e-9,
    ),
    _Plot(
        title="Undecodable samples",
        unit="replaced so far",
        keys={"bad_samples": "samples"},
        unless_zero=True,
    ),
    _Plot(
        title="Skipped steps",
        unit="not finite, so far",
        keys={"skipped_steps": "steps"},
        unless_zero=True,
    ),
)
# the x axis, thrice; what the times at work say already; a number that is no quantity; what stands
# in another chart
_NOT_DRAWN = {"step", "epoch", "seconds", "slowest_rank", "knn_standard_error", "knn_chance"}
_NOT_DRAWN |= {f"{stage}_waiting" for stage in STAGES}


def summary_section(
    *,
    facts: Mapping[str, Mapping[str, object]],
    tiles: Sequence[Tile] = (),
    lead: str = "",
) -> Section:
    """Show what was run and where: groups of named facts ('Training', 'Machine', 'Versions')."""
    shown = "".join(
        f'<div class="card tile"><div class="name">{escape(tile.name)}</div>'
        f'<div class="value">{escape(tile.value)}</div>'
        f'<div class="aside">{escape(tile.aside)}</div></div>'
        for tile in tiles
    )
    groups = "".join(
        f'<div class="card"><h3>{escape(group)}</h3>{_facts_html(values)}</div>'
        for group, values in facts.items()
    )
    tiles_html = f'<div class="tiles">{shown}</div>' if shown else ""
    return Section(
        key="summary",
        title="Summary",
        lead=lead,
        body=f'{tiles_html}<div class="grid">{groups}</div>',
    )


def curves_section(metrics: Metrics, *, left_out: int = 0, negatives: int | None = None) -> Section:
    """Draw loss, accuracy, rates and every number that has no other place over the steps.

    Args:
        left_out: lines of the log that could not be read, which is told.
        negatives: of each anchor, for lines at chance; None: not known.
    """
    levels = {}
    if negatives is not None:
        levels["loss_chance"] = Level(
            name=f"chance, ln({1 + negatives})", y=math.log(1 + negatives)
        )
        levels["accuracy_chance"] = Level(name="chance", y=100 / (1 + negatives))
    if chance := finite_points(metrics, "knn_chance"):
        levels["knn_chance"] = Level(name="chance", y=chance[-1][1])
    placed = {key for plot in (*_CURVES, *_THROUGHPUT) for key in plot.keys}
    others = sorted({key for line in metrics for key in line} - placed - _NOT_DRAWN)
    plots = [
        *_CURVES,
        *(
            _Plot(
                title=key.replace("_", " ").capitalize(), unit="", keys={key: key}, from_zero=False
            )
            for key in others
        ),
    ]
    return Section(
        key="curves",
        title="Training",
        lead="One point for each line of the log; in long runs the mean of neighbouring lines, "
        "with their range as a band. The kNN accuracy here is of training images, each classified "
        "by its neighbours among the others (leave-one-out), with its standard error as a band: a "
        "trend to watch. The kNN accuracy of the evaluation is of test images."
        + (f" Lines that could not be read and are left out: {left_out:,}." if left_out else ""),
        body=_charts(metrics, plots, levels),
    )


def throughput_section(metrics: Metrics, *, bad: Mapping[str, str] | None = None) -> Section:
    """Draw speed and waiting time, say their typical values, and list the samples replaced.

    Args:
        bad: name and fault of each sample that could not be decoded, by its id.
    """
    told = [f"{tile.name}: {tile.value} {tile.aside}".rstrip() for tile in speed_tiles(metrics)]
    return Section(
        key="throughput",
        title="Throughput",
        lead="; ".join(told) + "." if told else "",
        body=_charts(metrics, _THROUGHPUT, {}) + _bad_samples_html(bad or {}),
    )


def _bad_samples_html(bad: Mapping[str, str]) -> str:
    if not bad:
        return ""
    return f"<h3>Samples replaced, {len(bad):,}</h3>" + _facts_html(
        {f"sample {number}": text for number, text in bad.items()}
    )


def speed_tiles(metrics: Metrics) -> list[Tile]:
    """Return the median speed and the mean share of time without a batch, where recorded."""
    rates = [y for _, y in finite_points(metrics, "images_per_second")]
    waits = [y for _, y in finite_points(metrics, "wait_share")]
    tiles = []
    if rates:
        speed = f"{median(rates):,.{0 if median(rates) >= 100 else 1}f}"
        tiles.append(Tile(name="Speed", value=speed, aside="images/s, median"))
    if waits:
        tiles.append(
            Tile(name="Waiting for data", value=percent(100 * fmean(waits)), aside="of the time")
        )
    return tiles


def _facts_html(values: Mapping[str, object]) -> str:
    """Return names and values as a definition list."""
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in values.items())
    return f"<dl>{rows}</dl>"


def finite_points(metrics: Metrics, key: str) -> list[tuple[float, float]]:
    """Return (step, value) wherever the value is a finite number."""
    pairs = [(float(line["step"]), _number(line.get(key))) for line in metrics]
    return [(step, value) for step, value in pairs if math.isfinite(value)]


def _number(value: object) -> float:
    """Return a value as a float, nan if it is none."""
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        return math.nan


def _charts(metrics: Metrics, plots: Sequence[_Plot], levels: Mapping[str, Level]) -> str:
    charts = [chart for plot in plots if (chart := _chart(metrics, plot, levels))]
    if not charts:
        return '<p class="note">Nothing was recorded.</p>'
    return f'<div class="grid">{"".join(charts)}</div>'


def _chart(metrics: Metrics, plot: _Plot, levels: Mapping[str, Level]) -> str:
    """Return the chart of a plot, or nothing where it has nothing to show."""
    errors = dict(finite_points(metrics, plot.error)) if plot.error else {}
    series = [
        Series(
            name=name,
            x=[x for x, _ in points],
            y=[y * plot.factor for _, y in points],
            error=[errors.get(x, 0.0) * plot.factor for x, _ in points] if errors else (),
        )
        for key, name in plot.keys.items()
        if (points := finite_points(metrics, key))
    ]
    if not series or (plot.unless_zero and not any(y for one in series for y in one.y)):
        return ""
    return chart_html(
        Chart(
            title=plot.title,
            unit=plot.unit,
            x_name="step",
            series=series,
            x_range=(float(metrics[0]["step"]), float(metrics[-1]["step"])),
            levels=[levels[plot.level]] if plot.level in levels else [],
            from_zero=plot.from_zero,
            marks=plot.marks,
        )
    )
