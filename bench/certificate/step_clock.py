"""Seconds of each step: by the host's clock on a CPU, by CUDA events on a GPU."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Protocol

import torch

_AHEAD = 2  # steps that the host may have launched beyond the one that the device is at


class StepClock(Protocol):
    """Marks the ends of steps, one after another."""

    def mark(self) -> None:
        """A step ends here, and the next one begins."""
        ...

    def take(self) -> list[float]:
        """Return the seconds between marks since the last call; waits for the device."""
        ...


class HostClock:
    """For steps that are over when the call returns."""

    def __init__(self) -> None:
        self._marks: list[float] = []

    def mark(self) -> None:
        self._marks.append(time.perf_counter())

    def take(self) -> list[float]:
        marks, self._marks = self._marks, []
        return [end - start for start, end in pairwise(marks)]


class DeviceClock:
    """For steps that are launched: an event behind each, read when all are over.

    The host is held back to `_AHEAD` steps before the device. Without that it would ask for views
    long before they are needed and find an empty queue, which says nothing about the device; held
    back so, the device always has a whole step in store, and is never waited for within a step.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[torch.cuda.Event] = []

    def mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._marks.append(event)
        if len(self._marks) > _AHEAD:
            self._marks[-1 - _AHEAD].synchronize()

    def take(self) -> list[float]:
        marks, self._marks = self._marks, []
        torch.cuda.synchronize(self._device)
        return [start.elapsed_time(end) / 1e3 for start, end in pairwise(marks)]


def step_clock(device: torch.device) -> StepClock:
    return DeviceClock(device) if device.type == "cuda" else HostClock()
