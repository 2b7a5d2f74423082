"""How long the consumer of views had none to work on: by the host's clock, or by the GPU's.

On a GPU the host runs ahead: that it waits for views costs nothing as long as the GPU is still at
work on earlier steps. What counts is the time on the consumer's stream from the end of what was
queued there to the moment when the views are ready, taken by two events and read later.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch

from pipeline.batch import MultiCropBatch


class Waiting(Protocol):
    """Adds up the time between asking for views and having them."""

    def measure(self) -> AbstractContextManager[None]:
        """A context: views are asked for at its beginning, and there at its end."""
        ...

    def until_ready(self, batch: MultiCropBatch) -> None:
        """Make the consumer wait for views that are still being made; inside `measure`."""
        ...

    def seconds(self) -> float:
        """The sum so far."""
        ...


class HostWaiting:
    """For views on the CPU, which are finished when they are handed over."""

    def __init__(self) -> None:
        self._seconds = 0.0

    @contextmanager
    def measure(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - start

    def until_ready(self, batch: MultiCropBatch) -> None:
        """There is nothing to wait for."""
        assert batch.ready is None

    def seconds(self) -> float:
        return self._seconds


class DeviceWaiting:
    """For views on a GPU: its current stream waits for them, the host does not.

    Pairs of events are used again, so that nothing is allocated once a few are under way.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._running: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._idle: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self) -> Iterator[None]:
        self._collect()
        before, after = self._idle.pop() if self._idle else (_event(), _event())
        before.record(torch.cuda.current_stream(self._device))
        yield
        after.record(torch.cuda.current_stream(self._device))
        self._running.append((before, after))

    def until_ready(self, batch: MultiCropBatch) -> None:
        if batch.ready is not None:
            torch.cuda.current_stream(self._device).wait_event(batch.ready)

    def seconds(self) -> float:
        self._collect()
        return self._seconds

    def _collect(self) -> None:
        """Add what has passed on the device; what has not is left for later."""
        while self._running and self._running[0][1].query():
            before, after = pair = self._running.popleft()
            self._seconds += before.elapsed_time(after) / 1e3
            self._idle.append(pair)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)
