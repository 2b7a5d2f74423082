"""`python -m bench certificate`: its options, its text, its exit status."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import click
import torch

from bench.certificate.bars import PASS
from bench.certificate.certify import NAME, CertificateRequest, certify
from bench.certificate.text import text
from bench.generated import shards_for
from bench.refused import refusing
from training.config import apply_settings
from training.launch import plan_world
from training.presets import load_preset


@click.command("certificate")
@click.option("--data", type=Path, help="Shards; generated photos without it.")
@click.option("--preset", default="imagenet-rn50", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE")
@click.option("--steps", type=click.IntRange(min=4), default=500, show_default=True)
@click.option("--gpus", type=int, help="GPUs of this machine; 0: CPU. [default: 1 if there is one]")
@click.option("--processes", type=int, default=1, show_default=True, help="CPU processes.")
@click.option(
    "--throttle",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    metavar="SHARE",
    help="The control: read no faster than this share of the demand. It must FAIL.",
)
@click.option(
    "--out",
    type=Path,
    default=Path("runs/certificate"),
    show_default=True,
    help="Gets certificate.json with the seconds of every step.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def certificate_command(
    data: Path | None,
    preset: str,
    settings: tuple[str, ...],
    steps: int,
    gpus: int | None,
    processes: int,
    throttle: float,
    out: Path,
    as_json: bool,
) -> None:
    """PASS or FAIL: is the model, as `train.py` trains it, ever starved by the loader?

    Exit status: 0 PASS; 1 FAIL, or INCOMPLETE where --steps are too few or the machine too
    noisy to say; 2 refused.
    """
    with refusing():
        config = apply_settings(load_preset(preset), settings)
        device_type, size = plan_world(gpus=gpus, processes=processes)
        config = replace(config, loader=config.loader.for_device(torch.device(device_type)))
        with shards_for([data] if data else [], formats=("dali",)) as folders:
            request = CertificateRequest(
                data=next(iter(folders.values())),
                config=config,
                device_type=device_type,
                processes=size,
                out=out,
                steps=steps,
                throttle=throttle,
            )
            status = certify(request)
    if status:
        sys.exit(status)
    result = json.loads((out / NAME).read_text())
    click.echo(text(result))
    click.echo(f"seconds of every step: {out / NAME}")
    if as_json:
        click.echo(json.dumps({name: value for name, value in result.items() if name != "ranks"}))
    sys.exit(0 if result["verdict"] == PASS else 1)
