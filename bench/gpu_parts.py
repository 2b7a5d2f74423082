"""The parts of bench/gpu_suite.py that no other command has: `python -m bench.gpu_parts PART`.

Each prints lines for a person, then one JSON object; exit status 1: what it looked at is wrong.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from bench.generated import generated_shards
from bench.refused import refusing
from pipeline.shards import open_shards
from training.presets import load_preset
from training.trust import difference_of_views

ROOT = Path(__file__).resolve().parents[1]
_EPOCHS = 10  # of learning from --data, at most; a run that is not over by its time is stopped


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def parts() -> None:
    """Parts of bench/gpu_suite.py."""


@parts.command("environment")
def environment_command() -> None:
    """What the GPU and the libraries for it are, and whether it multiplies."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    free, total = torch.cuda.mem_get_info()
    found: dict[str, Any] = {
        "capability": f"{properties.major}.{properties.minor}",
        "gpus": torch.cuda.device_count(),
        "free_gigabytes": round(free / 1e9, 1),
        "memory_gigabytes": round(total / 1e9, 1),
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        "compute_sanitizer": shutil.which("compute-sanitizer"),
    }
    ones = torch.ones(256, 256, device="cuda", dtype=torch.bfloat16)
    product = float((ones @ ones).float().mean())
    found["mean_of_product"] = product
    for name, value in found.items():
        click.echo(f"{name}: {value}")
    if shutil.which("nvidia-smi"):
        subprocess.run(["nvidia-smi"], check=False)
    click.echo(json.dumps(found))
    if product != 256:
        raise click.ClickException(f"a product of ones should be 256 everywhere, got {product}")


@parts.command("views")
@click.option("--images", type=click.IntRange(min=1), default=8, show_default=True)
def views_command(images: int) -> None:
    """Compare one batch of the executor for GPUs with the reference."""
    device = torch.device("cuda", torch.cuda.current_device())
    config = load_preset("imagenet-rn50")
    config = replace(config, loader=config.loader.for_device(device))
    with generated_shards(("dali",), count=images) as folders:
        shards = open_shards(folders["dali"])
        fault = difference_of_views(config, shards, device, expected_of="reference")
        shards.close()
    executor = config.loader.executor
    click.echo(f"views of {images} images by {executor}: {fault or 'as the reference'}")
    click.echo(json.dumps({"images": images, "executor": executor, "fault": fault}))
    if fault:
        sys.exit(1)


@parts.command("learning")
@click.option("--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True)
@click.option("--data", type=Path, help="Shards or images with classes.  [the generated demo]")
@click.option("--gpus", type=int, default=1, show_default=True)
def learning_command(seconds: float, data: Path | None, gpus: int) -> None:
    """Train by train.py until so long from now; kNN accuracy before, and after every epoch."""
    end = time.monotonic() + seconds
    with refusing(), tempfile.TemporaryDirectory(prefix="learning-") as name:
        folder = Path(name)
        if data is None or not (data / "manifest.json").is_file():
            _convert(data or "demo", folder / "shards")
        shards = folder / "shards" if (folder / "shards").exists() else data
        settings = ["monitor_every=1", "log_every=10"]
        settings += [f"epochs={_EPOCHS}"] if data else []
        command = [sys.executable, "train.py", "--data", str(shards), "--out", str(folder / "run")]
        command += ["--gpus", str(gpus), "--preset", "small-images" if data else "demo"]
        command += [word for setting in settings for word in ("--set", setting)]
        training = subprocess.Popen(command, cwd=ROOT)
        try:
            status = training.wait(max(end - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            training.terminate()  # it ends its step, saves, and leaves
            training.wait()
            status = 0
        found = learned(folder / "run") if (folder / "run/metrics.jsonl").exists() else {}
    if found:
        click.echo(
            "kNN: " + ", ".join(f"{top1:.1f} % after step {n}" for n, top1, _ in found["knn"])
        )
    click.echo(json.dumps(found))
    if wrong := wrong_with(found, status):
        raise click.ClickException(wrong)


def wrong_with(found: dict[str, Any], status: int) -> str:
    """Why a run with this exit status is no sign of learning; "" if it may be one."""
    if status or not found:
        return f"train.py ended with status {status}; its line above says why"
    if not found["is_finite"]:
        return "there is no loss, or one that is not finite"
    if len(found["knn"]) < 2:
        return "no epoch was over in this time: no kNN accuracy but that of the untrained encoder"
    return ""


def _convert(source: Path | str, shards: Path) -> None:
    """Make shards of images, as a user does.

    Raises:
        ValueError: convert_dataset.py refused them; its line is above.
    """
    command = [sys.executable, "convert_dataset.py", "--source", str(source), "--format", "dali"]
    if subprocess.run([*command, "--out", str(shards)], cwd=ROOT, check=False).returncode:
        raise ValueError(f"no shards of {source}: see the line above")


def learned(run: Path) -> dict[str, Any]:
    """What a run's own files say: [step, kNN %, standard error] from step 0 on, loss, speed."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    description = json.loads((run / "config.json").read_text())
    return {
        "knn": [
            [record["step"], record["knn_top1"], record["knn_standard_error"]]
            for record in records
            if "knn_top1" in record
        ],
        "losses": losses,
        "is_finite": bool(losses) and all(map(math.isfinite, losses)),
        "images_per_second": [r["images_per_second"] for r in records if "loss" in r],
        "gpu_check": description.get("gpu_check"),
        "executor": description["config"]["loader"]["executor"],
        "precision": description["config"]["precision"],
    }


if __name__ == "__main__":
    parts(prog_name="python -m bench.gpu_parts")
