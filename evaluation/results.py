"""Results of an evaluation as JSON files: `evaluation-knn.json` and its like, and how to read them.

One file for each protocol, and one for the same protocol on untrained weights, so that a report can
put them side by side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evaluation.accuracy import Accuracy
from files import write_text_whole

PROTOCOLS = {
    "knn": "kNN",
    "linear-quick": "Linear, quick",
    "linear-released": "Linear, released protocol",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSummary:
    """Which labelled samples were used."""

    shards: str
    samples: int
    classes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """What one run of a protocol found. Accuracies are in percent, 0..100."""

    protocol: str  # a key of PROTOCOLS
    checkpoint: str
    step: int | None  # completed training steps; None: not known
    untrained: bool  # the initial weights of the checkpoint's configuration
    view_size: int  # pixels
    train: DataSummary
    test: DataSummary | None  # None: each sample of train against the others
    chance: float  # share of the most frequent class of the test labels, percent
    top1: float
    top5: float
    settings: dict[str, Any]
    chosen: dict[str, Any]  # what the headline accuracy is of: a k, a learning rate, an l2
    table: Sequence[dict[str, Any]]  # every k, or every value of a sweep on the held-out split
    notes: Sequence[str] = field(default=())
    seconds: float
    device: str

    @property
    def file_name(self) -> str:
        return f"evaluation-{self.protocol}{'-untrained' if self.untrained else ''}.json"


def percent(value: float) -> str:
    """Return a percentage 0..100 as '56.2 %'."""
    return f"{value:.1f} %"


def accuracy_columns(accuracy: Accuracy, prefix: str = "") -> dict[str, float]:
    """Return the columns of a table's row."""
    return {f"{prefix}top1": accuracy.top1, f"{prefix}top5": accuracy.top5}


def write_result(result: EvaluationResult, folder: Path) -> Path:
    """Write a result into a folder, replacing an earlier one of the same protocol."""
    path = folder / result.file_name
    write_text_whole(path, json.dumps(asdict(result), indent=2) + "\n")
    return path


def read_results(folder: Path) -> list[EvaluationResult]:
    """Return every result in a folder, in the order of `in_order`.

    Raises:
        ValueError: a file of that name is not a result.
    """
    return in_order([_read(path) for path in folder.glob("evaluation-*.json")])


def in_order(results: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """Sort results by PROTOCOLS, untrained before trained."""
    order = list(PROTOCOLS)
    return sorted(results, key=lambda result: (order.index(result.protocol), not result.untrained))


def result_from_dict(values: Mapping[str, Any]) -> EvaluationResult:
    """Return the result whose JSON object this is.

    Raises:
        ValueError: it is none.
    """
    try:
        data = {name: values[name] and DataSummary(**values[name]) for name in ("train", "test")}
        result = EvaluationResult(**{**values, **data})
    except (TypeError, KeyError) as error:
        raise ValueError(f"no result of an evaluation ({error})") from error
    if result.protocol not in PROTOCOLS:
        raise ValueError(f"a result of an unknown protocol {result.protocol!r}")
    wrong = [name for name, right in _shown(result).items() if not right]
    if wrong:
        raise ValueError(f"no result of an evaluation (what is {', '.join(wrong)}?)")
    return result


def _shown(result: EvaluationResult) -> dict[str, bool]:
    """Return for each part that tables and reports show whether they can."""

    def numbers(row: object) -> bool:
        return isinstance(row, dict) and all(isinstance(v, int | float) for v in row.values())

    sides = [result.train] if result.test is None else [result.train, result.test]
    table, notes = result.table, result.notes
    return {
        "step": isinstance(result.step, int | None),
        "view_size": isinstance(result.view_size, int),
        "train or test": all(
            isinstance(side, DataSummary)
            and isinstance(side.samples, int)
            and isinstance(side.classes, int)
            for side in sides
        ),
        "chance, top1, top5 or seconds": all(
            isinstance(n, int | float)
            for n in (result.chance, result.top1, result.top5, result.seconds)
        ),
        "chosen": numbers(result.chosen),
        "table": isinstance(table, list | tuple)
        and all(numbers(row) and row.keys() == table[0].keys() for row in table),
        "notes": isinstance(notes, list | tuple) and all(isinstance(one, str) for one in notes),
    }


def _read(path: Path) -> EvaluationResult:
    try:
        return result_from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{path}: {error}; move it away or remove it, and evaluate once more"
        ) from error
