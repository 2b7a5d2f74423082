"""In which order an epoch shows its samples: shuffled as a whole, or within a window of memory.

**Shuffled.** Each sample draws a 64-bit ticket; the order is the tickets sorted.

**Windowed**, for data larger than memory. The samples are cut into blocks of adjacent ids; blocks
draw tickets of their own and are laid end to end in that order. A sample's key is the first byte of
its block on that line plus its ticket, as a fraction, of the window; the order is the keys sorted.

    keys 0 ----------------------------------------------------------------------> bytes
    block 7   |==== its samples lie anywhere here ====|
    block 2       |===================================|===|
    block 9           |===============================|=======|
                                 ^ here these three are open: the window, and no more than it holds

So a block is open for one window's length of reading, the blocks come one after another, as a disk
likes them, and what is open at any moment fits into the window. Both are functions of (seed, epoch,
settings, stored sizes): no state, no ranks.

Shapes: N samples, K blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import Ids
from pipeline.rng import Stream, random_words


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderConfig:
    """How an epoch is shuffled.

    Raises:
        ValueError: a negative window, a block of no bytes.
    """

    # 1e9 stored bytes that are mixed at a time, for data larger than memory; 0: shuffle all of
    # them [ours]
    window_gigabytes: float = 0.0
    block_megabytes: float = 2.0  # 1e6 bytes read in one piece; only with a window [ours]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.window_gigabytes) and self.window_gigabytes >= 0):
            raise ValueError(
                f"order.window_gigabytes must not be negative, got {self.window_gigabytes}; "
                "0 shuffles all samples"
            )
        if not (math.isfinite(self.block_megabytes) and self.block_megabytes >= 1e-6):
            raise ValueError(
                f"order.block_megabytes must be above zero, got {self.block_megabytes}"
            )

    @property
    def window_bytes(self) -> int:
        return round(self.window_gigabytes * 1e9)

    @property
    def block_bytes(self) -> int:
        return round(self.block_megabytes * 1e6)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Blocks:
    """Samples cut into K runs of adjacent ids, each of about as many bytes."""

    first_ids: Ids  # [K] ascending; block k holds first_ids[k] .. first_ids[k + 1] - 1
    num_bytes: Ids  # [K]
    block_of: Ids  # [N]

    def ids(self, block: int) -> Ids:
        """The samples of a block, ascending."""
        is_last = block + 1 == len(self.first_ids)
        end = len(self.block_of) if is_last else self.first_ids[block + 1]
        return np.arange(self.first_ids[block], end)


def cut_blocks(stored_bytes: Ids, block_bytes: int) -> Blocks:
    """Cut samples of these sizes [N] into blocks.

    A block holds the samples that begin within one stretch of `block_bytes`, counted without the
    gaps and ends of files, so that both formats have the same blocks. It is larger than that by one
    sample at most.
    """
    begins = np.cumsum(stored_bytes, dtype=np.int64) - stored_bytes
    _, first_ids, block_of = np.unique(
        begins // block_bytes, return_index=True, return_inverse=True
    )
    return Blocks(
        first_ids=first_ids.astype(np.int64),
        num_bytes=np.add.reduceat(stored_bytes.astype(np.int64), first_ids),
        block_of=block_of.astype(np.int64),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Window:
    """Blocks, and how many bytes of them may be open at a time.

    Raises:
        ValueError: the window holds no two of the blocks.
    """

    blocks: Blocks
    num_bytes: int

    def __post_init__(self) -> None:
        if self.num_bytes < 2 * int(self.blocks.num_bytes.max()):
            raise ValueError(
                f"order.window_gigabytes={self.num_bytes / 1e9:g} holds no two blocks: the largest "
                f"has {self.blocks.num_bytes.max() / 1e6:g} MB; raise it, lower "
                "order.block_megabytes, or set 0 to shuffle all samples"
            )

    @property
    def num_samples(self) -> int:
        return len(self.blocks.block_of)

    @property
    def total_bytes(self) -> int:
        return int(self.blocks.num_bytes.sum())

    @property
    def reach(self) -> int:
        """How far a sample's key may lie behind the first byte of its block.

        What is open at a key began within `reach` before it, so with the last block whole it is
        `num_bytes` at most.
        """
        return self.num_bytes - int(self.blocks.num_bytes.max())


def make_window(stored_bytes: Ids, config: OrderConfig) -> Window | None:
    """The window of these settings over samples of these sizes [N]; None: shuffle them all.

    A window that holds all samples would shuffle them all, so it is None too.

    Raises:
        ValueError: the window holds no two blocks.
    """
    if not 0 < config.window_bytes < int(stored_bytes.sum()):
        return None
    return Window(
        blocks=cut_blocks(stored_bytes, config.block_bytes), num_bytes=config.window_bytes
    )


@lru_cache(maxsize=2)  # this epoch and the next: 10 MB each for ImageNet, 0.4 s to make
def epoch_order(*, num_samples: int, seed: int, epoch: int) -> Ids:
    """Return the shuffled order of an epoch, a read-only permutation [N]."""
    tickets = _tickets(num_samples, seed=seed, stream=Stream.ORDER, epoch=epoch)
    return _read_only(np.argsort(tickets, kind="stable"))  # stable: ties by sample id


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WindowedEpoch:
    """One epoch in windowed order."""

    order: Ids  # [N] sample ids
    places: Ids  # [N] where in `order` each sample is
    line: Ids  # [K] blocks in the order in which they are laid
    begins: Ids  # [K] first byte of each on that line
    first_places: Ids  # [K] where in `order` the first sample of each is


@lru_cache(maxsize=2)  # this epoch and the next, which is read ahead
def windowed_epoch(window: Window, *, seed: int, epoch: int) -> WindowedEpoch:
    """Lay the blocks and sort the samples of an epoch; all arrays are read-only."""
    blocks = window.blocks
    num_samples, num_blocks = len(blocks.block_of), len(blocks.first_ids)
    line = np.argsort(
        _tickets(num_blocks, seed=seed, stream=Stream.BLOCKS, epoch=epoch), kind="stable"
    )
    begins = np.cumsum(blocks.num_bytes[line]) - blocks.num_bytes[line]
    begin_of = np.empty(num_blocks, np.float64)
    begin_of[line] = begins
    tickets = _tickets(num_samples, seed=seed, stream=Stream.ORDER, epoch=epoch)
    # 53 bits of the ticket: exact in a float64, so that every machine sorts the same keys
    keys = begin_of[blocks.block_of] + (tickets >> np.uint64(11)) * 2.0**-53 * window.reach
    order = np.argsort(keys, kind="stable")
    places = np.empty(num_samples, np.int64)
    places[order] = np.arange(num_samples)
    return WindowedEpoch(
        order=_read_only(order),
        places=_read_only(places),
        line=_read_only(line),
        begins=_read_only(begins),
        first_places=_read_only(np.minimum.reduceat(places, blocks.first_ids)[line]),
    )


def _tickets(count: int, *, seed: int, stream: Stream, epoch: int) -> NDArray[np.uint64]:
    """A 64-bit number for each of `count` things."""
    words = random_words(
        seed=seed,
        stream=stream,
        epoch=epoch,
        sample_ids=np.arange(count),
        num_views=1,
        num_draws=2,
    )[:, 0].astype(np.uint64)
    tickets: NDArray[np.uint64] = (words[:, 0] << np.uint64(32)) | words[:, 1]
    return tickets


def _read_only(values: NDArray[np.int64]) -> Ids:
    values = values.astype(np.int64)
    values.setflags(write=False)
    return values
