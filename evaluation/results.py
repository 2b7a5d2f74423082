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

from evaluation.accuracy import Accuracy, error_of_difference, standard_error
from evaluation.charts import format_value
from files import write_text_whole

PROTOCOLS = {
    "knn": "kNN",
    "linear-quick": "Linear, quick",
    "linear-released": "Linear, released protocol",
}

MOST_CONFUSIONS = 400  # kept in a result: all pairs of 20 classes
_ERROR = "_standard_error"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSummary:
    """Which labelled samples were used."""

    shards: str
    samples: int
    classes: int  # that have images


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """What one run of a protocol found. Accuracies and their errors are in percent, 0..100."""

    protocol: str  # a key of PROTOCOLS
    checkpoint: str
    step: int | None  # completed training steps; None: not known
    untrained: bool  # the initial weights of the checkpoint's configuration
    view_size: int  # pixels
    train: DataSummary
    test: DataSummary | None  # None: each sample of train against the others
    chance: float  # share of the most frequent class of the test labels, percent
    top1: float
    top1_standard_error: float
    top5: float
    top5_standard_error: float
    settings: dict[str, Any]
    chosen: dict[str, Any]  # what the headline accuracy is of: a k, a learning rate, an l2
    table: Sequence[dict[str, Any]]  # every k, or every value of a sweep on the held-out split
    notes: Sequence[str] = field(default=())
    classes: Sequence[dict[str, Any]] = field(default=())  # name, samples, top1 of each, by label
    confusions: Sequence[dict[str, Any]] = field(default=())  # name, taken_for, samples; most first
    neighbours: Sequence[dict[str, Any]] = field(
        default=()
    )  # ids: of a test sample, of its nearest
    seconds: float
    device: str

    @property
    def file_name(self) -> str:
        return f"evaluation-{self.protocol}{'-untrained' if self.untrained else ''}.json"

    @property
    def test_samples(self) -> int:
        return (self.test or self.train).samples

    @property
    def shows_top5(self) -> bool:
        """Whether there are classes enough for a top-5 accuracy to say something."""
        return self.train.classes > 2 * 5


def percent(value: float) -> str:
    """Return a percentage 0..100 as '56.2 %'."""
    return f"{value:.1f} %"


def with_error(value: float, error: float) -> str:
    """Return a percentage and its standard error as '52.4 % ± 1.8'."""
    return f"{percent(value)} ± {error:.1f}"


def accuracy_columns(accuracy: Accuracy, prefix: str = "") -> dict[str, float]:
    """Return top-1 and top-5 accuracy with their standard errors, as columns of a table's row."""
    error = standard_error(accuracy.top5, accuracy.samples)
    top5 = {f"{prefix}top5": accuracy.top5, f"{prefix}top5_standard_error": error}
    return top1_columns(accuracy, prefix) | top5


def top1_columns(accuracy: Accuracy, prefix: str = "") -> dict[str, float]:
    """Return top-1 accuracy with its standard error, as columns of a table's row."""
    error = standard_error(accuracy.top1, accuracy.samples)
    return {f"{prefix}top1": accuracy.top1, f"{prefix}top1_standard_error": error}


def shown_cells(result: EvaluationResult, row: Mapping[str, Any]) -> dict[str, str]:
    """Return column -> text of a row of a result's table, as a person is to see it."""
    cells = {}
    for column, value in row.items():
        if column.endswith(_ERROR) or ("top5" in column and not result.shows_top5):
            continue
        if "top" not in column:
            cells[column] = format_value(value)
        elif column + _ERROR in row:
            cells[column] = with_error(value, row[column + _ERROR])
        else:
            cells[column] = percent(value)
    return cells


def against_untrained(results: Sequence[EvaluationResult], protocol: str) -> str:
    """Return a sentence that compares trained with untrained by a protocol.

    The difference counts where it is more than twice its standard error. Empty where one of the two
    is missing.
    """
    of_protocol = [result for result in results if result.protocol == protocol]
    trained = next((result for result in of_protocol if not result.untrained), None)
    untrained = next((result for result in of_protocol if result.untrained), None)
    if trained is None or untrained is None:
        return ""
    if _tested_on(trained) != _tested_on(untrained):
        return "Untrained was measured on other images; give both the same --train and --test."
    difference = trained.top1 - untrained.top1
    error = error_of_difference(
        trained.top1, untrained.top1, (trained.test_samples, untrained.test_samples)
    )
    found = f"the difference is {difference:+.1f} points with a standard error of {error:.1f}"
    if difference > 2 * error:
        return f"Trained is better than untrained: {found}."
    if difference < -2 * error:
        return f"Trained is not better than untrained, it is worse: {found}."
    return f"Trained is not better than untrained: {found}, no larger than chance would make it."


def _tested_on(result: EvaluationResult) -> tuple[Path, int, int]:
    side = result.test or result.train
    return Path(side.shards).resolve(), side.samples, result.view_size


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
        result = EvaluationResult(**{**_errors(values, data), **values, **data})
    except (TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(f"no result of an evaluation ({error})") from error
    if result.protocol not in PROTOCOLS:
        raise ValueError(f"a result of an unknown protocol {result.protocol!r}")
    wrong = [name for name, right in _shown(result).items() if not right]
    if wrong:
        raise ValueError(f"no result of an evaluation (what is {', '.join(wrong)}?)")
    return result


def _errors(values: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, float]:
    """Return the standard errors, which older versions did not write."""
    samples = (data["test"] or data["train"]).samples
    return {f"{name}{_ERROR}": standard_error(values[name], samples) for name in ("top1", "top5")}


def _shown(result: EvaluationResult) -> dict[str, bool]:
    """Return for each part that tables and reports show whether they can."""

    def numbers(row: object) -> bool:
        return isinstance(row, dict) and all(isinstance(v, int | float) for v in row.values())

    number = int | float

    def rows_of(rows: object, **kinds: Any) -> bool:
        return isinstance(rows, list | tuple) and all(
            isinstance(row, dict)
            and all(isinstance(row.get(name), kind) for name, kind in kinds.items())
            for row in rows
        )

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
            for n in (
                *(result.chance, result.top1, result.top1_standard_error),
                *(result.top5, result.top5_standard_error, result.seconds),
            )
        ),
        "classes": rows_of(
            result.classes, name=str, samples=int, top1=number, top1_standard_error=number
        ),
        "confusions": rows_of(result.confusions, name=str, taken_for=str, samples=int),
        "neighbours": rows_of(result.neighbours, id=int, nearest=list)
        and all(isinstance(n, int) for row in result.neighbours for n in row["nearest"]),
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
