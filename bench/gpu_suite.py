"""All GPU figures and checks of this repository, in two calls of some six minutes each.

    python bench/gpu_suite.py first  [--out DIR]               is it right? then the views' speed
    python bench/gpu_suite.py second [--out DIR] [--data DIR]  the ladder, the certificate, learning
    python bench/gpu_suite.py --only step --only learning      parts of either call

The suite says what will run and how long it may take. It needs torch, Triton, click and simplejpeg,
for the tests pytest and hypothesis; what else is missing costs the rows or the part that need it.
Each part runs in processes of its own with its own time limit, so that one that fails or hangs
leaves the others their results. What it prints appears at once, behind its name. A part writes
OUT/<part>-<gpu>.json: one line, with the environment it was measured in. The last line of standard
output is one JSON object that names the parts. Without a GPU it says so and exits with 0: no
figures is not a failure.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click
import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a file, the folder of the file stands there instead
    sys.path.insert(0, str(ROOT))

from bench.environment import environment  # noqa: E402

CALLS = {"first": 400, "second": 330}  # seconds, with everything around the parts
_TAIL = 4_000  # characters of a part's output that are kept
_SHOWN = 300  # characters of a line that are shown while a part runs
_TEST_PROCESSES = 4
_WELL = ("ok", "skipped", "incomplete")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What to run, and how long it may take. Commands of one part run at the same time."""

    name: str
    call: str = "first"
    commands: tuple[tuple[str, ...], ...]
    limit_seconds: float
    prints_json: bool = True
    needs: str = ""  # a program without which the part is skipped
    takes_data: bool = False  # whether --data is handed on


def _python(*arguments: str) -> tuple[tuple[str, ...], ...]:
    return ((sys.executable, *arguments),)


