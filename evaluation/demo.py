"""`make demo`: the whole way on generated pictures, by the commands that a user runs.

OUT/train, OUT/val    shards of the demo pictures
OUT/run               the training run
OUT/report.html       curves, views, masks, accuracy, speed
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from console import outlive_output
from evaluation.report import write_run_report
from evaluation.results import against_untrained, result_from_dict, with_error

_ROOT = Path(__file__).resolve().parent.parent


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=Path, default=Path("runs/demo"), show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the training.")
@click.option("--format", "shard_format", type=click.Choice(["ffcv", "dali"]), default="ffcv")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def main(out: Path, seed: int, shard_format: str, as_json: bool) -> None:
    """Generate, convert, train, evaluate, report."""
    began = time.monotonic()
    _make_room(out)
    train, val, run = out / "train", out / "val", out / "run"
    _command("convert_dataset.py", "--source", "demo", "--format", shard_format, "--out", train)
    _command("convert_dataset.py", "--source", "demo-val", "--format", shard_format, "--out", val)
    _command("train.py", "--data", train, "--out", run, "--preset", "demo", "--set", f"seed={seed}")
    sides = ("--train", train, "--test", val)
    untrained = _evaluation("--checkpoint", run, "--untrained", *sides, "--out", out / "untrained")
    trained = _evaluation("--checkpoint", run, *sides, "--out", run)
    report = write_run_report(run, data=train, results=[untrained, trained], out=out)
    minutes = (time.monotonic() - began) / 60
    before, after = untrained["top1"], trained["top1"]
    texts = [with_error(one["top1"], one["top1_standard_error"]) for one in (untrained, trained)]
    told = against_untrained([result_from_dict(one) for one in (untrained, trained)], "knn")
    click.echo(
        f"{told}\nkNN top-1 on {val}: untrained {texts[0]}, trained {texts[1]} "
        f"({after - before:+.1f} points) in {minutes:.1f} minutes\nreport: {report}"
    )
    if as_json:
        result = {"seed": seed, "untrained": before, "trained": after, "minutes": minutes}
        click.echo(json.dumps(result))


def _make_room(out: Path) -> None:
    """Remove what an earlier demo left; refuse a folder that holds anything else."""
    marks = {"train": "manifest.json", "val": "manifest.json", "run": "config.json"}
    marks |= {"untrained": "evaluation-knn-untrained.json"}
    for path in sorted(out.iterdir()) if out.is_dir() else []:
        ours = path.name in marks and (path / marks[path.name]).is_file()
        if not ours and path.name not in ("report.html", *(f"{name}.partial" for name in marks)):
            raise click.UsageError(f"{path} is not of a demo; give an empty folder as --out")
    for name in (*marks, *(f"{name}.partial" for name in marks)):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
    (out / "report.html").unlink(missing_ok=True)


def _command(script: str, *arguments: object) -> None:
    """Run one of the project's own commands, showing it and its output."""
    words = [script, *map(str, arguments)]
    click.secho(f"\n$ python {shlex.join(words)}", bold=True)
    sys.stdout.flush()
    status = subprocess.run([sys.executable, str(_ROOT / script), *words[1:]], check=False)
    if status.returncode:
        raise click.ClickException(f"{script} ended with status {status.returncode}")


def _evaluation(*arguments: object) -> dict[str, Any]:
    """Run evaluate.py knn and return its JSON."""
    words = ["evaluate.py", "knn", *map(str, arguments), "--json"]
    click.secho(f"\n$ python {shlex.join(words)}", bold=True)
    sys.stdout.flush()
    command = [sys.executable, str(_ROOT / words[0]), *words[1:]]
    finished = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    *lines, last = finished.stdout.splitlines() or [""]
    click.echo("\n".join(lines))
    if finished.returncode:
        raise click.ClickException(f"evaluate.py ended with status {finished.returncode}")
    result: dict[str, Any] = json.loads(last)
    return result


if __name__ == "__main__":
    outlive_output()
    main()
