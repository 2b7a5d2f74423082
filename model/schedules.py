"""Learning rate and target decay as functions of the step, nothing else.

`step` is 0-based: the value is the one that this update uses. Sources: BYOL's utils/schedules.py
[SRC], which ReLICv2's repository ships unchanged.
"""

from __future__ import annotations

import math


def learning_rate(
    step: int, *, base: float, global_batch_size: int, warmup_steps: int, total_steps: int
) -> float:
    """Rise in a line from 0 to base * global_batch_size / 256, then fall along a cosine to 0."""
    peak = base * global_batch_size / 256
    if step < warmup_steps:
        return peak * step / warmup_steps
    if step >= total_steps:
        return 0.0
    return peak * _cosine((step - warmup_steps) / (total_steps - warmup_steps))


def target_decay(step: int, *, base: float, total_steps: int) -> float:
    """Rise along a cosine from `base` at step 0 to 1 at `total_steps`: there the target rests."""
    return 1 - (1 - base) * _cosine(min(step / total_steps, 1.0))


def _cosine(progress: float) -> float:
    """1 at 0, 0 at 1."""
    return (math.cos(math.pi * progress) + 1) / 2
