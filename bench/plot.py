"""Rates as bars, in a PNG: one bar a row, on a logarithmic scale where rows lie far apart."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OURS, PEER, MODEL, STEP = "#3568a8", "#b8bec7", "#7a5195", "#e08214"
_COLOURS = {"model": MODEL, "step": STEP}
_FAR_APART = 20.0  # largest rate over smallest
_LETTERS = 100  # of a line above the plot


def plot_rates(
    result: Mapping[str, Any], path: Path, *, line: tuple[str, float] | None = None
) -> None:
    """Write a plot of a result's rows, with its rung and work above.

    Args:
        line: name and rate (images/s) of a vertical line, such as the demand.

    Raises:
        ValueError: no row has figures.
        OSError: it cannot be written.
    """
    import matplotlib.pyplot as plt

    rows = [row for row in result["rows"] if "images_per_second" in row]
    if not rows:
        raise ValueError("no row has figures: there is nothing to plot")
    figure, axes = plt.subplots(figsize=(9, 2.0 + 0.42 * len(rows)), layout="constrained")
    try:
        _bars(axes, rows)
        _scale(axes, rows)
        if line is not None:
            name, rate = line
            axes.axvline(rate, color=MODEL, linestyle="--", label=f"{name}: {rate:,.1f} images/s")
            axes.legend(loc="lower right", frameon=True, fontsize=9)
        about = textwrap.fill(result["work"], _LETTERS)
        figure.suptitle(result["rung"], x=0.01, ha="left", fontsize=12, fontweight="bold")
        axes.set_title(about, loc="left", fontsize=9, color="#444444")
        figure.savefig(path, dpi=150)
    finally:
        plt.close(figure)


def check_path(path: Path | None) -> None:
    """See before measuring that a plot can be written there; None: none is wanted.

    Raises:
        ValueError: it is no name of a PNG in a folder that exists.
    """
    if path is not None and path.suffix.lower() != ".png":
        raise ValueError(f"--plot {path}: give a name that ends in .png")
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"--plot {path}: there is no folder {path.parent}")


def _bars(axes: Any, rows: list[Mapping[str, Any]]) -> None:
    rates = [row["images_per_second"] for row in rows]
    middle = [rate["p50"] for rate in rates]
    spread = [
        [rate["p50"] - rate["p20"] for rate in rates],
        [rate["p80"] - rate["p50"] for rate in rates],
    ]
    axes.barh(
        range(len(rows)),
        middle,
        xerr=spread,
        color=[_colour(row) for row in rows],
        ecolor="#333333",
        capsize=3,
        height=0.66,
    )
    for place, rate in enumerate(rates):
        text = f" {rate['p50']:,.0f}" if rate["p50"] >= 100 else f" {rate['p50']:,.1f}"
        axes.annotate(text, (rate["p80"], place), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()


def _scale(axes: Any, rows: list[Mapping[str, Any]]) -> None:
    """Room for the figures on the right; logarithmic from a factor of `_FAR_APART` on."""
    rates = [row["images_per_second"] for row in rows]
    low, high = min(rate["p20"] for rate in rates), max(rate["p80"] for rate in rates)
    if high > _FAR_APART * low:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:,g}")
        axes.set_xlim(low / 3, high * (high / low) ** 0.18)
    else:
        axes.set_xlim(0, high * 1.18)
    axes.set_xlabel("images per second (median; whiskers: 20 % and 80 % of the rounds)")
    axes.grid(axis="x", which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _colour(row: Mapping[str, Any]) -> str:
    return PEER if row.get("peer") else _COLOURS.get(row["name"], OURS)
