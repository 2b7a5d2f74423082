"""Views that a CPU executor makes, brought to a GPU: for those who train there without `fused`."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.augment.params import ViewParams
from pipeline.augment.recycled import RecycledMemory
from pipeline.batch import DecodedBatch, MultiCropBatch

if TYPE_CHECKING:
    from pipeline.augment import Executor


class UploadedViews:
    """Executor that copies another's views to a CUDA device, on a stream of its own.

    From pinned memory the host goes on while they are copied; float32, as they were made.
    """

    def __init__(self, executor: Executor, device: torch.device) -> None:
        self._executor = executor
        self._device = device
        self._stream = torch.cuda.Stream(device)
        # One for each size: views that come back in another order would take each other's place.
        self._large_memory, self._small_memory = RecycledMemory(device), RecycledMemory(device)
        self._copied: deque[tuple[torch.cuda.Event, MultiCropBatch]] = deque()

    def __call__(self, decoded: DecodedBatch, params: ViewParams) -> MultiCropBatch:
        while self._copied and self._copied[0][0].query():
            self._copied.popleft()  # now its memory on the CPU may be lent again
        made = self._executor(decoded, params)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            large = _copied(made.large, self._large_memory)
            small = _copied(made.small, self._small_memory)
            ready = torch.cuda.Event(blocking=True)  # whoever waits for it sleeps
            ready.record()
        self._copied.append((ready, made))
        return replace(made, large=large, small=small, ready=ready)

    def close(self) -> None:
        """End the other; memory that is still being copied from is kept until it has been."""
        for ready, _ in self._copied:
            ready.synchronize()
        self._copied.clear()
        self._executor.close()


def _copied(views: Tensor, memory: RecycledMemory) -> Tensor:
    return memory.empty(*views.shape, dtype=views.dtype).copy_(views, non_blocking=True)
