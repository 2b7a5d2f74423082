"""The run directory: what is written while a run goes on, and the line that a person watches.

OUT/config.json          resolved configuration, data set, versions, machine
OUT/metrics.jsonl        one JSON object for each logged step, and for each kNN measurement
OUT/bad_samples.json     samples that were replaced since they cannot be decoded: id -> name, fault
OUT/skipped_steps.json   steps that were not finite and changed nothing: step -> its sample ids
OUT/*.damaged            one of the files above as it was found at a start, when it was not whole
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
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from files import write_text_whole
from model import checkpoint
from model.collapse import collapse_warning
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.batch import MultiCropBatch
from pipeline.loader.decode import bad_lines
from pipeline.shards import Manifest
from pipeline.shards.described import mask_summary
from pipeline.stats import OTHER_WORK
from training.config import TrainConfig, differences, from_dict, to_dict
from training.launch import World

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from torch.utils.tensorboard.writer import SummaryWriter

DESCRIPTION_NAME = "config.json"
METRICS_NAME = "metrics.jsonl"
BAD_SAMPLES_NAME = "bad_samples.json"
SKIPPED_STEPS_NAME = "skipped_steps.json"
_VIEWS_SHOWN = 8  # images whose views TensorBoard gets
_GROUPS = {  # of TensorBoard's tags; what is in none is in feed/
    "loss": ("loss", "contrastive", "invariance", "accuracy"),
    "features": (
        *("embedding_std", "rank_me"),
        *("knn_top1", "knn_top1_validation", "knn_standard_error", "knn_chance"),
    ),
    "schedule": ("epoch", "learning_rate", "target_decay"),
}
_TAGS = {name: f"{group}/{name}" for group, names in _GROUPS.items() for name in names}
_TAGS |= {"loss": "loss/total", "accuracy": "loss/contrastive_accuracy"}
_IDS_IN_A_LINE = 16  # of a skipped step; the file has all of them
_PLAIN_SECONDS = 5.0  # between progress lines where there is no terminal
_WIDE = 110  # columns, from which on a live line has a bar


class RunLog:
    """Metrics of one run, written by rank 0. A context manager.

    What cannot be written (a full disk, TensorBoard's thread) is told once and does not end the
    run: lines are kept in memory until they can be written. A directory that is removed is made
    again. Files of the last start that are not whole are set aside and told.

    Args:
        out: the run directory, which exists.
        start_step: completed steps of the checkpoint that the run goes on from; 0: none.
        description: what config.json is to hold; see `described`.
        renew: makes the directory again if it was removed, and returns whether it was.
    """

    def __init__(
        self,
        out: Path,
        *,
        start_step: int,
        total_steps: int,
        name: str,
        description: Mapping[str, Any],
        renew: Callable[[], bool],
    ) -> None:
        self._out = out
        self._renew = renew
        self._description = json.dumps(description, indent=2) + "\n"
        self._unwritten: dict[str, str] = {}  # what is to replace a file, by its name
        self._lines = b""  # of the metrics, to be written
        self._is_failing = self._was_removed = False
        self._progress = ProgressLine(start_step=start_step, total_steps=total_steps, name=name)
        self._look_at_description(start_step)
        self.bad_samples = self._listed(BAD_SAMPLES_NAME, str)  # by sample id
        # Counted from 1 in the file, as completed steps are; those done again are judged again.
        listed = self._listed(SKIPPED_STEPS_NAME, list)
        self.skipped_steps = {step - 1: ids for step, ids in listed.items() if step <= start_step}
        if len(self.skipped_steps) < len(listed):
            self._write_skipped_steps()
        logged = self._keep_metrics_until(start_step)
        self._seconds_before = last_values(out).get("seconds", 0.0)  # of the starts before
        self._began = time.monotonic()
        self._unwritten[DESCRIPTION_NAME] = self._description
        self._write_out()
        self._board = _Board(out / "tensorboard", start_step, self.say)
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
        self._lines += json.dumps(record).encode() + b"\n"
        self._keep_directory(step)
        self._write_out()

        def add(board: SummaryWriter) -> None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    board.add_scalar(_TAGS.get(name, f"feed/{name}"), value, step)

        self._board.attempt(add)
        self._progress.show(step, values)
        collapse = collapse_warning(values.get("embedding_std", math.inf))
        if collapse and not self._collapse_is_told:
            self._collapse_is_told = True
            self.say(f"step {step}: {collapse}")

    def show_views(self, batch: MultiCropBatch, recipe: MultiCropRecipe, step: int) -> None:
        """Give TensorBoard the views of some images: a row for each image."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (recipe.mean, recipe.std))

        def add(board: SummaryWriter) -> None:
            for name, views in (("large", batch.large), ("small", batch.small)):
                if len(views):
                    pixels = views[:, :_VIEWS_SHOWN].float().cpu() * std + mean  # [V, n, 3, H, W]
                    rows = pixels.clamp(0, 1).permute(2, 1, 3, 0, 4).flatten(3).flatten(1, 2)
                    board.add_image(f"views/{name}", rows, step)

        self._board.attempt(add)

    def take_removal(self) -> bool:
        """Whether the directory, and what was saved there, was removed since the last call."""
        removed, self._was_removed = self._was_removed, False
        return removed

    def keep_bad_samples(self, bad: Mapping[int, str]) -> None:
        """Say which samples have turned out bad since the last call, and keep the whole list."""
        new = {i: text for i, text in bad.items() if i not in self.bad_samples}
        if not new:
            return
        for line in bad_lines(new):
            self.say(f"replaced: {line}")
        self.bad_samples |= new
        self._write_bad_samples()

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

    def close(self) -> None:
        self._write_out()
        if self._lines:
            count = self._lines.count(b"\n")
            self.say(
                f"{count} lines of {self._out / METRICS_NAME} are lost: they cannot be written"
            )
        self._progress.close()
        self._board.close()

    def _write_bad_samples(self) -> None:
        listed = {str(i): self.bad_samples[i] for i in sorted(self.bad_samples)}
        self._unwritten[BAD_SAMPLES_NAME] = json.dumps(listed, indent=2) + "\n"
        self._write_out()

    def _write_skipped_steps(self) -> None:
        by_step = {str(step + 1): self.skipped_steps[step] for step in sorted(self.skipped_steps)}
        self._unwritten[SKIPPED_STEPS_NAME] = json.dumps(by_step) + "\n"
        self._write_out()

    def _write_out(self) -> None:
        """Bring what is known to the disk; what cannot be written waits for the next call."""
        try:
            for name, text in list(self._unwritten.items()):
                write_text_whole(self._out / name, text)
                del self._unwritten[name]
            if self._lines:
                # Opened each time: a file that was removed is not written to any more.
                with (self._out / METRICS_NAME).open("ab", buffering=0) as file:
                    while self._lines:  # a write may be short: the rest of a line comes later
                        self._lines = self._lines[file.write(self._lines) :]
            self._is_failing = False
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._is_failing:
            self._is_failing = True
            self.say(
                f"WARNING: the log in {self._out} cannot be written ({error}); the run goes on, "
                "and writes it when it can. Make room there, or make it writable"
            )

    def _keep_directory(self, step: int) -> None:
        """Make the directory and what belongs into it again, if somebody has removed it."""
        try:
            removed = self._renew()
            if not removed and (self._out / DESCRIPTION_NAME).exists():
                return
        except OSError as error:
            self._warn(error)
            return
        self._was_removed = True
        what = self._out if removed else self._out / DESCRIPTION_NAME
        self.say(
            f"WARNING: {what} was removed while the run is at work: it is made again, and the run "
            "goes on; what else was removed is lost"
        )
        self._unwritten[DESCRIPTION_NAME] = self._description
        if self.bad_samples:
            self._write_bad_samples()
        if self.skipped_steps:
            self._write_skipped_steps()
        self._board.close()
        self._board = _Board(self._out / "tensorboard", step, self.say)

    def _look_at_description(self, start_step: int) -> None:
        """Say what was wrong with config.json of a run that is resumed, and set it aside."""
        path = self._out / DESCRIPTION_NAME
        try:
            _read_description(path)
        except FileNotFoundError:
            if start_step:
                self.say(f"{path} is missing, and is written again; {_FROM_CHECKPOINT}")
        except ValueError as error:
            self._set_aside(path, error, f"it is written again; {_FROM_CHECKPOINT}")

    def _listed(self, name: str, kind: type) -> dict[int, Any]:
        """What the run knew before it was stopped, by number: values of this kind."""
        path = self._out / name
        try:
            listed = {int(number): known for number, known in json.loads(_text(path)).items()}
            if not all(isinstance(known, kind) for known in listed.values()):
                raise ValueError("it does not hold what it should")
            return listed
        except FileNotFoundError:
            pass
        except (ValueError, AttributeError) as error:
            self._set_aside(path, error, "the list begins anew")
        return {}

    def _keep_metrics_until(self, step: int) -> int:
        """Drop the lines of steps after `step`: a killed run may have logged beyond its checkpoint.

        Returns:
            The last step that was logged; 0 without any.
        """
        path = self._out / METRICS_NAME
        try:
            text = _text(path, missing="")
        except ValueError as error:
            self._set_aside(path, error, "the log begins anew")
            text = ""
        records = _records(text)
        # From the beginning, nothing: the encoder that is not trained yet is measured again.
        kept = "".join(line + "\n" for line, at in records if step and at <= step)
        # The last line may be cut off by a kill: it is of a step that is done again.
        whole = text.splitlines()[: None if text.endswith("\n") else -1]
        damaged = len(set(whole) - {line for line, _ in records})
        if damaged:
            self._set_aside(path, f"{damaged} lines are not records", "the other lines are kept")
        elif step and not kept:
            self.say(f"{path} has nothing of the {step} steps that were done: it begins there")
        if damaged or kept != text:
            write_text_whole(path, kept)
        return max((at for _, at in records), default=0)

    def _set_aside(self, path: Path, why: object, remedy: str) -> None:
        aside = path.with_name(path.name + ".damaged")
        path.replace(aside)
        self.say(f"WARNING: {path} is damaged ({why}): set aside as {aside.name}; {remedy}")

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

    def show_views(self, batch: MultiCropBatch, recipe: MultiCropRecipe, step: int) -> None:
        """Show nothing."""

    def keep_bad_samples(self, bad: Mapping[int, str]) -> None:
        """Keep nothing."""

    def keep_skipped_steps(self, skipped: Mapping[int, list[int]]) -> None:
        """Keep nothing."""

    def take_removal(self) -> bool:
        """There is no directory of this rank."""
        return False

    def advance(self, step: int) -> None:
        """Show nothing."""

    def say(self, line: str) -> None:
        """Print nothing."""

    def close(self) -> None:
        """There is nothing to close."""


class _Board:
    """TensorBoard's file of a run. Its first error is told and is the end of it, of nothing else.

    Its thread keeps an error for the next call here, and would print a traceback besides.
    """

    def __init__(self, folder: Path, start_step: int, say: Callable[[str], object]) -> None:
        self._say = say
        self._writer: SummaryWriter | None = None
        self._hook, threading.excepthook = threading.excepthook, self._hide
        try:
            from torch.utils.tensorboard.writer import SummaryWriter

            # purge_step hides what TensorBoard already has of steps that are done again.
            self._writer = SummaryWriter(str(folder), purge_step=start_step)
        except Exception as error:
            self._tell(error)

    def attempt(self, act: Callable[[SummaryWriter], object]) -> None:
        """Let `act` write to TensorBoard, as long as that has not failed."""
        if self._writer is None:
            return
        try:
            act(self._writer)
        except Exception as error:
            self._writer = None
            self._tell(error)

    def close(self) -> None:
        self.attempt(lambda writer: writer.close())
        self._writer = None
        threading.excepthook = self._hook

    def _tell(self, error: Exception) -> None:
        self._say(
            f"WARNING: TensorBoard's file cannot be written ({error}); the run goes on without it, "
            f"{METRICS_NAME} has the same figures"
        )

    def _hide(self, arguments: threading.ExceptHookArgs) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            self._hook(arguments)


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
            return "an unknown time"
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
    values: dict[str, Any] = {}
    for line, _ in _records(_text(out / METRICS_NAME, missing="")):
        values |= json.loads(line)
    return values


@dataclass(frozen=True, kw_only=True, slots=True)
class DescribedRun:
    """What a run directory says of its run."""

    config: TrainConfig
    data: Path | None  # where its shards were; None: an older run, which does not say it


def described_run(out: Path) -> DescribedRun | None:
    """Return what a run directory says: config.json, or if that is damaged, the checkpoint.

    None: it holds no run.
    """
    try:
        description = json.loads((out / "config.json").read_text(encoding="utf-8"))
        path = description["data"].get("path")
        return DescribedRun(
            config=from_dict(TrainConfig, description["config"]), data=path and Path(path)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        if checkpoint.latest(out) is None:
            return None
        return DescribedRun(config=recorded(out)[0], data=None)


def described(
    config: TrainConfig, manifest: Manifest, world: World, *, data: Path
) -> dict[str, Any]:
    """Return what config.json holds: what was run, by which command, on which shards (`data`), with
    which versions.
    """
    return {
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


def recorded(out: Path) -> tuple[TrainConfig, str | None]:
    """Return what the run in `out`, which has checkpoints, was started with.

    Returns:
        (configuration, SHA-256 of its shards' index). Where config.json is missing or damaged, the
        configuration is the newest whole checkpoint's, and the second is None: not known.

    Raises:
        ValueError: neither can be read.
    """
    path = out / DESCRIPTION_NAME
    try:
        return _read_description(path)
    except (ValueError, FileNotFoundError) as error:
        found = checkpoint.restore(out)
        assert found is not None
        try:
            return from_dict(TrainConfig, found.state["config"]), None
        except (ValueError, TypeError, AttributeError, KeyError) as other:
            raise ValueError(
                f"cannot read {path} ({error}), nor the configuration in {found.path} ({other}); "
                "give another --out"
            ) from error


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
        OSError: the file system refuses the path.
    """
    _check_writable(out)
    if checkpoint.latest(out) is None:  # nothing to resume: the settings may be corrected
        if not (out / DESCRIPTION_NAME).exists() and not _is_free(out):
            raise ValueError(f"{out} exists and is not a run directory; give another --out")
        return
    before, index_sha256 = recorded(out)
    changed = differences(before, config)
    if changed:
        raise ValueError(
            f"the run in {out} was started with other settings ({'; '.join(changed[:3])}); give "
            "them again, or another --out"
        )
    if index_sha256 not in (None, manifest.index_sha256):
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


_FROM_CHECKPOINT = (
    "the settings agree with the checkpoint's; whether the shards are the same is not known"
)


def _read_description(path: Path) -> tuple[TrainConfig, str]:
    """Read config.json: (configuration, SHA-256 of the shards' index).

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of another version.
    """
    try:
        description = json.loads(_text(path))
        config = from_dict(TrainConfig, description["config"])
        return config, str(description["data"]["index_sha256"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it holds no description of a run: {error!r}") from error


def _records(text: str) -> list[tuple[str, int]]:
    """Return the lines of the metrics that are whole, each with its step."""
    found = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            found.append((line, record["step"]))
    return found


def _text(path: Path, missing: str | None = None) -> str:
    """Read a file that a fault may have damaged.

    Raises:
        FileNotFoundError: there is none, and `missing` does not stand for it.
        ValueError: the disk does not give it, or it is no file.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        if missing is None:
            raise
        return missing
    except OSError as error:
        raise ValueError(str(error)) from error


def _is_free(out: Path) -> bool:
    """Whether there is nothing in `out` but what a run that was killed may have left unfinished."""
    if not out.exists():
        return True
    return out.is_dir() and all(
        path.suffix in (".partial", ".damaged") or path.name == checkpoint.UNFINISHED
        for path in out.iterdir()
    )


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
