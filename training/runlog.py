"""The run directory: what is written while a run goes on, and the line that a person watches.

OUT/config.json          resolved configuration, data set, versions, machine
OUT/metrics.jsonl        one JSON object for each logged step, and for each kNN measurement
OUT/bad_samples.json     samples that were replaced since they cannot be decoded: id -> name, fault
OUT/skipped_steps.json   steps that were not finite and changed nothing: step -> its sample ids
OUT/tensorboard/         metrics.jsonl for TensorBoard
OUT/checkpoint-*.pt      model/checkpoint.py
OUT/encoder.pt           the encoder alone, at the end
OUT/encoder-*.pt         the encoder alone, at milestones
"""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from files import write_text_whole
from model.collapse import collapse_warning
from pipeline.loader.decode import bad_lines
from pipeline.shards import Manifest
from pipeline.shards.described import mask_summary
from pipeline.stats import OTHER_WORK
from training.config import TrainConfig, differences, from_dict, to_dict
from training.launch import World

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

BAD_SAMPLES_NAME = "bad_samples.json"
SKIPPED_STEPS_NAME = "skipped_steps.json"
_IDS_IN_A_LINE = 16  # of a skipped step; the file has all of them
_PLAIN_SECONDS = 5.0  # between progress lines where there is no terminal
_WIDE = 110  # columns, from which on a live line has a bar


class RunLog:
    """Metrics of one run, written by rank 0. A context manager."""

    def __init__(self, out: Path, *, start_step: int, total_steps: int, name: str) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._out = out
        self.bad_samples = _read_listed(out / BAD_SAMPLES_NAME)  # by sample id
        # Counted from 1 in the file, as completed steps are; those done again are judged again.
        listed = _read_listed(out / SKIPPED_STEPS_NAME)
        self.skipped_steps = {step - 1: ids for step, ids in listed.items() if step <= start_step}
        if len(self.skipped_steps) < len(listed):
            self._write_skipped_steps()
        self._path = out / "metrics.jsonl"
        logged = _keep_until(self._path, start_step)
        self._seconds_before = last_values(out).get("seconds", 0.0)  # of the starts before
        self._began = time.monotonic()
        self._file = self._path.open("a", encoding="utf-8")
        # purge_step hides what TensorBoard already has of steps that are done again.
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start_step)
        self._progress = ProgressLine(start_step=start_step, total_steps=total_steps, name=name)
        self._collapse_is_told = False
        if logged > start_step:
            found = f"of step {start_step}" if start_step else "none"
            self.say(
                f"the run had come to step {logged}, and the newest whole checkpoint in {out} is "
                f"{found}: the steps since are done again"
            )

    def write(self, step: int, **values: Any) -> None:
        """Record values of a step (completed steps so far) and show them.

        `seconds` is the time that the run has taken so far, in all its starts.
        """
        seconds = self._seconds_before + time.monotonic() - self._began
        record = {"step": step, "seconds": round(seconds, 1), **values}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(name, value, step)
        self._progress.show(step, values)
        collapse = collapse_warning(values.get("embedding_std", math.inf))
        if collapse and not self._collapse_is_told:
            self._collapse_is_told = True
            self.say(f"step {step}: {collapse}")

    def keep_bad_samples(self, bad: Mapping[int, str]) -> None:
        """Say which samples have turned out bad since the last call, and keep the whole list."""
        new = {i: text for i, text in bad.items() if i not in self.bad_samples}
        if not new:
            return
        for line in bad_lines(new):
            self.say(f"replaced: {line}")
        self.bad_samples |= new
        listed = {str(i): self.bad_samples[i] for i in sorted(self.bad_samples)}
        write_text_whole(self._out / BAD_SAMPLES_NAME, json.dumps(listed, indent=2) + "\n")

    def keep_skipped_steps(self, skipped: Mapping[int, list[int]]) -> None:
        """Say which steps have been skipped since the last call, and keep the whole list."""
        new = {step: ids for step, ids in skipped.items() if step not in self.skipped_steps}
        if not new:
            return
        for step, ids in new.items():
            listed = ", ".join(map(str, ids[:_IDS_IN_A_LINE]))
            listed += f" and {len(ids) - _IDS_IN_A_LINE} more" * (len(ids) > _IDS_IN_A_LINE)
            self.say(
                f"skipped: step {step + 1}, its loss or a gradient was not finite; samples {listed}"
            )
        self.skipped_steps |= new
        self._write_skipped_steps()

    def advance(self, step: int) -> None:
        """Show that a step is done, without its values: nothing is asked of the device."""
        self._progress.show(step, {})

    def say(self, line: str) -> None:
        """Print a line above the progress line."""
        self._progress.say(line)

    def _write_skipped_steps(self) -> None:
        by_step = {str(step + 1): self.skipped_steps[step] for step in sorted(self.skipped_steps)}
        write_text_whole(self._out / SKIPPED_STEPS_NAME, json.dumps(by_step) + "\n")

    def close(self) -> None:
        self._progress.close()
        self._file.close()
        self._board.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SilentLog:
    """The log of a rank that has none to write."""

    bad_samples: Mapping[int, str] = MappingProxyType({})
    skipped_steps: Mapping[int, list[int]] = MappingProxyType({})

    def write(self, step: int, **values: Any) -> None:
        """Record nothing."""

    def keep_bad_samples(self, bad: Mapping[int, str]) -> None:
        """Keep nothing."""

    def keep_skipped_steps(self, skipped: Mapping[int, list[int]]) -> None:
        """Keep nothing."""

    def advance(self, step: int) -> None:
        """Show nothing."""

    def say(self, line: str) -> None:
        """Print nothing."""

    def close(self) -> None:
        """There is nothing to close."""


