"""Which steps the certificate takes, and what each is for.

    warm-up | block block ... | block
    block: SYNTHETIC: resume, count     loader asleep behind a full queue
           FULL:      drain, settle, count

A FULL block begins with empty queues: batches that were made while SYNTHETIC ran would feed it for
as long as they last, and a loader of nine tenths of the demand would look good for a whole block.
So they are taken and dropped, and the steps in which a good loader fills its queues do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

# Counted steps of a block: what drifts more slowly than two of them hits FULL and SYNTHETIC alike.
# On a CPU that others share, steps of 0.2 s differ by a tenth from one ten seconds to the next.
BLOCK = {"cuda": 50, "cpu": 10}
WARMUP = 12  # steps: compilation, allocator, autotuning
SETTLE = 8  # steps: three stages and a queue of two fill in four if the loader is 1.5 x the demand
RESUME = 2  # steps of SYNTHETIC: the loader sleeps already, only caches are cold
COLD = 100  # counted steps of the first pass with a cold page cache
_HELD = 12  # batches inside the stages: 3 that are read, 3 that are decoded, and those in hand


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Numbers of steps; the loader's steps are `start_step` and those after it, without a gap."""

    blocks: int
    block: int
    drain: int
    start_step: int
    saves: frozenset[int]  # counted steps, from 0, after which a checkpoint is written
    cold_steps: int
    cold_start_step: int

    @property
    def counted(self) -> int:
        """Counted steps of FULL."""
        return self.blocks * self.block

    @property
    def end_step(self) -> int:
        """The step after the last one of the loader."""
        return self.start_step + WARMUP + self.blocks * (self.drain + SETTLE + self.block)

    @property
    def last_step(self) -> int:
        """The step after the last one of all, the cold pass included."""
        return self.cold_start_step + SETTLE + self.cold_steps


def make_schedule(
    *, steps: int, steps_per_epoch: int, checkpoint_every: int, prefetch: int, device_type: str
) -> Schedule:
    """Lay out at least `steps` counted steps of FULL, at least two blocks of them.

    The first step of an epoch lies in the middle of a block's counted steps, so that an epoch's end
    is crossed however long epochs are; and a checkpoint is written as often as the training does,
    but at least once.
    """
    block = min(BLOCK[device_type], -(-steps // 2))
    blocks = -(-steps // block)
    drain = prefetch + _HELD
    period = drain + SETTLE + block
    middle = WARMUP + (blocks // 2) * period + drain + SETTLE + block // 2
    start = -(-middle // steps_per_epoch) * steps_per_epoch - middle
    counted = blocks * block
    saves = range(checkpoint_every - 1, counted, checkpoint_every) or [counted // 2]
    end = start + WARMUP + blocks * period
    return Schedule(
        blocks=blocks,
        block=block,
        drain=drain,
        start_step=start,
        saves=frozenset(saves),
        cold_steps=min(COLD, counted, max(steps_per_epoch - SETTLE, 1)),
        cold_start_step=-(-end // steps_per_epoch) * steps_per_epoch,
    )
