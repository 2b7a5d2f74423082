"""`python -m bench step`."""

from __future__ import annotations

import os
from dataclasses import replace

import click
import torch

from bench.refused import conclude, refusing
from bench.step.rung import PARTS, StepRequest, step
from bench.step.speed import Timing
from bench.step.text import step_text
from training.config import TrainConfig, apply_settings
from training.presets import load_preset

PRESET = "imagenet-rn50"
# On a CPU without --preset: that model on views that two cores can bear.
CPU_SETTINGS = ("recipe.large_size=64", "recipe.small_size=32")
BATCHES = {"cpu": 32, "cuda": 256}  # of one process, where the preset has more
STEPS = {"cpu": 1, "cuda": 5}  # of a row in a round


@click.command("step")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda if there is one]"
)
@click.option("--preset", help=f"[{PRESET}; on a CPU with views of 64 and 32 pixels]")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE")
@click.option(
    "--batch", type=click.IntRange(min=2), help="Images of a step.  [the preset's, or 32; GPU: 256]"
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="On a CPU.  [one for each core]")
@click.option("--cudnn-benchmark", is_flag=True, help="Let cuDNN try its algorithms, on a GPU.")
@click.option("--only", multiple=True, metavar="PART", help=f"One of {', '.join(PARTS)}.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def step_command(
    device: str | None,
    preset: str | None,
    settings: tuple[str, ...],
    batch: int | None,
    rounds: int,
    threads: int | None,
    cudnn_benchmark: bool,
    only: tuple[str, ...],
    as_json: bool,
) -> None:
    """The training step on resident views: beside its bare networks, its memory, its operators."""
    with refusing():
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        config = config_of(device, preset, settings, batch)
        timing = Timing(
            rounds=rounds,
            steps=STEPS[device],
            threads=threads or len(os.sched_getaffinity(0)),
        )
        request = StepRequest(
            config=config,
            device=device,
            timing=timing,
            cudnn_benchmark=cudnn_benchmark,
            only=only,
        )
        result = step(request)
    click.echo(step_text(result))
    conclude(result, as_json)


def config_of(
    device: str, preset: str | None, settings: tuple[str, ...], batch: int | None
) -> TrainConfig:
    """The configuration of one process.

    Raises:
        ValueError: an unknown preset or setting.
    """
    smaller = CPU_SETTINGS if preset is None and device == "cpu" else ()
    config = apply_settings(load_preset(preset or PRESET), (*smaller, *settings))
    wanted = batch or min(config.global_batch_size, BATCHES[device])
    return replace(config, global_batch_size=wanted)