class ProgressLine:
    """Loss, speed, waiting, time left: a live bar on a terminal, else a line now and then."""

    def __init__(self, *, start_step: int, total_steps: int, name: str) -> None:
        # here, so that measuring a step (bench) needs no rich
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(file=sys.stdout, highlight=False)
        self._total = total_steps
        self._start = (start_step, time.monotonic())
        self._last_line = 0.0
        self._values: dict[str, Any] = {}
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.completed}/{task.total}"),
                *([BarColumn(bar_width=20)] if self._console.width >= _WIDE else []),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                console=self._console,
            )
            self._task: TaskID = self._bar.add_task(
                name, total=total_steps, completed=start_step, text=""
            )
            self._bar.start()

    def show(self, step: int, values: dict[str, Any]) -> None:
        self._values.update(values)
        if self._bar is not None:
            # beside the text: the steps, the time left, spaces, and the bar where it has room
            taken = 2 * len(str(self._total)) + len("/   0:00:00 left ")
            taken += 21 if self._console.width >= _WIDE else 0
            text = _described(self._values, self._console.width - taken)
            self._bar.update(self._task, completed=step, text=text)
            return
        text = _described(self._values)
        now = time.monotonic()
        if now - self._last_line >= _PLAIN_SECONDS or (values and step >= self._total):
            self._last_line = now
            self._console.print(
                f"step {step}/{self._total}  {text}  {self._time_left(step)} left", soft_wrap=True
            )

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _time_left(self, step: int) -> str:
        first, began = self._start
        if step <= first:
            return "?"
        seconds = (time.monotonic() - began) / (step - first) * (self._total - step)
        hours, rest = divmod(round(seconds), 3600)
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def duration(seconds: float) -> str:
    """Return how long something took, as a person says it."""
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def last_values(out: Path) -> dict[str, Any]:
    """Return the last value of each metric of a run; nothing where there is none."""
    path = out / "metrics.jsonl"
    values: dict[str, Any] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            values |= json.loads(line)
    return values


@dataclass(frozen=True, kw_only=True, slots=True)
class DescribedRun:
    """What a run directory says of its run."""

    config: TrainConfig
    data: Path | None  # where its shards were; None: an older run, which does not say it


