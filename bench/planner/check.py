"""`python -m bench plan-check`: `train.py --plan`, and then the run itself, for three runs.

Each pair is two commands as a user gives them, one after the other, on the same shards. Memory is
the most that the run's process held, kNN and checkpoint included; speed is the median of its log
lines after the first of them, in which kernels are compiled and queues fill.

    demo    the preset: a narrow ResNet-18, steps of a quarter of a second, kNN every other epoch
    parts   a ResNet-18 at 96 and 64 pixels, a batch in two parts
    large   ResNet-50 at 224 and 96 pixels, whose batch is rehearsed at half its size on two cores
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import click

from bench.environment import environment
from bench.harness import tell
from bench.refused import refusing

ROOT = Path(__file__).resolve().parents[2]
_SETTLING = 0.2  # of a run's log lines, at its beginning
RUNS: dict[str, tuple[str, ...]] = {
    "demo": ("--preset", "demo", "--set", "max_steps=120"),
    "parts": (
        *("--preset", "small-images", "--set", "recipe.large_size=96"),
        *("--set", "recipe.small_size=64", "--set", "global_batch_size=128"),
        *("--set", "accumulate=2", "--set", "log_every=1", "--set", "max_steps=20"),
    ),
    "large": (
        *("--preset", "imagenet-rn50", "--set", "global_batch_size=32", "--set", "log_every=1"),
        *("--set", "max_steps=8", "--set", "monitor_every=0"),
    ),
}


@click.command("plan-check")
@click.option("--data", required=True, type=Path, help="Shards of photos; some 400 will do.")
@click.option("--turns", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(RUNS)), help="[all three]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def plan_check_command(data: Path, turns: int, only: tuple[str, ...], as_json: bool) -> None:
    """What `train.py --plan` foretells, over what the run then does: memory and speed."""
    with refusing():
        pairs = [
            {"run": name, **_pair(name, data)} for _ in range(turns) for name in only or tuple(RUNS)
        ]
    click.echo("run      foretold over measured   memory   speed   (measured)")
    for pair in pairs:
        click.echo(
            f"{pair['run']:8} {'':23} {pair['memory']:7.3f} {pair['speed']:7.3f}   "
            f"{pair['peak_host_bytes'] / 1e9:.2f} GB, {pair['images_per_second']:.1f} images/s"
        )
    result = {"rung": "plan-check", "environment": environment(), "data": data.name, "pairs": pairs}
    if as_json:
        click.echo(json.dumps(result))


def _pair(name: str, data: Path) -> dict[str, Any]:
    tell(f"{name}: the plan")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        arguments = ("--data", data, "--out", run, "--gpus", "0", *RUNS[name], "--json")
        said, _ = _train(*arguments, "--plan")
        plan = json.loads(said.splitlines()[-1])
        tell(f"{name}: the run")
        _, peak = _train(*arguments)
        lines = (run / "metrics.jsonl").read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if "images_per_second" in record]
    rate = median(each["images_per_second"] for each in steps[round(_SETTLING * len(steps)) :])
    return {
        "memory": plan["host_bytes"] / peak,
        "speed": plan["images_per_second"] / rate,
        "peak_host_bytes": peak,
        "images_per_second": rate,
        "plan": {key: plan[key] for key in ("rehearsal", "host_bytes", "images_per_second")},
    }


def _train(*arguments: object) -> tuple[str, int]:
    """Run train.py; return what it said, and the bytes that its process held at most.

    Raises:
        ValueError: it failed, with what it said last.
    """
    words = [sys.executable, "train.py", *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(words, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    if process.returncode:
        last = text.strip().rpartition("\n")[2]
        raise ValueError(f"train.py ended with status {process.returncode}: {last}")
    return text, 1024 * usage.ru_maxrss
