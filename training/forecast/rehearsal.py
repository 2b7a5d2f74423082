"""A rehearsal: train.py itself, for some seconds, in processes of its own.

It has the run's shards, networks, loader and processes, a folder beside the run's that is removed
again, and a smaller batch where a step of the whole one would take a CPU minutes. What it held and
how fast it was is read off its own log. It is ended as a scheduler ends a run, by SIGTERM, so the
last thing that it does is to save, and that is in its memory, too.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from types import FrameType
from typing import Any

from console import outlive_output
from training.config import TrainConfig
from training.launch import run_processes, stop_signals

# Kernels are compiled, memory grows and the loader's queue fills: steps and seconds left out.
_SETTLING_STEPS, _SETTLING_SECONDS = 4, 5.0
_STEPS, _SECONDS = 6, 20.0  # that are measured, at least
_NEVER = 10**9  # steps or epochs
_POLL = 0.2
_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
# For the rehearsal to end the step that it is in, to save and to leave.
_END_SECONDS, _END_STEPS = 60.0, 3


class Failed(RuntimeError):
    """The rehearsal came to nothing; the run would, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What came out. Rates are source pictures a second, of all processes."""

    global_batch_size: int
    steps: int  # measured
    images_per_second: float  # the median step's
    images_per_second_20: float  # a fifth of the steps were slower
    images_per_second_80: float
    images_per_second_mean: float  # pictures over time: disturbed steps are in it
    wait_share: float  # of the time, waiting for views
    bottleneck: str
    peak_host_bytes: float  # of the largest process
    peak_device_bytes: float | None
    saved_bytes: int  # of a checkpoint
    bad_samples: int


Run = Callable[..., int]  # run(world, config, data, out) -> status


def rehearse(
    run: Run,
    config: TrainConfig,
    data: Path,
    *,
    device_type: str,
    size: int,
    near: Path | None,
    tell: Callable[[str], object],
) -> Rehearsal:
    """Run some steps with `size` processes; `near` is the folder in which it gets its own.

    Args:
        near: None: the system's folder for such things.

    Raises:
        Failed: it ended by itself; with the last line that it said.
    """
    config = _without_end(config)
    with ExitStack() as stack:
        out, said = _folders(stack, near)
        # No daemon: it starts the other processes.
        actor = multiprocessing.get_context("spawn").Process(
            target=_act, args=(os.getpid(), said, run, device_type, size, (config, data, out))
        )
        with _leaving_on_signals():
            actor.start()
            try:
                lines = _watch(actor, out, said, tell)
                slowest = min(line["images_per_second"] for line in lines)
                # It is asked to save and to leave.
                actor.terminate()
                actor.join(_END_SECONDS + _END_STEPS * config.global_batch_size / slowest)
            finally:
                _end_at_once(actor)
        if actor.exitcode != 128 + signal.SIGTERM:
            raise Failed(_ended(actor.exitcode, said))
        saved = max(path.stat().st_size for path in out.glob("checkpoint-*.pt"))
    # Of the largest of all processes below this one, when they have ended: with the save.
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return _summary(lines, config.global_batch_size, peak_host_bytes=peak, saved_bytes=saved)


def _folders(stack: ExitStack, near: Path | None) -> tuple[Path, Path]:
    """Make (run directory, file of what it says); the second where no full disk of a run hurts."""
    try:
        own = stack.enter_context(tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=near))
        said = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "said.txt"
    except OSError as error:
        raise Failed(f"there is no place for a rehearsal: {error}") from error
    said.touch()
    return Path(own) / "run", said


def _without_end(config: TrainConfig) -> TrainConfig:
    """The run's steps, one log line each, and nothing that belongs to epochs."""
    return replace(
        config,
        name="rehearsal",
        recipe=config.recipe.full_size,
        epochs=_NEVER,
        max_steps=0,
        log_every=1,
        checkpoint_every=_NEVER,
        milestone_every=0,
        monitor_every=0,
    )