def described_run(out: Path) -> DescribedRun | None:
    """Return what config.json of a run directory says; None where there is none that is whole."""
    try:
        description = json.loads((out / "config.json").read_text(encoding="utf-8"))
        path = description["data"].get("path")
        return DescribedRun(
            config=from_dict(TrainConfig, description["config"]), data=path and Path(path)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_description(
    out: Path, config: TrainConfig, manifest: Manifest, world: World, *, data: Path
) -> None:
    """Write config.json: what was run, by which command, on which shards, with which versions."""
    description = {
        "config": to_dict(config),
        "data": {
            "path": str(data.absolute()),
            "num_samples": manifest.num_samples,
            "source": manifest.source,
            "index_sha256": manifest.index_sha256,
            "masks": mask_summary(manifest, config.recipe),
        },
        "command": shlex.join(["python", *sys.argv]),
        "commit": checkout_commit(),
        "world_size": world.size,
        "device": str(world.device),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": installed_versions(),
    }
    write_text_whole(out / "config.json", json.dumps(description, indent=2) + "\n")


def checkout_commit() -> str | None:
    """Return this checkout's commit, with "-dirty" where files differ; None: not known."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None  # a copy, which may lie inside a checkout of something else
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def check_same_run(out: Path, config: TrainConfig, manifest: Manifest) -> None:
    """Make sure that `out` is free, or holds a run of this configuration and these data.

    Raises:
        ValueError: it holds something else, or cannot be written.
    """
    path = out / "config.json"
    _check_writable(out)
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"{out} exists and is not a run directory; give another --out")
        return
    if not any(out.glob("checkpoint-*.pt")):  # nothing to resume: the settings may be corrected
        return
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        changed = differences(from_dict(TrainConfig, description["config"]), config)
        same_data = description["data"]["index_sha256"] == manifest.index_sha256
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot read {path} ({error}); give another --out") from error
    if changed:
        raise ValueError(
            f"the run in {out} was started with other settings ({'; '.join(changed[:3])}); give "
            "them again, or another --out"
        )
    if not same_data:
        raise ValueError(f"the run in {out} was started on other shards; give another --out")


def installed_versions() -> dict[str, str]:
    """Versions of the packages that can change a result; absent ones are left out."""
    names = ("torch", "numpy", "numba", "simplejpeg", "nvidia-dali-cuda130", "ffcv", "torchvision")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _keep_until(path: Path, step: int) -> int:
    """Drop the lines of steps after `step`: a killed run may have logged beyond its checkpoint.

    Returns:
        The last step that was logged; 0 without any.
    """
    if not path.exists():
        return 0
    lines, last = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # a line cut off by a kill
            continue
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            continue
        last = max(last, record["step"])
        if record["step"] <= step:
            lines.append(line)
    write_text_whole(path, "".join(line + "\n" for line in lines))
    return last


def _read_listed(path: Path) -> dict[int, Any]:
    """What the run knew before it was stopped, by number."""
    if not path.exists():
        return {}
    listed = json.loads(path.read_text(encoding="utf-8"))
    return {int(number): known for number, known in listed.items()}


def _check_writable(out: Path) -> None:
    """Raise ValueError unless `out`, or the folder that it would be made in, can be written."""
    place = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(
            f"cannot write to {out}: {place} is no writable folder; give another --out"
        )


def _described(values: Mapping[str, Any], width: int | None = None) -> str:
    """What is known of the run, in so many characters: what matters least is left out first."""
    known: tuple[tuple[int, str, Callable[[Any], str]], ...] = (  # how much it matters, key, text
        (9, "loss", lambda loss: f"loss {loss:.4f}"),
        (8, "knn_top1", lambda top1: f"kNN {top1:.1f} %"),
        (8, "knn_top1_validation", lambda top1: f"kNN {top1:.1f} % (validation)"),
        (6, "images_per_second", lambda rate: f"{rate:.1f} images/s"),
        (4, "wait_share", lambda share: f"waiting {100 * share:.1f} %"),
        (5, "bottleneck", lambda name: "" if name == OTHER_WORK else f"limited by {name}"),
        (7, "bottleneck", lambda name: name if name == OTHER_WORK else ""),
        (7, "bad_samples", lambda count: f"bad samples {count}" if count else ""),
        (7, "skipped_steps", lambda count: f"skipped steps {count}" if count else ""),
    )
    parts = [(rank, text(values[key])) for rank, key, text in known if key in values]
    parts = [part for part in parts if part[1]]
    while width is not None and len(parts) > 1 and len(_line(parts)) > width:
        parts.remove(min(parts))
    return _line(parts)


def _line(parts: Sequence[tuple[int, str]]) -> str:
    return "  ".join(text for _, text in parts)
