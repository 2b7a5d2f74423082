"""`python -m pipeline.saliency evaluate`: masks beside true ones, as a table."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from pipeline.saliency.console import refusing, report
from pipeline.saliency.evaluate import Row, evaluate
from pipeline.saliency.labelled import list_labelled
from pipeline.saliency.methods import METHODS, named_methods
from pipeline.saliency.refine.estimators import chosen_estimators


@click.command("evaluate")
@click.option(
    "--data", required=True, type=Path, help="Folder with images/ and masks/, of the same names."
)
@click.option("--limit", type=click.IntRange(min=1), help="Take so many pictures, spread evenly.")
@click.option(
    "--methods",
    default=",".join(METHODS),
    show_default=True,
    metavar="NAME,NAME",
    help='Hand-crafted methods to measure; "" for none of them beside --model or --maps.',
)
@click.option("--model", type=Path, help="A student.pt, to measure its masks as well.")
@click.option(
    "--maps",
    multiple=True,
    metavar="[NAME=]DIR",
    help="Folder of maps to measure as well, NAME.png for NAME.jpg; can be repeated.",
)
@click.option(
    "--processes", type=click.IntRange(min=1), help="To share the pictures. [default: all cores]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def evaluate_command(
    data: Path,
    limit: int | None,
    methods: str,
    model: Path | None,
    maps: tuple[str, ...],
    processes: int | None,
    as_json: bool,
) -> None:
    """Measure masks against true ones: hand-crafted methods, their fusion, a student, any maps."""
    with refusing():
        only_others = not methods.strip() and (model or maps)
        names = () if only_others else named_methods(methods)
        pictures = list_labelled(data, limit=limit)
        others = chosen_estimators(pictures, model=model, maps=maps)
        count = min(processes or len(os.sched_getaffinity(0)), len(pictures))
        with report("evaluate", len(pictures)) as tick:
            rows = evaluate(pictures, names, others=others, processes=count, tick=tick)
    show(rows, len(pictures))
    if as_json:
        found = {"data": str(data), "pictures": len(pictures), "rows": [asdict(r) for r in rows]}
        click.echo(json.dumps(found))


def show(rows: Sequence[Row], num_pictures: int) -> None:
    """Print the table."""
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("method")
    for head in ("max-F", "adaptive F", "MAE", "S", "coverage", "degenerate", "ms/image"):
        table.add_column(head, justify="right")
    for row in rows:
        figures = (row.summary.max_f, row.summary.adaptive_f, row.summary.mae)
        table.add_row(
            row.method,
            *(f"{figure:.3f}" for figure in (*figures, row.summary.structure)),
            *(f"{100 * share:.1f} %" for share in (row.coverage, row.degenerate)),
            "-" if row.milliseconds is None else f"{row.milliseconds:.1f}",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{num_pictures} pictures; ms/image of one core, with all that a method needs")
