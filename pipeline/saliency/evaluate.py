"""Maps against true masks: the hand-crafted methods and others, in several processes."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.batch import Bytes
from pipeline.saliency.arrays import Flags, Floats
from pipeline.saliency.gate import Fault, judge
from pipeline.saliency.labelled import Labelled, read_labelled
from pipeline.saliency.measures import Measured, Summary, measure, summarise
from pipeline.saliency.methods import estimate_all


class Estimator(Protocol):
    """What is measured beside the methods; picklable. `name` is that of its row."""

    @property
    def name(self) -> str: ...

    def prepare(self) -> None:
        """Called once in each process, before a time is taken."""

    def estimate(self, one: Labelled, picture: Bytes) -> tuple[Floats, float | None]:
        """Return the map of a picture, uint8 [H, W, 3], and the seconds of one core that it took.

        The map is float32 [H, W] in 0..1. None in place of seconds: it was made before.

        Raises:
            ValueError, OSError: it cannot be made or read.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one method made of one picture."""

    measured: Measured
    coverage: float  # share of the picture that is foreground
    fault: Fault | None  # what the quality gate says
    seconds: float | None  # of one core, with superpixels; None: the map was made before


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Figures of one method, or of another estimator, over all pictures."""

    method: str
    summary: Summary
    coverage: float  # mean
    faults: dict[str, int]  # fault -> pictures
    degenerate: float  # share of the pictures with a fault
    milliseconds: float | None  # mean of an image, of one core; None: maps were made before


def evaluate(
    pictures: Sequence[Labelled],
    methods: Sequence[str],
    *,
    others: Sequence[Estimator] = (),
    processes: int,
    tick: Callable[[], None],
) -> list[Row]:
    """Measure each method on all pictures, and then the others.

    Args:
        processes: 1 works in this one.
        tick: called for each picture that is done.

    Raises:
        ValueError, OSError: two rows would have one name; a picture, mask or map cannot be used.
        BrokenProcessPool: a process was killed or crashed.
    """
    names = [*methods, *(other.name for other in others)]
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{count} rows would be named {name!r}; give --maps another NAME=DIR")
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    for found in _all(pictures, methods, others, processes):
        for method, outcome in found.items():
            outcomes[method].append(outcome)
        tick()
    return [_row(method, of_method) for method, of_method in outcomes.items()]


def evaluate_picture(
    one: Labelled, methods: Sequence[str], others: Sequence[Estimator] = ()
) -> dict[str, Outcome]:
    """Return the outcome of each method, and of each of the others, on one picture."""
    image, truth = read_labelled(one)
    found: dict[str, tuple[Floats, float | None]] = {}
    if methods:  # else superpixels would be made for nothing
        for method, estimated in estimate_all(image, methods).items():
            found[method] = estimated.saliency, estimated.seconds
    for other in others:
        found[other.name] = other.estimate(one, image)
    return {name: _outcome(saliency, truth, took) for name, (saliency, took) in found.items()}


def _outcome(saliency: Floats, truth: Flags, seconds: float | None) -> Outcome:
    verdict = judge(saliency)
    return Outcome(
        measured=measure(saliency, truth),
        coverage=verdict.coverage,
        fault=verdict.fault,
        seconds=seconds,
    )


def _all(
    pictures: Sequence[Labelled],
    methods: Sequence[str],
    others: Sequence[Estimator],
    processes: int,
) -> Iterator[dict[str, Outcome]]:
    work = partial(evaluate_picture, methods=tuple(methods), others=tuple(others))
    prepare = partial(_prepare, tuple(methods), tuple(others))
    if processes == 1:
        threads = cv2.getNumThreads()
        try:
            with threadpool_limits(1):
                prepare()
                yield from map(work, pictures)
        finally:
            cv2.setNumThreads(threads)
        return
    # forking a process with threads (torch) is unsafe
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(
        processes, mp_context=context, initializer=_prepare_worker, initargs=(prepare,)
    )
    try:
        yield from pool.map(work, pictures, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_worker(prepare: Callable[[], None]) -> None:
    threadpool_limits(1)
    prepare()


def _prepare(methods: Sequence[str], others: Sequence[Estimator]) -> None:
    """One thread, so that times are those of a core; compile before the first time is taken."""
    cv2.setNumThreads(1)
    if methods:
        estimate_all(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    for other in others:
        other.prepare()


def _row(method: str, outcomes: Sequence[Outcome]) -> Row:
    faults = Counter(one.fault for one in outcomes if one.fault is not None)
    seconds = [one.seconds for one in outcomes if one.seconds is not None]
    return Row(
        method=method,
        summary=summarise([one.measured for one in outcomes]),
        coverage=float(np.mean([one.coverage for one in outcomes])),
        faults=dict(sorted(faults.items())),
        degenerate=faults.total() / len(outcomes),
        milliseconds=1e3 * float(np.mean(seconds)) if seconds else None,
    )