def gpu_tests() -> list[str]:
    """The files that hold tests for a GPU: others may need packages that are not there."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if "mark.gpu" in file.read_text("utf-8")]


def _test_commands() -> tuple[tuple[str, ...], ...]:
    files = gpu_tests()
    how = ("-m", "gpu", "-v", "--color=no", "--tb=short", "--no-header", "-p", "no:cacheprovider")
    (pytest,) = _python("-m", "pytest", *how)
    return tuple((*pytest, *files[first::_TEST_PROCESSES]) for first in range(_TEST_PROCESSES))


_SANITIZER = "compute-sanitizer"
_STEP = ("-m", "bench", "step", "--device", "cuda", "--rounds", "2", "--only", "speed", "--json")
_CERTIFICATE = str(Path(tempfile.gettempdir()) / "certificate")

PARTS = (
    Part(
        name="environment",
        commands=_python("-m", "bench.gpu_parts", "environment"),
        limit_seconds=20,
    ),
    Part(name="views", commands=_python("-m", "bench.gpu_parts", "views"), limit_seconds=70),
    Part(name="tests", commands=_test_commands(), limit_seconds=120, prints_json=False),
    Part(
        name="sanitizer",
        # without the caching allocator, which would hide an access beyond a tensor's end
        commands=(
            (
                *("env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", _SANITIZER, "--error-exitcode", "86"),
                *_python("-m", "bench.gpu_parts", "views", "--images", "2")[0],
            ),
        ),
        limit_seconds=80,
        prints_json=False,
        needs=_SANITIZER,
    ),
    Part(
        name="augment",
        commands=_python("-m", "bench", "augment", "--device", "cuda", "--json"),
        limit_seconds=95,
    ),
    Part(
        name="ladder",
        call="second",
        commands=_python(
            *("-m", "bench", "ladder", "--device", "cuda", "--batch", "256"),
            *("--rounds", "2", "--json"),
        ),
        limit_seconds=75,
    ),
    Part(  # a batch that the host's time does not bind; a verdict on the slowest steps needs 500
        name="certificate",
        call="second",
        commands=_python(
            *("-m", "bench", "certificate", "--gpus", "1", "--set", "global_batch_size=256"),
            *("--steps", "40", "--out", _CERTIFICATE, "--json"),
        ),
        limit_seconds=80,
    ),
    Part(name="step", call="second", commands=_python(*_STEP), limit_seconds=40),
    Part(
        name="step-cudnn-benchmark",
        call="second",
        commands=_python(*_STEP, "--cudnn-benchmark"),
        limit_seconds=40,
    ),
    Part(
        name="learning",
        call="second",
        commands=_python("-m", "bench.gpu_parts", "learning", "--seconds", "70"),
        limit_seconds=85,
        takes_data=True,
    ),
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("call", type=click.Choice(list(CALLS)), required=False)
@click.option("--only", type=click.Choice([part.name for part in PARTS]), multiple=True)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    help="Imagenette, or other images with classes, or their shards, to learn from.  "
    "[the generated demo]",
)
@click.option("--out", type=click.Path(path_type=Path), help="[$OUT, else bench/results]")
def main(
    call: str | None,
    only: tuple[str, ...],
    data: Path | None,
    out: Path | None,
) -> None:
    """Run the parts that need a GPU; exit status 1 if one of them fails."""
    chosen = [part for part in PARTS if part.name in only or (not only and part.call == call)]
    if not chosen:
        raise click.UsageError("say which call, first or second, or name parts by --only")
    if not torch.cuda.is_available():
        click.echo("no CUDA device on this machine: no figures")
        click.echo(json.dumps({"suite": "gpu", "gpu": None, "parts": {}}))
        return
    folder = out or Path(os.environ.get("OUT") or ROOT / "bench" / "results")
    folder.mkdir(parents=True, exist_ok=True)
    gpu, measured_in = torch.cuda.get_device_name(), environment()
    _tell(f"{gpu}: {_plan(chosen)}; results in {folder}")
    parts = {}
    for part in chosen:
        _tell(f"{part.name}: at most {part.limit_seconds:.0f} s")
        result = run_part(part, data) | {"environment": measured_in}
        path = folder / f"{part.name}-{_slug(gpu)}.json"
        path.write_text(json.dumps(result) + "\n", encoding="utf-8")
        parts[part.name] = {k: result[k] for k in ("status", "seconds")} | {"file": str(path)}
        why = f" ({result['why']})" if "why" in result else ""
        _tell(f"{part.name}: {result['status']}{why} after {result['seconds']:.0f} s")
    click.echo(json.dumps({"suite": "gpu", "gpu": gpu, "parts": parts}))
    if any(part["status"] not in _WELL for part in parts.values()):
        sys.exit(1)


def _plan(parts: list[Part]) -> str:
    each = ", ".join(f"{part.name} {part.limit_seconds:.0f} s" for part in parts)
    return f"{each}; together at most {sum(part.limit_seconds for part in parts):.0f} s"


def _tell(line: str) -> None:
    click.echo(line, err=True)


def run_part(part: Part, data: Path | None = None) -> dict[str, Any]:
    """Run one part; its last line as JSON if it prints that, else the end of its output.

    `status` is ok, failed (another exit status than 0), timeout, no figures (no JSON came),
    incomplete (the certificate's word), or skipped (what it needs is not installed).
    """
    start = time.monotonic()
    result: dict[str, Any] = {"part": part.name, "limit_seconds": part.limit_seconds}
    if part.needs and shutil.which(part.needs) is None:
        why = f"{part.needs} is not installed"
        return result | {"status": "skipped", "why": why, "seconds": 0.0}
    more = ("--data", str(data.resolve())) if part.takes_data and data else ()
    code, output, errors = _run(part, more)
    result |= {
        "status": {0: "ok", None: "timeout"}.get(code, "failed"),
        "seconds": round(time.monotonic() - start, 1),
        "exit_status": code,
    }
    figures = _last_object(output) if part.prints_json else None
    if part.prints_json and figures is None and code == 0:
        result["status"] = "no figures"
    if figures is not None:
        result["result"] = figures
        if figures.get("verdict") == "INCOMPLETE" and code == 1:
            result["status"] = "incomplete"
    if figures is None or code != 0:
        result |= {"output_tail": output[-_TAIL:], "errors_tail": errors[-_TAIL:]}
    return result


def _run(part: Part, more: tuple[str, ...]) -> tuple[int | None, str, str]:
    """The worst exit status (None: out of time), stdout, stderr; of each command its end."""
    deadline = time.monotonic() + part.limit_seconds
    several = len(part.commands) > 1
    runs = [
        _Streamed((*command, *more), f"{part.name} {number}" if several else part.name)
        for number, command in enumerate(part.commands, 1)
    ]
    try:
        codes = [run.wait(deadline) for run in runs]
    finally:
        for run in runs:
            run.end()
    worst = None if None in codes else max(codes, key=abs)
    kept = _TAIL // len(runs) if several else 0  # 0: all
    output, errors = (
        "".join(text[-kept:] for text in texts)
        for texts in zip(*((run.output, run.errors) for run in runs), strict=True)
    )
    return worst, output, errors


class _Streamed:
    """A command in a group of processes of its own, whose lines are shown and kept."""

    def __init__(self, command: tuple[str, ...], name: str) -> None:
        self._name = name
        self._lines: dict[str, list[str]] = {"output": [], "errors": []}
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            process_group=0,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, kept), daemon=True)
            for stream, kept in (
                (self._process.stdout, self._lines["output"]),
                (self._process.stderr, self._lines["errors"]),
            )
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], kept: list[str]) -> None:
        with stream:
            for line in stream:
                kept.append(line)
                if line.strip():
                    _tell(f"[{self._name}] {line.rstrip()[:_SHOWN]}")

    def wait(self, deadline: float) -> int | None:
        """The exit status; None: the deadline came first."""
        try:
            return self._process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """End what is left of the group, and read what it had printed."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for reader in self._readers:
            reader.join(10)

    @property
    def output(self) -> str:
        return "".join(self._lines["output"])

    @property
    def errors(self) -> str:
        return "".join(self._lines["errors"])


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
