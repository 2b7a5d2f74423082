"""Evaluate an encoder: `python evaluate.py knn|linear --checkpoint RUN --train DATA --test DATA`.

Reads a checkpoint and shards, prints a table, writes evaluation-*.json beside the checkpoint and a
section of report.html there. Protocols: docs/evaluation.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import click

from console import HELP_NAMES, Command, Refused, answer_usage, outlive_output, spin_briefly


@click.group(context_settings=HELP_NAMES)
def main() -> None:
    """Measure how good the features of an encoder are."""


def evaluation_command(function: Callable[..., None]) -> click.Command:
    """Make a command that has the options of every evaluation."""
    options = [
        click.option(
            "--checkpoint",
            required=True,
            type=Path,
            help="Run directory (its newest checkpoint), a checkpoint, or an exported encoder.",
        ),
        click.option(
            "--untrained",
            is_flag=True,
            help="Evaluate the initial weights of the same configuration, to compare with.",
        ),
        click.option("--size", type=int, help="Side of the views. [default: large views']"),
        click.option(
            "--batch-size",
            type=int,
            default=256,
            show_default=True,
            help="Images at a time when features are computed.",
        ),
        click.option("--threads", type=int, default=0, help="For loading. [default: all cores]"),
        click.option("--out", type=Path, help="For results. [default: beside the checkpoint]"),
        click.option("--json", "as_json", is_flag=True, help="Print JSON as the last line."),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="NAME=VALUE",
            help="Change a setting of the protocol.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return main.command(cls=Command)(function)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What every evaluation is asked."""

    checkpoint: Path
    untrained: bool
    train: Path
    test: Path | None
    size: int | None
    batch_size: int
    threads: int
    out: Path | None
    as_json: bool


@evaluation_command
@click.option("--train", required=True, type=Path, help="Labelled shards: the neighbours.")
@click.option("--test", type=Path, help="Labelled shards. [default: train, leaving one out]")
@click.option("--k", type=int, help="Neighbours that vote. [default: 20]")
def knn(k: int | None, settings: tuple[str, ...], **asked: Any) -> None:
    """Classify images by their nearest neighbours.

    Settings: k, more_k (others for the table), temperature.
    """
    with refusing():
        config = apply_settings(KnnConfig(), settings)
        config = config if k is None else replace(config, k=k)
        run(Request(**asked), partial(evaluate_knn, config=config))


@evaluation_command
@click.option("--train", required=True, type=Path, help="Labelled shards to train on.")
@click.option("--test", required=True, type=Path, help="Labelled shards to test on.")
@click.option(
    "--protocol",
    type=click.Choice(["released", "quick"]),
    default="quick",
    show_default=True,
    help="released: as the authors' evaluation code; quick: logistic regression in minutes.",
)
def linear(protocol: str, settings: tuple[str, ...], **asked: Any) -> None:
    """Train a linear classifier on the frozen encoder.

    Settings of released: learning_rates, epochs, batch_size, momentum, nesterov, weight_decay,
    held_out_share, held_out_limit, seed; of quick: l2, max_iterations, tolerance, held_out_share,
    held_out_limit, seed.
    """
    with refusing():
        request = Request(**asked)
        if protocol == "released":
            released = apply_settings(LinearConfig(), settings)
            run(request, partial(evaluate_released, config=released))
        else:
            quick = apply_settings(LogisticConfig(), settings)
            run(request, partial(evaluate_quick, config=quick))


if __name__ == "__main__":
    outlive_output()
    spin_briefly()
    answer_usage(main)  # before the imports below, which take seconds

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from evaluation.comparison import HEADS, is_chosen
from evaluation.encoders import OpenedEncoder, initial_encoder, open_encoder
from evaluation.knn import KnnConfig
from evaluation.linear import LinearConfig
from evaluation.logistic import LogisticConfig
from evaluation.page import Section
from evaluation.protocols import evaluate_knn, evaluate_quick, evaluate_released
from evaluation.report import (
    REPORT_NAME,
    neighbours_section,
    read_sections,
    run_sections,
    run_titles,
    update_report,
)
from evaluation.results import (
    PROTOCOLS,
    EvaluationResult,
    against_untrained,
    percent,
    read_results,
    shown_cells,
    with_error,
    write_result,
)
from evaluation.subject import Subject
from pipeline.loader import LoaderConfig
from pipeline.loader.decode import TooManyBadSamples
from pipeline.shards import open_shards
from training.config import apply_settings


