"""`python -m bench plan`: its options and its text."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from bench.plan.capacity import Machine
from bench.plan.costs import keep_figures
from bench.plan.planner import PlanRequest, plan
from bench.plan.text import text
from pipeline.loader.decode import TooManyBadSamples
from training.config import apply_settings
from training.presets import load_preset


class Refused(click.ClickException):
    """What the user asked for cannot be done: one line, exit status 2."""

    exit_code = 2


@click.command("plan")
@click.option("--data", required=True, type=Path, help="Shards made by convert_dataset.py.")
@click.option("--preset", default="imagenet-rn50", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE")
@click.option("--gpu", required=True, metavar="NAME", help="H200, H100, A100, another, or cpu.")
@click.option("--gpus", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--cores", type=click.IntRange(min=1), help="Of the machine. [this one's]")
@click.option("--memory", type=click.FloatRange(min=0), metavar="GB", help="[this one's]")
@click.option(
    "--keep", type=Path, metavar="FILE", help="Keep what was measured on a GPU that is here."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def plan_command(
    data: Path,
    preset: str,
    settings: tuple[str, ...],
    gpu: str,
    gpus: int,
    cores: int | None,
    memory: float | None,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Rates, the first bottleneck, memory and days of a training on some machine.

    The pipeline's costs are measured here, in some seconds on one core; those of a GPU too if this
    machine has it, else they come from bench/figures. With --gpu cpu, --gpus counts processes.
    """
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        config = apply_settings(load_preset(preset), settings)
        machine = Machine(
            gpu=gpu,
            gpus=gpus,
            cores=cores or len(os.sched_getaffinity(0)),
            memory_bytes=memory * 1e9 if memory else float(here),
            threads=config.loader.threads,
        )
        result = plan(PlanRequest(data=data, config=config, machine=machine))
        if keep is not None:
            keep_figures(keep, result)
    except (ValueError, OSError, TooManyBadSamples) as error:
        raise Refused(str(error)) from error
    click.echo(text(result))
    if as_json:
        click.echo(json.dumps(result))
