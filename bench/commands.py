"""Commands of one module each: `trace`, `augment`, `order`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bench.augment import AugmentRequest, augment
from bench.order import OrderRequest, order, order_options, quality_table
from bench.refused import conclude, refusing
from bench.table import table
from bench.trace import TraceRequest, trace
from training.config import apply_settings
from training.presets import load_preset


@click.command("trace")
@click.option("--data", required=True, type=Path, help="Shards made by convert_dataset.py.")
@click.option("--preset", default="imagenet-rn50", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE")
@click.option("--steps", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--start-step", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def trace_command(
    data: Path,
    preset: str,
    settings: tuple[str, ...],
    steps: int,
    start_step: int,
    processes: int,
    threads: int,
    as_json: bool,
) -> None:
    """Print the sample ids and a hash of every view's pixels for each global step.

    The answer depends on data, preset and seed alone: run it with other --processes, --threads or
    --start-step and compare.
    """
    with refusing():
        config = apply_settings(load_preset(preset), (*settings, f"loader.threads={threads}"))
        request = TraceRequest(
            data=data, config=config, start_step=start_step, num_steps=steps, processes=processes
        )
        result = trace(request)
    for row in result["steps"]:
        click.echo(
            f"step {row['step']:6d}  epoch {row['epoch']:4d}  {len(row['sample_ids'])} samples  "
            f"views {row['digest']}"
        )
    click.echo(f"all steps {result['digest']}")
    if as_json:
        click.echo(json.dumps(result))


@click.command("augment")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--images", type=click.IntRange(min=1), help="Pictures in a round. [32, GPU: 256]")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--data", type=Path, help="Shards to take pictures from; generated without it.")
@click.option("--peers/--no-peers", default=True, show_default=True)
@click.option("--only", multiple=True, metavar="NAME", help="Measure the row NAME; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def augment_command(
    device: str,
    images: int | None,
    rounds: int,
    threads: int,
    data: Path | None,
    peers: bool,
    only: tuple[str, ...],
    as_json: bool,
) -> None:
    """Speed of the augmentation, beside other libraries at the same work.

    On CPU every row but `compiled xN` is pinned to one core; N is --threads.
    """
    request = AugmentRequest(
        device=device,
        images=images or (256 if device == "cuda" else 32),
        rounds=rounds,
        threads=threads,
        data=data,
        peers=peers,
        only=only,
    )
    with refusing():
        result = augment(request)
    click.echo(table(result))
    conclude(result, as_json)


@click.command("order")
@order_options
def order_command(as_json: bool, **asked: Any) -> None:
    """How well the windowed order mixes, and how fast a cold disk gives it.

    The files' pages are dropped from the page cache before each measurement, which needs no root,
    and rows say so where the system kept them.
    """
    with refusing():
        result = order(OrderRequest(**asked))
    click.echo(quality_table(result))
    click.echo("\n" + table(result) if result["rows"] else result["work"])
    conclude(result, as_json, whose="row")
