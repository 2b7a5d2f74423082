"""Loaders as endless streams of batches, and how they are timed: running, and alone.

A loader works ahead of whoever takes its batches. What lies ready when the clock starts would
count as made in no time, and what it makes after the clock has stopped would slow down whoever is
measured next. So a share takes what is ready first, then times batches, then waits until the
loader has nothing more to do.

Shapes: B batch, V views, s side of a view.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from bench.harness import Built

Batch = tuple[list[Tensor], Tensor]  # V views float32 [B, 3, s, s], normalised; labels int64 [B]

SHARE_SECONDS = 0.7
_QUIET_SHARE = 0.05  # of a core: less is waiting, not working
_LOOK_SECONDS = 0.1  # ten ticks of the kernel's clock of CPU time
_PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """A loader that never ends."""

    batches: Iterator[Batch]
    ahead: int  # the most batches that it may hold ready or half made
    workers: int = 1  # who make whole batches beside each other: these arrive together
    note: str = ""
    finish: Callable[[], object] = tuple  # waits for what the device still does
    close: Callable[[], object] = tuple


def timed(stream: Stream, *, seconds: float = SHARE_SECONDS) -> Built:
    """A share is as many batches as take `seconds`; it returns the mean seconds of one batch."""

    def take(count: int) -> None:
        for _ in range(count):
            next(stream.batches)

    def run() -> float:
        take(-(-stream.ahead // stream.workers) * stream.workers)
        stream.finish()
        turn = mean_seconds(lambda: take(stream.workers), seconds=seconds, finish=stream.finish)
        wait_until_quiet()
        return turn / stream.workers

    return Built(run=run, note=stream.note, close=stream.close)


def mean_seconds(
    step: Callable[[], object],
    *,
    seconds: float = SHARE_SECONDS,
    finish: Callable[[], object] = tuple,
) -> float:
    """Repeat a step for `seconds`, at least once; `finish` waits for what it left under way."""
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < seconds:
        step()
        count += 1
    finish()
    return (time.perf_counter() - start) / count


def wait_until_quiet(patience: float = _PATIENCE_SECONDS) -> bool:
    """Wait until this process and its workers rest; whether they do."""
    give_up = time.monotonic() + patience
    while time.monotonic() < give_up:
        before = cpu_seconds()
        time.sleep(_LOOK_SECONDS)
        if cpu_seconds() - before < _QUIET_SHARE * _LOOK_SECONDS:
            return True
    return False


def cpu_seconds() -> float:
    """CPU time of this process, all threads, and of its worker processes that are alive."""
    workers = [process.pid for process in multiprocessing.active_children()]
    return time.process_time() + sum(_of_process(pid) for pid in workers if pid is not None)


def _of_process(pid: int) -> float:
    """User and system time of another process, in steps of a tick (10 ms); 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
