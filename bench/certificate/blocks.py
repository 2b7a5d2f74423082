"""Blocks of counted steps, and their raw figures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bench.certificate.step_clock import StepClock, step_clock
from bench.certificate.trainee import Trainee
from pipeline.batch import MultiCropBatch
from pipeline.loader import MultiCropLoader
from pipeline.loader.watchdog import Stalled
from pipeline.stats import LoaderStats

FULL, SYNTHETIC = "FULL", "SYNTHETIC"
COLD, BESIDE_COLD = "COLD", "SYNTHETIC after COLD"
Source = Iterator[tuple[int, MultiCropBatch]]  # steps with their views

_ASLEEP = 0.05  # seconds without work in any stage: the queues are full
_PATIENCE = 60.0  # seconds for that


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """The counted steps of one block."""

    kind: str
    seconds: list[float]  # of each step
    host_waiting: float  # seconds that the host was without views
    waiting: float  # the same as the loader counts it: on a GPU by CUDA events
    busy: dict[str, float]  # seconds at work by stage of the loader
    places_asked: int
    places_filled: int
    epochs_crossed: int
    checkpoints: int


class Counter:
    """Takes counted steps, on the views of any source."""

    def __init__(self, trainee: Trainee, device: torch.device) -> None:
        self._trainee = trainee
        self._device = device
        self._clock: StepClock = step_clock(device)

    def count(
        self,
        kind: str,
        source: Source,
        loader: MultiCropLoader,
        numbers: range,
        saves: frozenset[int] = frozenset(),
    ) -> Block:
        """Take the counted steps of these numbers, with a checkpoint after some; return figures."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        before, host_waiting, epochs, saved = loader.stats(), 0.0, set(), 0
        self._clock.mark()
        for number in numbers:
            asked = time.perf_counter()
            step, batch = next(source)
            host_waiting += time.perf_counter() - asked
            epochs.add(batch.epoch)
            self._trainee.step(step, batch)
            if number in saves:
                self._trainee.save()
                saved += 1
            self._clock.mark()
        seconds = self._clock.take()  # waits for the device, so that the loader's events are past
        after = loader.stats()
        self._trainee.finish_saving()  # what one block writes is no burden of the next
        return Block(
            kind=kind,
            seconds=seconds,
            host_waiting=host_waiting,
            waiting=after.wait_seconds - before.wait_seconds,
            busy={stage: after.busy[stage] - before.busy.get(stage, 0.0) for stage in after.busy},
            places_asked=after.places_asked - before.places_asked,
            places_filled=after.places_filled - before.places_filled,
            epochs_crossed=len(epochs) - 1 if kind == FULL else 0,
            checkpoints=saved,
        )


def wait_until_asleep(loader: MultiCropLoader) -> None:
    """Wait until no stage is at work, because all queues are full.

    Raises:
        Stalled: they are not full after a minute: SYNTHETIC would share the machine with the
            loader, and flatter FULL.
    """
    deadline = time.monotonic() + _PATIENCE
    busy = _busy(loader.stats())
    while time.monotonic() < deadline:
        time.sleep(_ASLEEP)
        before, busy = busy, _busy(loader.stats())
        if busy == before:
            return
    raise Stalled(
        f"the loader still works after {_PATIENCE:.0f} s without a step: it is too slow to be "
        "certified; `python -m bench ladder` names the stage"
    )


def _busy(stats: LoaderStats) -> float:
    return sum(stats.busy.values())
