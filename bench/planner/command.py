"""`python -m bench plan`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from bench.planner.plan import PlanRequest, plan
from bench.planner.text import plan_text
from bench.refused import refusing
from training.config import apply_settings
from training.presets import load_preset


@click.command("plan")
@click.option("--data", required=True, type=Path, help="Shards made by convert_dataset.py.")
@click.option("--preset", default="imagenet-rn50", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE")
@click.option("--gpu", default="cpu", show_default=True, help="cpu, A100, H100, H200.")
@click.option("--gpus", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--cores", type=click.IntRange(min=1), help="Of the machine. [this one's]")
@click.option("--disk", type=float, metavar="MB/S", help="What its disk reads. [all in memory]")
@click.option("--memory", type=float, metavar="GB", help="Of each GPU: is it enough?")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def plan_command(
    data: Path,
    preset: str,
    settings: tuple[str, ...],
    gpu: str,
    gpus: int,
    cores: int | None,
    disk: float | None,
    memory: float | None,
    as_json: bool,
) -> None:
    """What a run will do on a machine: rates, the first bottleneck, memory, days."""
    with refusing():
        if disk is not None and disk <= 0:
            raise ValueError(f"--disk must be above 0 MB/s, got {disk:g}")
        result = plan(
            PlanRequest(
                config=apply_settings(load_preset(preset), settings),
                data=data,
                gpu=gpu,
                gpus=gpus,
                cores=cores or len(os.sched_getaffinity(0)),
                disk_megabytes=disk,
                memory_gigabytes=memory,
            )
        )
    click.echo(plan_text(result))
    for warning in result["warnings"]:
        click.echo(f"warning: {warning}")
    if as_json:
        click.echo(json.dumps(result))
