"""Memory for views that comes back when nobody holds it any more.

Views of a batch are hundreds of megabytes. On a CPU, glibc gives such blocks back to the kernel,
which clears every page again when it is next touched: 0.8 ms an image for six views, half as long
as making them. On a GPU an allocation may wait for the device.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import Any

import torch
from torch import Tensor

from pipeline.devices import CPU


class RecycledMemory:
    """Lends tensors of one device. Safe in any thread; holds as much as was ever lent at once.

    `pinned`: memory of the CPU that a GPU can copy from by itself.

    On a GPU, memory that comes back may still be read by work that is queued on the stream that is
    current there and then; the stream that is current when it is lent again waits for that work.
    """

    def __init__(self, device: torch.device = CPU, *, pinned: bool = False) -> None:
        self._device, self._pinned = device, pinned
        self._returned: deque[_Block] = deque()

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return an uninitialised tensor; its memory is lent again once no tensor shares it."""
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return torch.empty(shape, dtype=dtype, device=self._device)
        block = self._block(size)
        lent = block.lent(size)  # an object of its own, which the tensor keeps alive
        weakref.finalize(lent, _give_back, block, self._returned).atexit = False
        return torch.as_tensor(lent, device=self._device).view(dtype).view(shape)

    def _block(self, size: int) -> _Block:
        while True:
            try:
                block = self._returned.popleft()
            except IndexError:
                return _Block(size, self._device, pinned=self._pinned)
            if block.size >= size:  # a smaller one is let go: batches have become larger
                block.wait()
                return block


class _Block:
    """Bytes, and on a GPU the event after which they are free."""

    def __init__(self, size: int, device: torch.device, *, pinned: bool) -> None:
        self.size = size
        self._memory = torch.empty(size, dtype=torch.uint8, device=device, pin_memory=pinned)
        self._free = torch.cuda.Event() if device.type == "cuda" else None

    def lent(self, size: int) -> Any:
        """An object that exports the first `size` bytes, and can be watched."""
        if self._free is None:
            return self._memory.numpy()[:size]
        return _OnDevice(self._memory, size)

    def come_back(self) -> None:
        if self._free is not None:
            stream = torch.cuda.current_stream(self._memory.device)
            self._free.record(stream)
            self._memory.record_stream(stream)  # if it is let go, the allocator waits for it too

    def wait(self) -> None:
        if self._free is not None:
            torch.cuda.current_stream(self._memory.device).wait_event(self._free)


class _OnDevice:
    """Bytes on a GPU as `torch.as_tensor` takes them, without a copy; the tensor holds this."""

    def __init__(self, memory: Tensor, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (memory.data_ptr(), False),
            "version": 3,
        }


def _give_back(block: _Block, returned: deque[_Block]) -> None:
    block.come_back()
    returned.append(block)