def _act(
    parent: int, said: Path, run: Run, device_type: str, size: int, arguments: tuple[Any, ...]
) -> None:
    """In a process of its own: what it says goes into a file. It ends when its parent has."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        return
    # A group of its own: Ctrl-C is for its parent alone, which ends all of the group.
    os.setpgid(0, 0)
    sys.stdout.flush()
    with said.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    outlive_output()
    config: TrainConfig = arguments[0]
    status = run_processes(
        run,
        device_type=device_type,
        size=size,
        arguments=arguments,
        patience_seconds=config.patience_seconds,
    )
    sys.exit(status)


def _watch(
    actor: Any, out: Path, said: Path, tell: Callable[[str], object]
) -> list[dict[str, Any]]:
    """Return the log lines of the steps that count, once they are enough.

    Raises:
        Failed: the rehearsal ended before that.
    """
    tell("rehearsal: starting")
    began = told = time.monotonic()
    settled: tuple[int, float] | None = None  # lines before the first that counts, and when
    while True:
        time.sleep(_POLL)
        lines = _log_lines(out)
        now = time.monotonic()
        if not lines:
            began = now
        elif settled is None and len(lines) >= _SETTLING_STEPS and now - began >= _SETTLING_SECONDS:
            settled = (len(lines), now)
        if settled is not None:
            counted = lines[settled[0] :]
            if len(counted) >= _STEPS and now - settled[1] >= _SECONDS:
                return counted
        if not actor.is_alive():
            raise Failed(_ended(actor.exitcode, said))
        if lines and now - told >= 5:
            told = now
            rate = lines[-1]["images_per_second"]
            tell(f"rehearsal: step {len(lines)}, {rate:.1f} images/s")


def _log_lines(out: Path) -> list[dict[str, Any]]:
    path = out / "metrics.jsonl"
    if not path.exists():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def _end_at_once(actor: Any) -> None:
    """Kill what is left of the rehearsal: it leads a process group (`_act`)."""
    if not actor.is_alive():
        return
    actor.kill()  # it may not lead its group yet
    with suppress(ProcessLookupError):
        os.killpg(actor.pid, signal.SIGKILL)
    actor.join()


def _ended(status: int | None, said: Path) -> str:
    lines = said.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    # of the process itself, or of one that it started
    number = -status if status is not None and status < 0 else (status or 0) - 128
    if number > 0:
        why = signal.Signals(number).name
        hint = "; the kernel does that where memory is short" if number == signal.SIGKILL else ""
        return f"the rehearsal was ended by {why}{hint} [{last.strip()}]"
    return f"the rehearsal ended with status {status}: {last.strip()}"


@contextmanager
def _leaving_on_signals() -> Iterator[None]:
    """Signals end this process by an exception, as SIGINT does: nothing of the rehearsal stays."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = [number for number in stop_signals() if number != signal.SIGINT]
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summary(
    lines: list[dict[str, Any]], batch: int, *, peak_host_bytes: int, saved_bytes: int
) -> Rehearsal:
    rates = [line["images_per_second"] for line in lines]
    fifths = quantiles(rates, n=5, method="inclusive")
    last = lines[-1]
    seconds = [batch / rate for rate in rates]
    waited = sum(line["wait_share"] * took for line, took in zip(lines, seconds, strict=True))
    return Rehearsal(
        global_batch_size=batch,
        steps=len(lines),
        images_per_second=median(rates),
        images_per_second_20=fifths[0],
        images_per_second_80=fifths[-1],
        images_per_second_mean=batch * len(lines) / sum(seconds),
        wait_share=waited / sum(seconds),
        bottleneck=last["bottleneck"],
        peak_host_bytes=float(peak_host_bytes),
        peak_device_bytes=last.get("peak_device_bytes"),
        saved_bytes=saved_bytes,
        bad_samples=last["bad_samples"],
    )
