"""The step beside the bare networks, in turn, in one process; and where the step's end goes.

On a GPU by CUDA events, with the host running ahead as in a training; on a CPU by the clock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from bench.augment_cuda import cuda_seconds
from bench.harness import Built, Candidate, anywhere, measure, pinned, repeated, wall_seconds
from bench.rows import named, ratios_of, row
from bench.step.subject import Subject
from training.config import TrainConfig

STEP, BARE = "step", "bare networks"
WHAT = {
    STEP: "train.train_step: view by view, loss, guard, optimizer, target",
    BARE: "target forward on large views, online forward and backward on all; nothing else",
}
# What follows the backward pass, in order.
PARTS = ("looking for what is not finite", "optimizer", "target and statistics")


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How to measure."""

    rounds: int
    steps: int  # of each row in a round
    threads: int  # on a CPU


def measure_speed(config: TrainConfig, device: torch.device, timing: Timing) -> dict[str, Any]:
    """`rows` and `ratios` as every rung has them, and `update`: shares of the step's time."""
    subject = Subject(config, device)
    candidates = [_candidate(STEP, subject, timing), _candidate(BARE, subject, timing)]
    on_gpu = device.type == "cuda"
    measured = measure(
        candidates,
        rounds=timing.rounds,
        stopwatch=cuda_seconds if on_gpu else wall_seconds,
        placed=anywhere if on_gpu else pinned,
    )
    for each in measured:  # here the two are all there is: without one there is no figure
        if each.skipped:
            raise RuntimeError(f"{each.candidate.name}: {each.skipped}")
    pair = (named(measured, STEP), named(measured, BARE))
    with pinned(timing.threads) if not on_gpu else anywhere(0):
        update = update_shares(subject, max(timing.rounds, 2))
    return {
        "rows": [row(each) for each in measured],
        "ratios": ratios_of({f"{STEP}/{BARE}": pair}),
        "update": update,
    }


def update_shares(subject: Subject, steps: int) -> dict[str, float]:
    """What each part after the backward pass takes of a step: medians over `steps` steps, 0..1.

    Measured within whole steps, where the device has work queued before and after.
    """
    clock = _Clock(subject.device)
    with subject.marking(clock.mark):
        for _ in range(steps):
            clock.mark()
            subject.step()
    subject.finish()
    marks = len(PARTS) + 2  # of a step: its begin, the end of backward, the end of each part
    seconds = clock.seconds()
    found = [seconds[start : start + marks - 1] for start in range(0, steps * marks, marks)]
    shares = {
        name: median(step[number + 1] / sum(step) for step in found)
        for number, name in enumerate(PARTS)
    }
    both = median((step[2] + step[3]) / sum(step) for step in found)
    return shares | {"optimizer, target and statistics": both}


def _candidate(name: str, subject: Subject, timing: Timing) -> Candidate:
    one = Candidate(
        name=name,
        what=WHAT[name],
        build=lambda: Built(run=subject.step if name == STEP else subject.bare),
        images=subject.config.global_batch_size,
        bytes_per_image=subject.bytes_per_image,
        cores=timing.threads,
    )
    return repeated(one, timing.steps)


class _Clock:
    """Marks of time, by the device's own clock."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[Any] = []

    def mark(self) -> None:
        if not self._on_gpu:
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def seconds(self) -> list[float]:
        """Between each mark and the next; the device must have come to them."""
        if self._on_gpu:
            return [start.elapsed_time(end) / 1e3 for start, end in pairwise(self._marks)]
        return [end - start for start, end in pairwise(self._marks)]
