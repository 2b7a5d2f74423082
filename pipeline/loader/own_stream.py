"""A CUDA stream for one decoder, so that it waits for its own copies and for nothing else.

On the default stream, a copy would wait for all of training that is queued there.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


class OwnStream:
    """On a CPU, where calls return when all is done, there is no stream to wait for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def handle(self) -> int | None:
        """The cudaStream_t, or None on a CPU."""
        return None if self._stream is None else int(self._stream.cuda_stream)

    def current(self) -> AbstractContextManager[object]:
        """Make it the stream that torch queues work on, in this thread."""
        if self._stream is None:
            return nullcontext()
        return torch.cuda.stream(self._stream)

    def wait(self) -> None:
        """Wait, in this thread, until all that is queued on it is done."""
        if self._stream is not None:
            self._stream.synchronize()


class Scratch:
    """One growing buffer; it may be used on the stream that is current when it grows."""

    def __init__(self, device: torch.device, *, pinned: bool = False) -> None:
        self._device, self._pinned = device, pinned
        self._bytes = torch.empty(0, dtype=torch.uint8, device=device)

    def of(self, size: int) -> Tensor:
        """Return uint8 [size]; what the last call returned is overwritten."""
        if len(self._bytes) < size:
            self._bytes = torch.empty(
                size * 5 // 4, dtype=torch.uint8, device=self._device, pin_memory=self._pinned
            )
        return self._bytes[:size]
