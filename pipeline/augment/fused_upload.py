"""The small arrays of a batch on their way to the GPU: one copy for all of them.

From ordinary memory each copy would wait for the work that is queued on the stream before it. So
they are packed into pinned memory, in two rooms by turns, and go over in one piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ALIGNED = 16  # bytes: any element type may begin there


@dataclass(slots=True)
class _Room:
    """Memory to pack into, and the event after which the GPU has read it."""

    packed: Tensor
    read: torch.cuda.Event | None = None


class Upload:
    """Copies arrays to a device, in the order of the current stream; each call overwrites the last.

    On a device that is no GPU (Triton's interpreter) it does the same without events.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._rooms = [_Room(self._host(0)) for _ in range(2)]
        self._target = torch.empty(0, dtype=torch.uint8, device=device)

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """Return the same arrays on the device."""
        starts, end = [], 0
        for tensor in tensors:
            starts.append(end)
            end += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        room = self._next_room(end)
        for start, tensor in zip(starts, tensors, strict=True):
            _piece(room.packed, start, tensor).copy_(tensor)
        self._target[:end].copy_(room.packed[:end], non_blocking=True)
        if self._on_gpu:
            room.read = torch.cuda.Event(blocking=True)  # whoever waits for it sleeps
            room.read.record()
        return [
            _piece(self._target, start, tensor)
            for start, tensor in zip(starts, tensors, strict=True)
        ]

    def _next_room(self, size: int) -> _Room:
        self._rooms.reverse()
        room = self._rooms[0]
        if room.read is not None:
            room.read.synchronize()  # of the batch before the last: it has been read long since
        if len(room.packed) < size:
            room.packed = self._host(size)
        if len(self._target) < size:
            self._target = torch.empty(size, dtype=torch.uint8, device=self._device)
        return room

    def _host(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._on_gpu)


def _piece(memory: Tensor, start: int, like: Tensor) -> Tensor:
    return memory[start : start + like.nbytes].view(like.dtype).view(like.shape)
