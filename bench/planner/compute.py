"""What the model asks of a GPU, and what is known of GPUs.

A step's work is counted, not timed (training/forecast/operations.py). Its speed on a GPU comes from
this project's own records where the ladder has run there; else from figures that others published
for the same kind of training, and is then said to be derived.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config import TrainConfig
from training.forecast.operations import operations_per_image
from training.presets import imagenet_rn50

RESULTS = Path(__file__).resolve().parents[1] / "results"

# Source pictures a second of ResNet-50, 4x224 + 2x96 views, bf16, by GPU: from published rates of
# supervised ResNet-50 (A100: 2,470 images/s with FFCV; H100, H200: 1.3 to 1.9 times an A100), over
# the 5.7 times as many operations. Nobody has measured this training there.
DERIVED = {"A100": (430.0, 430.0), "H100": (550.0, 800.0), "H200": (550.0, 800.0)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """Pictures a second that one GPU can train on, views resident: lowest and highest estimate."""

    low: float
    high: float
    views_seconds: float | None  # of one picture's views on that GPU; None: not measured
    origin: str  # one line: where the figures come from


def demand_of(gpu: str, config: TrainConfig, *, results: Path = RESULTS) -> Demand | None:
    """What one GPU of this name can train on; None where nothing is known of it."""
    scale = operations_per_image(imagenet_rn50()) / operations_per_image(config)
    if found := _measured(gpu, results):
        path, record = found
        rate = _median(record, "model")
        same = record["settings"]["preset"] == config.name
        assert rate is not None
        return Demand(
            low=rate if same else rate * scale,
            high=rate if same else rate * scale,
            views_seconds=_views_seconds(record),
            origin=f"measured: {path.name}"
            + ("" if same else ", scaled by the operations of a picture"),
        )
    if gpu not in DERIVED:
        return None
    low, high = DERIVED[gpu]
    return Demand(
        low=low * scale,
        high=high * scale,
        views_seconds=None,
        origin="derived from published rates of supervised training, NOT measured",
    )


def _measured(gpu: str, results: Path) -> tuple[Path, dict[str, Any]] | None:
    """The record of a ladder on this GPU, of the paper's own preset."""
    for path in sorted(results.glob("*.json")):
        record = json.loads(path.read_text())
        record = record.get("result", record)
        name = (record.get("environment", {}).get("gpu") or {}).get("name", "")
        if record.get("rung") == "ladder" and gpu in name and _median(record, "model"):
            return path, record
    return None


def _median(record: dict[str, Any], row: str) -> float | None:
    for each in record["rows"]:
        if each["name"] == row and "images_per_second" in each:
            return float(each["images_per_second"]["p50"])
    return None


def _views_seconds(record: dict[str, Any]) -> float | None:
    for each in record["rows"]:
        if each["name"] == "augment" and each.get("own_milliseconds_per_image") is not None:
            return float(each["own_milliseconds_per_image"]) / 1e3
    return None
