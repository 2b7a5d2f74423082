"""What to ask a disk for before it is needed: the sample ids to name at each step.

A shuffled epoch has no neighbours, so its batches are named one by one, `ahead` steps early. A
windowed epoch is made of blocks of adjacent samples, and each is named whole, once: at least
`ahead` steps before its first sample is read, and as evenly as the disk would like it. An epoch
begins with an empty window, which takes twice as many new blocks as it shows samples until it is
full; they are named while the window of the epoch before it runs empty, so that the disk has the
same to do at every step.

Everything is a function of (sampler, steps, ahead, share): what a reader was told before follows
from the step it began at. Each sample is named once between the first step and the last.

Shapes: N samples, K blocks, S steps of an epoch, G global batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import Ids
from pipeline.order import Window, WindowedEpoch, windowed_epoch
from pipeline.sampler import Sampler


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Which part of the reading falls to one process: rank `rank` of `world_size`.

    The `local_size` processes of a machine have a page cache in common: they deal the blocks out
    among themselves, and name only what their machine will read.
    """

    rank: int = 0
    world_size: int = 1
    local_size: int = 1

    def of(self, batch: Ids) -> Ids:
        """What this process reads of a global batch."""
        return batch[self.rank :: self.world_size]


def upcoming(
    sampler: Sampler, step: int, *, steps: range, ahead: int, share: Share | None = None
) -> Ids:
    """Return the ids to ask for just before `step` is read, by a reader of `steps`.

    `shards.expect` makes few large reads of them where they lie side by side.

    Args:
        steps: all that the reader reads, `step` among them; at the first of them, everything that
            is needed within `ahead` steps is named.
        ahead: steps between naming a sample and reading it, where possible.
    """
    part = share or Share()
    if sampler.window is None:
        return _joined(part.of(sampler.batch(new)[1]) for new in _new(step, steps, ahead))
    reader = _WindowedReader(
        sampler=sampler, window=sampler.window, steps=steps, ahead=ahead, share=part
    )
    return reader.ids(step)


def _new(step: int, steps: range, ahead: int) -> range:
    """The steps whose batches are named at `step`."""
    first = step if step == steps.start else step + ahead
    return range(first, min(step + ahead + 1, steps.stop))


def _joined(parts: Iterable[Ids]) -> Ids:
    return np.concatenate([np.empty(0, np.int64), *parts])


@dataclass(frozen=True, kw_only=True, slots=True)
class _WindowedReader:
    """Names whole blocks; one by one only samples of blocks that were open when it began."""

    sampler: Sampler
    window: Window
    steps: range
    ahead: int
    share: Share

    def ids(self, step: int) -> Ids:
        size = self.sampler.steps_per_epoch
        last = min(step + self._lead, self.steps.stop - 1) // size
        named = (self._blocks_due(epoch, step) for epoch in range(step // size, last + 1))
        return _joined([*self._of_blocks_begun(step), *(part for parts in named for part in parts)])

    @property
    def _lead(self) -> int:
        """How many steps ahead of its even share of the reading a block is named.

        A window in its steady state is half read, so half a window of samples is held back: reading
        that far ahead at every step is what fills the window of a new epoch in time.
        """
        size = self.sampler.steps_per_epoch
        return math.ceil(self.window.reach / 2 / self.window.total_bytes * size) + self.ahead

    def _epoch(self, epoch: int) -> WindowedEpoch:
        return windowed_epoch(self.window, seed=self.sampler.seed, epoch=epoch)

    def _first_steps(self, epoch: int) -> Ids:
        """The step at which each block [K], as laid, is read first."""
        places = self._epoch(epoch).first_places
        return epoch * self.sampler.steps_per_epoch + places // self.sampler.global_batch_size

    def _due(self, epoch: int) -> Ids:
        """The step at which each block [K], as laid, is named.

        At its even share, or when it is needed if that is earlier; and only then in the epoch that
        the reader begins in, whose window is filled by nothing but its own blocks.
        """
        latest = np.maximum(self._first_steps(epoch) - self.ahead, self.steps.start)
        size = self.sampler.steps_per_epoch
        if epoch == self.steps.start // size:
            return latest
        share = self._epoch(epoch).begins / self.window.total_bytes
        even = epoch * size + np.floor(share * size).astype(np.int64) - self._lead
        return np.where(even < self.steps.start, latest, np.minimum(even, latest))

    def _read_at_all(self, epoch: int) -> NDArray[np.bool_]:
        """Blocks [K] that are first read within `steps`, not only left over."""
        size, first = self.sampler.steps_per_epoch, self._first_steps(epoch)
        return (first >= self.steps.start) & (first < min((epoch + 1) * size, self.steps.stop))

    def _blocks_due(self, epoch: int, step: int) -> Iterable[Ids]:
        share, laid = self.share, self._epoch(epoch)
        due = np.flatnonzero((self._due(epoch) == step) & self._read_at_all(epoch))
        for place in due[due % share.local_size == share.rank % share.local_size]:
            ids = self.window.blocks.ids(int(laid.line[place]))
            yield ids[self._is_for_this_machine(laid.places[ids])]

    def _is_for_this_machine(self, places: Ids) -> NDArray[np.bool_]:
        """Whether the samples at these places of an epoch are read here, and not left over."""
        share, sampler = self.share, self.sampler
        read: NDArray[np.bool_] = places < sampler.steps_per_epoch * sampler.global_batch_size
        here: NDArray[np.bool_] = places % share.world_size // share.local_size == (
            share.rank // share.local_size
        )
        return np.logical_and(read, here)

    def _of_blocks_begun(self, step: int) -> Iterable[Ids]:
        """Samples of blocks that were open before the first step: by batches, as if shuffled.

        Naming these blocks whole would read a window at once, and half of it for nothing.
        """
        size, start = self.sampler.steps_per_epoch, self.steps.start
        epoch = start // size
        named = _new(step, range(start, min(self.steps.stop, (epoch + 1) * size)), self.ahead)
        if not named:  # two epochs are kept, and these may be later ones
            return
        begun = np.empty(len(self.window.blocks.first_ids), np.bool_)
        begun[self._epoch(epoch).line] = self._first_steps(epoch) < start
        for other in named:
            ids = self.share.of(self.sampler.batch(other)[1])
            yield ids[begun[self.window.blocks.block_of[ids]]]
