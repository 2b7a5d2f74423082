"""The report of a run: one HTML file that shows what was run, how it went and what came out.

    write_report(path, [summary_section(..), curves_section(..), views_section(..), ..])

`run_sections` makes what a run directory has data for; `write_run_report` adds what needs the
shards: sheets of views and of masks. Sections can be replaced later (page.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.comparison import evaluation_section
from evaluation.page import Section, read_sections, update_report, write_report
from evaluation.results import (
    EvaluationResult,
    in_order,
    percent,
    read_results,
    result_from_dict,
)
from evaluation.sections import (
    Tile,
    curves_section,
    finite_points,
    speed_tiles,
    summary_section,
    throughput_section,
)
from evaluation.sheets import masks_section, stored_images, views_section
from pipeline.augment.recipe import MultiCropRecipe, ViewRecipe
from pipeline.loader import LoaderConfig, training_views
from pipeline.saliency.codec import decode_mask
from pipeline.sampler import Sampler
from pipeline.shards import Shards, open_shards

__all__ = [
    "Section",
    "Tile",
    "curves_section",
    "evaluation_section",
    "masks_section",
    "read_metrics",
    "read_sections",
    "run_sections",
    "summary_section",
    "throughput_section",
    "update_report",
    "views_section",
    "write_report",
    "write_run_report",
]

REPORT_NAME = "report.html"
_NUM_VIEW_ROWS, _NUM_MASKS = 6, 12


def write_run_report(
    run: Path, *, data: Path, results: Sequence[Mapping[str, Any]], out: Path
) -> Path:
    """Write out/report.html for a training run, whole, and return its path.

    Args:
        run: the run directory: config.json, metrics.jsonl.
        data: the shards that it was trained on, for the sheets of views and masks.
        results: JSON objects of evaluate.py.

    Raises:
        ValueError: a file of the run or the shards cannot be read.
    """
    found = [result_from_dict(values) for values in results]
    description = _description(run)
    if description is None:
        raise ValueError(f"{run} holds no config.json, so it is no run directory of train.py")
    shards = open_shards(data)
    try:
        sheets = _sheets(shards, _recipe(description["config"]["recipe"]).full_size)
    finally:
        shards.close()
    sections = run_sections(run, results=found)
    path = out / REPORT_NAME
    write_report(
        path,
        [*sections, *sheets],
        title=f"ReLICv2 run: {description['config']['name']}",
        subtitle=_subtitle(description),
    )
    return path


def run_sections(run: Path, *, results: Sequence[EvaluationResult] | None = None) -> list[Section]:
    """Return the sections that a run directory has data for: summary, evaluation, curves, speed.

    Args:
        results: of evaluations; default: those that lie in the run directory.

    Raises:
        ValueError: a file of the run cannot be read.
    """
    results = in_order(read_results(run) if results is None else results)
    metrics_file = run / "metrics.jsonl"
    metrics, left_out = _read_lines(metrics_file) if metrics_file.is_file() else ([], 0)
    description = _description(run)
    sections = []
    if description is not None:
        tiles = [*_accuracy_tiles(results), *_last_tiles(metrics), *speed_tiles(metrics)]
        sections.append(summary_section(facts=_facts(description), tiles=tiles))
    if results:
        sections.append(evaluation_section(results))
    if metrics:
        bad = _read_bad_samples(run / "bad_samples.json")
        sections += [
            curves_section(metrics, left_out=left_out),
            throughput_section(metrics, bad=bad),
        ]
    return sections


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl` by step, lines of one step merged, the last one winning.

    A run that was killed may have repeated steps and have left half of a line. What is no JSON
    object with a step is left out: a blemish of the log must not cost an evaluation its report.
    """
    return _read_lines(path)[0]


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return (`read_metrics`, how many lines are left out)."""
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.split("\n") if line.strip()]
    entries = [entry for line in lines if (entry := _entry(line)) is not None]
    by_step: dict[int, dict[str, Any]] = {}
    for entry in entries:
        by_step[entry["step"]] = {**by_step.get(entry["step"], {}), **entry}
    return [by_step[step] for step in sorted(by_step)], len(lines) - len(entries)


def _entry(line: str) -> dict[str, Any] | None:
    """Return the metrics of a line, or None where it holds none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = entry.get("step") if isinstance(entry, dict) else None
    return entry if type(step) is int and 0 <= step < 2**53 else None


