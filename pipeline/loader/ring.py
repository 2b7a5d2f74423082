"""Bounded hand-over between threads: channels that can be closed, and the ring of image slots.

A slot is a buffer for one decoded batch. It is written by the decoding stage, read by the
executor, and returned; a slot in use is in no channel, so nothing can overwrite it.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.batch import MASK_GRID, Ids, Ints, RaggedImages

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

    def get(self) -> T:
        """Take the oldest item, waiting for one.

        Raises:
            ChannelClosed: closed (what was still inside is dropped).
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) > 0)
            if self._closed:
                raise ChannelClosed
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()


class Slot:
    """Reusable buffers for one decoded batch; they grow to the largest batch met and stay."""

    def __init__(self) -> None:
        self._pixels = torch.empty(0, dtype=torch.uint8)
        self._masks = torch.empty(0, MASK_GRID, MASK_GRID, dtype=torch.uint8)

    def lay_out(self, heights: Ints, widths: Ints) -> tuple[RaggedImages, Tensor]:
        """Return room for images of these sizes, and for their masks [B, M, M]; not cleared."""
        sizes = heights.astype(np.int64) * widths * 3
        offsets: Ids = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        if len(self._pixels) < offsets[-1]:
            # A quarter more than asked: batches differ in size, and growing costs an allocation.
            self._pixels = torch.empty(int(offsets[-1]) * 5 // 4, dtype=torch.uint8)
        if len(self._masks) < len(heights):
            self._masks = torch.empty(len(heights), MASK_GRID, MASK_GRID, dtype=torch.uint8)
        images = RaggedImages(
            pixels=self._pixels[: int(offsets[-1])],
            offsets=torch.from_numpy(offsets[:-1].copy()),
            heights=torch.from_numpy(heights.astype(np.int32)),
            widths=torch.from_numpy(widths.astype(np.int32)),
        )
        return images, self._masks[: len(heights)]


class Ring:
    """A fixed number of slots: `acquire` waits for a free one, `release` gives it back."""

    def __init__(self, num_slots: int) -> None:
        self._free: Channel[Slot] = Channel(num_slots)
        for _ in range(num_slots):
            self._free.put(Slot())

    def acquire(self) -> Slot:
        return self._free.get()

    def release(self, slot: Slot) -> None:
        self._free.put(slot)

    def close(self) -> None:
        self._free.close()
