"""Bounded hand-over between threads: channels that can be closed, and the ring of image slots.

A slot is a buffer for one decoded batch. It is written by the decoding stage, read by the
executor, and returned; a slot in use is in no channel, so nothing can overwrite it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.batch import MASK_GRID, Ids, Ints, RaggedImages
from pipeline.devices import CPU

T = TypeVar("T")


class ChannelClosed(Exception):
    """The other side has ended."""


class Channel(Generic[T]):
    """A FIFO of at most `capacity` items between threads. close() wakes everybody who waits."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a channel needs room for at least one item, got {capacity}")
        self.capacity = capacity
        self._items: deque[T] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Append, waiting for room.

        Raises:
            ChannelClosed: nobody will take it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self.capacity)
            if self._closed:
                raise ChannelClosed
            self._items.append(item)
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> T:
        """Take the oldest item, waiting for one, `timeout` seconds at most.

        Raises:
            ChannelClosed: closed (what was still inside is dropped).
            TimeoutError: there was none in time.
        """
        with self._changed:
            came = self._changed.wait_for(lambda: self._closed or len(self._items) > 0, timeout)
            if self._closed:
                raise ChannelClosed
            if not came:
                raise TimeoutError
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()


class Slot:
    """Reusable buffers for one decoded batch; they grow to the largest batch met and stay.

    Pixels lie on `device`, masks on the CPU. `pinned`: memory of the CPU that a GPU reads from
    while the CPU goes on; then `in_use` is the event after which the GPU has done so.
    """

    def __init__(self, device: torch.device = CPU, *, pinned: bool = False) -> None:
        self._device, self._pinned = device, pinned
        self.in_use: torch.cuda.Event | None = None
        self._pixels = torch.empty(0, dtype=torch.uint8)
        self._masks = torch.empty(0, MASK_GRID, MASK_GRID, dtype=torch.uint8)

    def lay_out(self, heights: Ints, widths: Ints) -> tuple[RaggedImages, Tensor]:
        """Return room for images of these sizes, and for their masks [B, M, M]; not cleared."""
        sizes = heights.astype(np.int64) * widths * 3
        offsets: Ids = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        if len(self._pixels) < offsets[-1]:
            # A quarter more than asked: batches differ in size, and growing costs an allocation.
            self._pixels = self._empty(int(offsets[-1]) * 5 // 4, device=self._device)
        if len(self._masks) < len(heights):
            self._masks = self._empty(len(heights), MASK_GRID, MASK_GRID, device=CPU)
        images = RaggedImages(
            pixels=self._pixels[: int(offsets[-1])],
            offsets=torch.from_numpy(offsets[:-1].copy()),
            heights=torch.from_numpy(heights.astype(np.int32)),
            widths=torch.from_numpy(widths.astype(np.int32)),
        )
        return images, self._masks[: len(heights)]

    def wait(self) -> None:
        """Wait until nobody reads from the buffers any more."""
        if self.in_use is not None:
            self.in_use.synchronize()
            self.in_use = None

    def _empty(self, *shape: int, device: torch.device) -> Tensor:
        pinned = self._pinned and device.type == "cpu"
        room = torch.empty(*shape, dtype=torch.uint8, device=device, pin_memory=pinned)
        if device.type == "cuda":
            # Whoever had this memory before may be at it still, in the order of this stream; a
            # decoder writes on another one, or on an engine that knows no streams.
            torch.cuda.current_stream(device).synchronize()
        return room


class Ring(Generic[T]):
    """A fixed number of slots: `acquire` waits for a free one, `release` gives it back."""

    def __init__(self, slots: Iterable[T]) -> None:
        free = list(slots)
        self._free: Channel[T] = Channel(len(free))
        for slot in free:
            self._free.put(slot)

    def acquire(self) -> T:
        return self._free.get()

    def release(self, slot: T) -> None:
        self._free.put(slot)

    def close(self) -> None:
        self._free.close()