def _read_bad_samples(path: Path) -> dict[str, str]:
    """Return the samples that the run replaced; a list that cannot be read costs no report."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _description(run: Path) -> dict[str, Any] | None:
    path = run / "config.json"
    if not path.is_file():
        return None
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        _facts(description)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe a run ({error!r})") from error
    assert isinstance(description, dict)
    return description


def _subtitle(description: Mapping[str, Any]) -> str:
    config, data = description["config"], description["data"]
    return (
        f"{config['epochs']} epochs of {data['num_samples']:,} images from {data['source']}, on "
        f"{description['device']}"
    )


def _facts(description: Mapping[str, Any]) -> dict[str, dict[str, object]]:
    config, data = description["config"], description["data"]
    recipe, encoder = config["recipe"], config["model"]["encoder"]
    optimizer, loss = config["optimizer"], config["loss"]
    views = f"{recipe['num_large']} x {recipe['large_size']} px"
    if recipe["num_small"]:
        views += f" + {recipe['num_small']} x {recipe['small_size']} px"
    if growing := recipe.get("progressive_epochs"):
        views += f", grown from {recipe['progressive_start']:g} of it in {growing} epochs"
    return {
        "Training": {
            "preset": config["name"],
            "encoder": f"{encoder['architecture']}, width {encoder['width']:g}",
            "views": views,
            "global batch": config["global_batch_size"],
            "epochs": config["epochs"],
            "optimizer": f"{optimizer['name']}, base rate {optimizer['base_learning_rate']:g}",
            "weight decay": f"{optimizer['weight_decay']:g}",
            "temperature": f"{loss['temperature']:g}",
            "negatives": loss["num_negatives"] or "all",
            "target decay": f"{config['target_decay']:g}",
            "seed": config["seed"],
        },
        "Data and machine": {
            "source": data["source"],
            "images": f"{data['num_samples']:,}",
            "device": description["device"],
            "processes": description["world_size"],
            "system": description["platform"],
        },
        "Versions": {"python": description["python"], **description["versions"]},
    }


def _accuracy_tiles(results: Sequence[EvaluationResult]) -> list[Tile]:
    """Return a tile for each protocol that the trained encoder was evaluated by."""
    untrained = {result.protocol: result.top1 for result in results if result.untrained}
    names = {"knn": "kNN top-1", "linear-quick": "Linear top-1, quick"}
    return [
        Tile(
            name=names.get(result.protocol, "Linear top-1"),
            value=percent(result.top1),
            aside=f"untrained {percent(untrained[result.protocol])}"
            if result.protocol in untrained
            else f"chance {percent(result.chance)}",
        )
        for result in results
        if not result.untrained
    ]


def _last_tiles(metrics: Sequence[Mapping[str, Any]]) -> list[Tile]:
    losses = finite_points(metrics, "loss")
    if not losses:
        return []
    step, loss = losses[-1]
    return [Tile(name="Loss", value=f"{loss:.3f}", aside=f"at step {step:,.0f}")]


def _recipe(values: Mapping[str, Any]) -> MultiCropRecipe:
    """Return the recipe that a config.json holds."""

    def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
        return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}

    views = {
        name: ViewRecipe(**tuples(values[name])) for name in ("large_even", "large_odd", "small")
    }
    return MultiCropRecipe(**{**tuples(values), **views})


def _sheets(shards: Shards, recipe: MultiCropRecipe) -> list[Section]:
    """Return the sheet of views and, where there are masks, the sheet of masks."""
    rows = min(_NUM_VIEW_ROWS, len(shards))
    sampler = Sampler(num_samples=len(shards), global_batch_size=rows, seed=0)
    with training_views(
        shards, recipe=recipe, sampler=sampler, seed=0, config=LoaderConfig(threads=1), end_step=1
    ) as views:
        (batch,) = views
    originals = stored_images(shards, batch.sample_ids)
    sheets = [views_section(batch, originals=originals, mean=recipe.mean, std=recipe.std)]
    with_mask = np.flatnonzero(np.isfinite(shards.mask_coverage))
    if len(with_mask):
        spread = np.linspace(0, len(with_mask) - 1, min(_NUM_MASKS, len(with_mask))).astype(int)
        ids = with_mask[spread].astype(np.int64)
        masks = [torch.from_numpy(decode_mask(data)) for data in shards.read(ids).masks]
        sheets.append(
            masks_section(
                stored_images(shards, ids),
                masks,
                names=[shards.key(int(sample_id)) for sample_id in ids],
                threshold=recipe.mask_threshold,
                fill=recipe.mask_color,
            )
        )
    return sheets
