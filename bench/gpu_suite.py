"""All GPU figures and checks of this repository in one call of under ten minutes.

    python bench/gpu_suite.py [--only tests|augment|ladder|certificate|step] [--out DIR]

The part `step` takes up to eight minutes of its own, and runs where --only names it. The suite
needs torch, Triton, click and simplejpeg; what else is missing costs the rows that ask for it.
Each part runs in a process of its own with its own time limit, so that one that fails or hangs
leaves the others their results. A part writes OUT/<part>-<gpu>.json: one line, with the environment
it was measured in. The last line of standard output is one JSON object that names the parts.
Without a GPU it says so and exits with 0: no figures is not a failure.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a file, the folder of the file stands there instead
    sys.path.insert(0, str(ROOT))

from bench.environment import environment  # noqa: E402

_TAIL = 4_000  # characters of a part's output that are kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What to run: arguments of Python, and how long it may take."""

    name: str
    arguments: tuple[str, ...]
    limit_seconds: float
    prints_json: bool
    on_request: bool = False  # runs only where --only names it


def _gpu_tests() -> tuple[str, ...]:
    """The files that hold tests for a GPU: others may need packages that are not there."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return tuple(str(file.relative_to(ROOT)) for file in files if "mark.gpu" in file.read_text())


PARTS = (
    Part(
        name="tests",
        arguments=("-m", "pytest", "-m", "gpu", "-q", "--color=no"),
        limit_seconds=190,
        prints_json=False,
    ),
    Part(
        name="augment",
        arguments=("-m", "bench", "augment", "--device", "cuda", "--json"),
        limit_seconds=140,
        prints_json=True,
    ),
    Part(
        name="ladder",
        arguments=("-m", "bench", "ladder", "--device", "cuda", "--rounds", "3", "--json"),
        limit_seconds=110,
        prints_json=True,
    ),
    Part(  # batches of 64: 500 steps twice in a minute and a half, at 700 images/s
        name="certificate",
        arguments=(
            *("-m", "bench", "certificate", "--gpus", "1", "--set", "global_batch_size=64"),
            *("--out", str(Path(tempfile.gettempdir()) / "certificate"), "--json"),
        ),
        limit_seconds=150,
        prints_json=True,
    ),
    Part(
        name="step",
        arguments=("-m", "bench", "step", "--device", "cuda", "--json"),
        limit_seconds=470,
        prints_json=True,
        on_request=True,
    ),
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", type=click.Choice([part.name for part in PARTS]), multiple=True)
@click.option("--out", type=click.Path(path_type=Path), help="[$OUT, else bench/results]")
def main(only: tuple[str, ...], out: Path | None) -> None:
    """Run the parts that need a GPU; exit status 1 if one of them fails."""
    if not torch.cuda.is_available():
        click.echo("no CUDA device on this machine: no figures")
        click.echo(json.dumps({"suite": "gpu", "gpu": None, "parts": {}}))
        return
    folder = out or Path(os.environ.get("OUT") or ROOT / "bench" / "results")
    folder.mkdir(parents=True, exist_ok=True)
    gpu = torch.cuda.get_device_name()
    usual = [part.name for part in PARTS if not part.on_request]
    chosen = [part for part in PARTS if part.name in (only or usual)]
    parts = {}
    for part in chosen:
        click.echo(f"{part.name}: at most {part.limit_seconds:.0f} s", err=True)
        result = run_part(part)
        path = folder / f"{part.name}-{_slug(gpu)}.json"
        path.write_text(json.dumps(result) + "\n")
        parts[part.name] = {k: result[k] for k in ("status", "seconds")} | {"file": str(path)}
        click.echo(f"{part.name}: {result['status']} after {result['seconds']:.0f} s", err=True)
    click.echo(json.dumps({"suite": "gpu", "gpu": gpu, "parts": parts}))
    if any(part["status"] != "ok" for part in parts.values()):
        sys.exit(1)


def run_part(part: Part) -> dict[str, Any]:
    """Run one part; its last line as JSON if it prints that, else the end of its output.

    `status` is ok, failed (another exit status than 0), timeout, or no figures (no JSON came).
    """
    start = time.monotonic()
    code, output, errors = _run(part)
    result: dict[str, Any] = {
        "part": part.name,
        "status": {0: "ok", None: "timeout"}.get(code, "failed"),
        "seconds": round(time.monotonic() - start, 1),
        "limit_seconds": part.limit_seconds,
        "exit_status": code,
        "environment": environment(),
    }
    figures = _last_object(output) if part.prints_json else None
    if part.prints_json and figures is None and code == 0:
        result["status"] = "no figures"
    if figures is not None:
        result["result"] = figures
    if figures is None or code != 0:
        result |= {"output_tail": output[-_TAIL:], "errors_tail": errors[-_TAIL:]}
    return result


def _run(part: Part) -> tuple[int | None, str, str]:
    """Exit status (None: out of time, the whole group of processes is ended), stdout, stderr."""
    process = subprocess.Popen(
        [sys.executable, *part.arguments, *(_gpu_tests() if part.name == "tests" else ())],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        output, errors = process.communicate(timeout=part.limit_seconds)
        return process.returncode, output, errors
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, errors = process.communicate()
        return None, output, errors


def _last_object(output: str) -> dict[str, Any] | None:
    lines = output.strip().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    main()
