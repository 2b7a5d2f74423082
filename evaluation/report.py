"""The report of a run: one HTML file that shows what was run, how it went and what came out.

    write_report(path, [summary_section(..), curves_section(..), views_section(..), ..])

`run_sections` makes what a run directory has data for; `write_run_report` adds what needs the
shards: sheets of views and of masks. Sections can be replaced later (page.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.comparison import evaluation_section
from evaluation.page import Section, read_sections, update_report, write_report
from evaluation.results import (
    PROTOCOLS,
    EvaluationResult,
    against_untrained,
    in_order,
    percent,
    read_results,
    result_from_dict,
    with_error,
)
from evaluation.sections import (
    Tile,
    curves_section,
    finite_points,
    speed_tiles,
    summary_section,
    throughput_section,
)
from evaluation.sheets import (
    Labelled,
    masks_section,
    neighbours_sheet,
    stored_images,
    views_section,
)
from evaluation.subject import class_names
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
    "neighbours_section",
    "read_metrics",
    "read_sections",
    "run_sections",
    "run_titles",
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
    neighbours = [sheet for one in found if (sheet := _neighbours_of(one)) is not None][-1:]
    path = out / REPORT_NAME
    title, subtitle = run_titles(run) or ("", "")
    write_report(path, [*sections, *neighbours, *sheets], title=title, subtitle=subtitle)
    return path


def run_titles(run: Path) -> tuple[str, str] | None:
    """Return title and subtitle of a run's report; None where the folder holds no run.

    Raises:
        ValueError: config.json cannot be read.
    """
    description = _description(run)
    if description is None:
        return None
    return f"{run.resolve().name}: ReLICv2, {description['config']['name']}", _subtitle(description)


def neighbours_section(
    result: EvaluationResult, train: Shards, test: Shards | None
) -> Section | None:
    """Return the sheet of nearest neighbours of a result; None where it has none.

    Args:
        train, test: the shards that it was measured on.
    """
    queries = train if test is None else test
    rows = []
    for row in result.neighbours:
        try:
            query = _labelled_images(queries, [row["id"]])
            nearest = _labelled_images(train, row["nearest"])
        except (OSError, SyntaxError, ValueError, IndexError):
            continue  # an image that cannot be decoded, or shards that were made anew
        rows.append((query[0], nearest))
    return neighbours_sheet(rows) if rows else None


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
        told = [against_untrained(results, protocol) for protocol in PROTOCOLS]
        verdicts = [
            f"{PROTOCOLS[p]}: {text}" for p, text in zip(PROTOCOLS, told, strict=True) if text
        ]
        facts = _facts(description)
        facts["Run"] = {"folder": run.resolve().name, **_run_facts(description, metrics)}
        sections.append(summary_section(facts=facts, tiles=tiles, lead=" ".join(verdicts)))
    if results:
        sections.append(evaluation_section(results))
    if metrics:
        bad = _read_bad_samples(run / "bad_samples.json")
        sections += [
            curves_section(metrics, left_out=left_out, negatives=_negatives(description)),
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


def _length(config: Mapping[str, Any]) -> str:
    epochs = f"{config['epochs']} epochs"
    steps = config.get("max_steps")
    return f"at most {steps:,} steps of {epochs}" if steps else epochs


def _subtitle(description: Mapping[str, Any]) -> str:
    config, data = description["config"], description["data"]
    return (
        f"{_length(config)} of {data['num_samples']:,} images from {data['source']}, on "
        f"{description['device']}"
    )


def _facts(description: Mapping[str, Any]) -> dict[str, dict[str, object]]:
    config, data = description["config"], description["data"]
    recipe, encoder = config["recipe"], config["model"]["encoder"]
    optimizer, loss = config["optimizer"], config["loss"]
    batch, base = config["global_batch_size"], optimizer["base_learning_rate"]
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
            "global batch": batch,
            "epochs": config["epochs"],
            "optimizer": optimizer["name"],
            "learning rate": f"{base * batch / 256:g} at its peak: {base:g} x batch / 256",
            "weight decay": f"{optimizer['weight_decay']:g}",
            "temperature": f"{loss['temperature']:g}",
            "negatives": loss["num_negatives"] or "all",
            "target decay": f"{config['target_decay']:g}",
            "seed": config["seed"],
        },
        "Data and machine": {
            "source": data["source"],
            "images": f"{data['num_samples']:,}",
            **({"masks": data["masks"]} if data.get("masks") else {}),
            "device": description["device"],
            "processes": description["world_size"],
            "system": description["platform"],
        },
        "Versions": {"python": description["python"], **description["versions"]},
    }


def _run_facts(
    description: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> dict[str, object]:
    """Return command, commit and duration, those that were recorded."""
    facts: dict[str, object] = {}
    for name in ("command", "commit"):
        if isinstance(description.get(name), str):
            facts[name] = description[name]
    if check := description.get("gpu_check"):
        faults = [check[what] for what in ("views", "step") if check[what]]
        facts["check of the GPU"] = "; ".join(faults) or "views and step agree with the CPU's"
    if seconds := finite_points(metrics, "seconds"):
        hours, rest = divmod(round(seconds[-1][1]), 3600)
        facts["duration"] = f"{hours} h {rest // 60:02d} min {rest % 60:02d} s"
        facts["steps"] = f"{seconds[-1][0]:,.0f}"
    return facts


def _negatives(description: Mapping[str, Any] | None) -> int | None:
    """Return with how many others an anchor is compared; None where it is not known."""
    if description is None:
        return None
    config = description["config"]
    loss, world = config["loss"], description["world_size"]
    processes = 1 if loss.get("negatives") == "global" else world
    batch = config["global_batch_size"] // processes // config.get("accumulate", 1)
    negatives: int = loss["num_negatives"] or batch - 1
    return negatives


def _accuracy_tiles(results: Sequence[EvaluationResult]) -> list[Tile]:
    """Return a tile for each protocol that the trained encoder was evaluated by."""
    untrained = {
        result.protocol: with_error(result.top1, result.top1_standard_error)
        for result in results
        if result.untrained
    }
    names = {"knn": "kNN top-1", "linear-quick": "Linear top-1, quick"}
    return [
        Tile(
            name=names.get(result.protocol, "Linear top-1"),
            value=with_error(result.top1, result.top1_standard_error),
            aside=f"untrained {untrained[result.protocol]}"
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


def _neighbours_of(result: EvaluationResult) -> Section | None:
    """Return the sheet of nearest neighbours of a result, where its shards are still there."""
    if result.untrained or not result.neighbours:
        return None
    with ExitStack() as stack:
        try:
            train, test = (
                stack.enter_context(closing(open_shards(Path(side.shards)))) if side else None
                for side in (result.train, result.test)
            )
        except (OSError, ValueError):
            return None
        assert train is not None
        return neighbours_section(result, train, test)


def _labelled_images(shards: Shards, sample_ids: Sequence[int]) -> list[Labelled]:
    names = class_names(shards)
    images = stored_images(shards, np.asarray(sample_ids, np.int64))
    return [
        Labelled(image=image, name=names[int(shards.labels[sample_id])])
        for image, sample_id in zip(images, sample_ids, strict=True)
    ]
