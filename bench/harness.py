"""Several candidates measured in one run, side by side; the form that every rung reports in.

Rounds are interleaved: in each round every candidate does its share of images, and the order is
rotated from round to round, so that a machine that slows down slows all of them. A ratio of two
rows is the median of the ratios of their rounds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
import torch

Work = Callable[[], object]  # does a share of images once
Stopwatch = Callable[[Work], float]  # does the work, returns seconds


class Unavailable(Exception):
    """A candidate cannot run here; the reason in one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A candidate that is ready to run."""

    run: Work
    note: str = ""  # which of its settings was the fastest here


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Something to measure.

    `build` prepares what is not to be measured (imports, conversions, compilation); it runs under
    the same affinity as the measured work, so that the threads it starts stay on these cores.
    """

    name: str
    what: str  # one line: what it does
    build: Callable[[], Built]
    images: int  # source pictures in one share
    bytes_per_image: float  # what must move: pictures and masks read once, views written once
    cores: int = 1
    version: str | None = None
    peer: bool = False  # somebody else's: its failure does not fail the run


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A candidate with the seconds per image of each round, or the reason why there are none."""

    candidate: Candidate
    seconds: tuple[float, ...] = ()
    note: str = ""
    skipped: str = ""
    failed: bool = False  # skipped because our own code broke


@dataclass(slots=True)
class _Runner:
    candidate: Candidate
    run: Work | None = None
    note: str = ""
    skipped: str = ""
    failed: bool = False
    seconds: list[float] = field(default_factory=list)


def wall_seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def pinned(cores: int) -> Iterator[None]:
    """Keep this thread, and those that it starts meanwhile, on `cores` cores.

    Raises:
        Unavailable: fewer cores are available.
    """
    available, threads = os.sched_getaffinity(0), torch.get_num_threads()
    if len(available) < cores:
        raise Unavailable(f"needs {cores} cores, {len(available)} are available")
    try:
        os.sched_setaffinity(0, sorted(available)[-cores:])
        torch.set_num_threads(cores)
        yield
    finally:
        os.sched_setaffinity(0, available)
        torch.set_num_threads(threads)


def anywhere(cores: int) -> AbstractContextManager[None]:
    """No affinity: for work that a device does."""
    return nullcontext()


def tell(message: str) -> None:
    """Progress, on standard error: standard output is for results."""
    print(message, file=sys.stderr, flush=True)


def measure(
    candidates: Sequence[Candidate],
    *,
    rounds: int,
    stopwatch: Stopwatch = wall_seconds,
    placed: Callable[[int], AbstractContextManager[None]] = pinned,
    announce: Callable[[str], None] = tell,
) -> list[Measured]:
    """Build and warm up each candidate once, then time them round by round.

    A candidate that fails, whenever it does, keeps its row with the reason and loses its figures.
    """
    runners = [_Runner(candidate) for candidate in candidates]
    for runner in runners:
        announce(f"preparing {runner.candidate.name}")
        _guarded(runner, placed, _prepare)
        if runner.skipped:
            announce(f"  skipped: {runner.skipped}")
    for number in range(rounds):
        announce(f"round {number + 1} of {rounds}")
        for runner in _rotated(runners, number):
            _guarded(runner, placed, lambda ready: _time_round(ready, stopwatch))
    return [
        Measured(
            candidate=runner.candidate,
            seconds=() if runner.skipped else tuple(runner.seconds),
            note=runner.note,
            skipped=runner.skipped,
            failed=runner.failed,
        )
        for runner in runners
    ]


def fastest(variants: dict[str, Work], *, stopwatch: Stopwatch = wall_seconds) -> Built:
    """The fastest of several settings by the median of three turns each, after a warm-up."""
    for work in variants.values():
        work()
    turns = [{name: stopwatch(work) for name, work in variants.items()} for _ in range(3)]
    name = min(variants, key=lambda name: median(turn[name] for turn in turns))
    return Built(run=variants[name], note=name)


def repeated(candidate: Candidate, turns: int) -> Candidate:
    """The same with a share `turns` times as large: for work that is too short to time."""

    def build() -> Built:
        built = candidate.build()

        def run() -> None:
            for _ in range(turns):
                built.run()

        return Built(run=run, note=built.note)

    return replace(candidate, build=build, images=candidate.images * turns)


def _rotated(runners: list[_Runner], number: int) -> list[_Runner]:
    ready = [runner for runner in runners if not runner.skipped]
    start = number % max(len(ready), 1)
    return ready[start:] + ready[:start]


def _guarded(
    runner: _Runner,
    placed: Callable[[int], AbstractContextManager[None]],
    action: Callable[[_Runner], None],
) -> None:
    try:
        with placed(runner.candidate.cores):
            action(runner)
    except Unavailable as error:
        runner.skipped = str(error)
    except Exception as error:  # a peer fails in its own way; the others keep their figures
        kind = "not installed" if isinstance(error, ImportError) else type(error).__name__
        runner.skipped = f"{kind}: {_one_line(error)}"
        runner.failed = not runner.candidate.peer


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no message"


def _prepare(runner: _Runner) -> None:
    built = runner.candidate.build()
    built.run()
    runner.run, runner.note = built.run, built.note


def _time_round(runner: _Runner, stopwatch: Stopwatch) -> None:
    assert runner.run is not None
    runner.seconds.append(stopwatch(runner.run) / runner.candidate.images)


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """20 %, 50 % and 80 % of the values, linear between neighbours."""
    p20, p50, p80 = np.quantile(np.asarray(values), [0.2, 0.5, 0.8])
    return {"p20": float(p20), "p50": float(p50), "p80": float(p80)}


def row(measured: Measured, roof: float | None = None) -> dict[str, Any]:
    """The JSON row; `roof`: bytes per second that a large copy moves on the same cores."""
    candidate = measured.candidate
    if measured.skipped:
        reason: dict[str, Any] = {"name": candidate.name, "skipped": measured.skipped}
        return reason | ({"failed": True} if measured.failed else {})
    head = {"name": candidate.name, "version": candidate.version, "cores": candidate.cores}
    head["what"] = "; ".join(filter(None, [candidate.what, measured.note]))
    rate = candidate.bytes_per_image / median(measured.seconds)
    return head | {
        "images": candidate.images,
        "images_per_second": quantiles([1 / s for s in measured.seconds]),
        "milliseconds_per_image": quantiles([1e3 * s for s in measured.seconds]),
        "gigabytes_per_second": rate / 1e9,
        "share_of_memory_roof": rate / roof if roof else None,
    }


def ratio(ours: Measured, theirs: Measured) -> float | None:
    """How many times faster: the median over the rounds of their time / our time."""
    if not ours.seconds or not theirs.seconds:
        return None
    return median(b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True))


def faster(*several: Measured) -> Measured:
    """The one with the lowest median time; one without figures only if all are."""
    return min(several, key=lambda m: median(m.seconds) if m.seconds else float("inf"))


def named(measured: Sequence[Measured], name: str) -> Measured | None:
    return next((m for m in measured if m.candidate.name == name), None)


def copy_bandwidth(cores: int, *, size: int = 2**28, repeats: int = 5) -> float:
    """Bytes per second, read and written, of the fastest of some copies of `size` bytes on a CPU.

    Raises:
        Unavailable: fewer cores are available.
    """
    with pinned(cores):
        source, target = torch.ones(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
        target.copy_(source)
        return 2 * size / min(wall_seconds(lambda: target.copy_(source)) for _ in range(repeats))
