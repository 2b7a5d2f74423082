"""The hand-crafted methods against true masks: figures for each, in several processes."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.saliency.gate import Fault, judge
from pipeline.saliency.labelled import Labelled, read_labelled
from pipeline.saliency.measures import Measured, Summary, measure, summarise
from pipeline.saliency.methods import estimate, estimate_all


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one method made of one picture."""

    measured: Measured
    coverage: float  # share of the picture that is foreground
    fault: Fault | None  # what the quality gate says
    seconds: float  # of one core, with superpixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Figures of one method over all pictures."""

    method: str
    summary: Summary
    coverage: float  # mean
    faults: dict[str, int]  # fault -> pictures
    degenerate: float  # share of the pictures with a fault
    milliseconds: float  # mean of an image, of one core


def evaluate(
    pictures: Sequence[Labelled],
    methods: Sequence[str],
    *,
    processes: int,
    tick: Callable[[], None],
) -> list[Row]:
    """Measure each method on all pictures.

    Args:
        processes: 1 works in this one.
        tick: called for each picture that is done.

    Raises:
        ValueError, OSError: a picture or mask cannot be used.
        BrokenProcessPool: a process was killed or crashed.
    """
    outcomes: dict[str, list[Outcome]] = {method: [] for method in methods}
    for found in _all(pictures, methods, processes):
        for method, outcome in found.items():
            outcomes[method].append(outcome)
        tick()
    return [_row(method, of_method) for method, of_method in outcomes.items()]


def evaluate_picture(one: Labelled, methods: Sequence[str]) -> dict[str, Outcome]:
    """Return the outcome of each method on one picture."""
    image, truth = read_labelled(one)
    outcomes = {}
    for method, estimated in estimate_all(image, methods).items():
        verdict = judge(estimated.saliency)
        outcomes[method] = Outcome(
            measured=measure(estimated.saliency, truth),
            coverage=verdict.coverage,
            fault=verdict.fault,
            seconds=estimated.seconds,
        )
    return outcomes


def _all(
    pictures: Sequence[Labelled], methods: Sequence[str], processes: int
) -> Iterator[dict[str, Outcome]]:
    work = partial(evaluate_picture, methods=tuple(methods))
    if processes == 1:
        threads = cv2.getNumThreads()
        try:
            with threadpool_limits(1):
                _prepare()
                yield from map(work, pictures)
        finally:
            cv2.setNumThreads(threads)
        return
    # forking a process with threads (torch) is unsafe
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare_worker)
    try:
        yield from pool.map(work, pictures, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_worker() -> None:
    threadpool_limits(1)
    _prepare()


def _prepare() -> None:
    """One thread, so that times are those of a core; compile before the first time is taken."""
    cv2.setNumThreads(1)
    estimate(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))


def _row(method: str, outcomes: Sequence[Outcome]) -> Row:
    faults = Counter(one.fault for one in outcomes if one.fault is not None)
    return Row(
        method=method,
        summary=summarise([one.measured for one in outcomes]),
        coverage=float(np.mean([one.coverage for one in outcomes])),
        faults=dict(sorted(faults.items())),
        degenerate=faults.total() / len(outcomes),
        milliseconds=1e3 * float(np.mean([one.seconds for one in outcomes])),
    )