def run(request: Request, evaluate: Callable[[Subject], EvaluationResult]) -> None:
    """Open what was asked for, evaluate, write and show the result."""
    found = open_encoder(request.checkpoint)
    out = output_folder(request)
    if found.warning:
        click.echo(found.warning, err=True)
    found = initial_encoder(found) if request.untrained else found
    with ExitStack() as stack:
        train = stack.enter_context(closing(open_shards(request.train)))
        test = None
        if request.test is not None:
            test = stack.enter_context(closing(open_shards(request.test)))
        subject = Subject(
            encoder=found.encoder,
            checkpoint=str(found.path),
            step=found.step,
            untrained=request.untrained,
            train=train,
            test=test,
            size=view_size(request, found),
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            batch_size=request.batch_size,
            loader=LoaderConfig(threads=request.threads),
            track=track,
        )
        result = evaluate(subject)
        neighbours = neighbours_section(result, train, test)
    path = keep(result, out, neighbours)
    show(result, read_results(out))
    click.echo(f"{path}\n{out / REPORT_NAME}")
    if request.as_json:
        click.echo(json.dumps(asdict(result)))


def keep(result: EvaluationResult, out: Path, neighbours: Section | None) -> Path:
    """Write the result and its place in the report; return the result's path.

    The report is made first, so that nothing is written which no report can show.
    """
    out.mkdir(parents=True, exist_ok=True)
    others = [one for one in read_results(out) if one.file_name != result.file_name]
    sections = run_sections(out, results=[*others, result])
    if neighbours is not None and not result.untrained:
        sections.append(neighbours)
    title, subtitle = run_titles(out) or (f"Evaluation of {Path(result.checkpoint).name}", "")
    path = write_result(result, out)
    update_report(out / REPORT_NAME, sections, title=title, subtitle=subtitle)
    return path


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what the user can mend into one line and exit status 2."""
    try:
        yield
    except (ValueError, TooManyBadSamples, OSError) as error:
        raise Refused(" ".join(str(error).split())) from error
    except torch.cuda.OutOfMemoryError as error:
        raise Refused("the GPU's memory is too small; give a smaller --batch-size") from error


def view_size(request: Request, found: OpenedEncoder) -> int:
    """Return the side of the views: as asked, else as in training.

    Raises:
        ValueError: neither is known.
    """
    size = found.view_size if request.size is None else request.size
    if size is None:
        raise ValueError(f"{found.path} does not say how large its views were; give --size")
    return size


def output_folder(request: Request) -> Path:
    """Return where results go, making sure that they can be written before hours are spent.

    Raises:
        ValueError: it is no folder, nothing can be written there, or what lies there is not ours
            to update.
    """
    beside = request.checkpoint if request.checkpoint.is_dir() else request.checkpoint.parent
    out = request.out or beside
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder")
    if out.is_dir():
        run_sections(out)
        if (out / REPORT_NAME).exists():
            read_sections(out / REPORT_NAME)
    try_to_write(out)
    return out


def try_to_write(folder: Path) -> None:
    """Raise ValueError where files cannot be written; leave nothing behind."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder, prefix="trial-") as trial:
            trial.write(b"trial")
    except OSError as error:
        raise ValueError(
            f"cannot write into {folder} ({error.strerror}); give --out with a folder in which "
            "files can be written"
        ) from error
    finally:
        for one in missing:  # the innermost first
            with suppress(OSError):  # never made, or somebody else uses it by now
                one.rmdir()


def show(result: EvaluationResult, results: Sequence[EvaluationResult]) -> None:
    """Print the result as a table, and how it compares with others of the same folder."""
    console = Console(highlight=False)
    encoder = f"{result.checkpoint}{' (untrained)' if result.untrained else ''}"
    chosen = ", ".join(f"{HEADS[name]} {value:g}" for name, value in result.chosen.items())
    console.print(f"{PROTOCOLS[result.protocol]} of {encoder}", soft_wrap=True, markup=False)
    if result.table:
        console.print(table_of(result))
    accuracies = f"top-1 {with_error(result.top1, result.top1_standard_error)}  "
    if result.shows_top5:
        accuracies += f"top-5 {with_error(result.top5, result.top5_standard_error)}  "
    console.print(
        f"{accuracies}({chosen})  chance {percent(result.chance)}  {result.seconds:.1f} s  "
        "(± the standard error)",
        soft_wrap=True,
    )
    for note in (*result.notes, against_untrained(results, result.protocol)):
        if note:
            console.print(note, soft_wrap=True, markup=False)


def table_of(result: EvaluationResult) -> Table:
    """Return the result's table; the chosen row is bold."""
    table = Table(box=None, pad_edge=False, header_style="")
    rows = [shown_cells(result, row) for row in result.table]
    for column in rows[0]:
        table.add_column(HEADS.get(column, column), justify="right")
    for cells, row in zip(rows, result.table, strict=True):
        table.add_row(*cells.values(), style="bold" if is_chosen(result, row) else None)
    return table


@contextmanager
def track(stage: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of a stage on standard error."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as progress:
        task = progress.add_task(stage, total=total)
        yield lambda done: progress.advance(task, done)


if __name__ == "__main__":
    main()
