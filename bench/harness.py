"""Several candidates measured in one run, side by side.

Rounds are interleaved: in each round every candidate does its share of images, and the order is
rotated from round to round, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from statistics import median

import torch

Work = Callable[[], object]  # does a share of images once; may return its own seconds, a float
Stopwatch = Callable[[Work], float]  # does the work, returns seconds


class Unavailable(Exception):
    """A candidate cannot run here; the reason in one line."""


class Broken(Exception):
    """A candidate failed in a process of its own; the message names the error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A candidate that is ready to run."""

    run: Work
    note: str = ""  # which of its settings was the fastest here
    close: Callable[[], object] = tuple  # ends what it holds


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
    built: Built | None = None
    skipped: str = ""
    failed: bool = False
    seconds: list[float] = field(default_factory=list)


def wall_seconds(work: Work) -> float:
    """By the clock, or what the work itself says if a part of it is not to be counted."""
    start = time.perf_counter()
    told = work()
    return told if isinstance(told, float) else time.perf_counter() - start


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
    try:
        for runner in runners:
            announce(f"preparing {runner.candidate.name}")
            _guarded(runner, placed, _prepare)
            if runner.skipped:
                announce(f"  skipped: {runner.skipped}")
        for number in range(rounds):
            announce(f"round {number + 1} of {rounds}")
            for runner in _rotated(runners, number):
                _guarded(runner, placed, lambda ready: _time_round(ready, stopwatch))
    finally:
        for runner in runners:
            if runner.built is not None:
                runner.built.close()
    return [
        Measured(
            candidate=runner.candidate,
            seconds=() if runner.skipped else tuple(runner.seconds),
            note=runner.built.note if runner.built else "",
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

        return replace(built, run=run)

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
        message = _one_line(error)
        runner.skipped = message if isinstance(error, Broken) else f"{kind}: {message}"
        runner.failed = not runner.candidate.peer


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no message"


def _prepare(runner: _Runner) -> None:
    runner.built = runner.candidate.build()
    runner.built.run()


def _time_round(runner: _Runner, stopwatch: Stopwatch) -> None:
    assert runner.built is not None
    runner.seconds.append(stopwatch(runner.built.run) / runner.candidate.images)


def copy_bandwidth(cores: int, *, size: int = 2**28, repeats: int = 5) -> float:
    """Bytes per second, read and written, of the fastest of some copies of `size` bytes on a CPU.

    Raises:
        Unavailable: fewer cores are available.
    """
    with pinned(cores):
        source, target = torch.ones(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
        target.copy_(source)
        return 2 * size / min(wall_seconds(lambda: target.copy_(source)) for _ in range(repeats))
