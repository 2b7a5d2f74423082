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
        self._memory = RecycledMemory(device)
        self._copied: deque[tuple[torch.cuda.Event, MultiCropBatch]] = deque()

    def __call__(self, decoded: DecodedBatch, params: ViewParams) -> MultiCropBatch:
        while self._copied and self._copied[0][0].query():
            self._copied.popleft()  # now its memory on the CPU may be lent again
        made = self._executor(decoded, params)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            large, small = self._on_device(made.large), self._on_device(made.small)
            ready = torch.cuda.Event()
            ready.record()
        self._copied.append((ready, made))
        return replace(made, large=large, small=small, ready=ready)

    def close(self) -> None:
        """End the other; memory that is still being copied from is kept until it has been."""
        for ready, _ in self._copied:
            ready.synchronize()
        self._copied.clear()
        self._executor.close()

    def _on_device(self, views: Tensor) -> Tensor:
        room = self._memory.empty(*views.shape, dtype=views.dtype)
        return room.copy_(views, non_blocking=True)
