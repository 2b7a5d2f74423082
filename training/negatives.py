"""Whom the anchors of a step are compared with, where not with all others.

Shapes: V views, L large views, B local batch, n negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.batch import MultiCropBatch
from pipeline.sampler import sample_negatives
from training.config import TrainConfig
from training.launch import World
from training.plan import Plan


def draw_negatives(
    batch: MultiCropBatch, config: TrainConfig, plan: Plan, step: int, world: World
) -> Tensor | None:
    """Return the negatives of each anchor [V, L, B, n], or None for all others of the batch.

    Positions count the local batch, or the global one with loss.negatives=global: sample p of the
    global batch lives on rank p % world_size, row p // world_size. With config.accumulate the batch
    is the anchor's part, an interval of the global batch.
    """
    if config.loss.num_negatives == 0:
        return None
    part = len(batch.labels) // config.accumulate
    rows = torch.arange(len(batch.labels)).numpy() % part
    gathered = config.loss.negatives == "global"
    epoch, ids = plan.sampler.batch(step)
    negatives = sample_negatives(
        seed=config.seed,
        epoch=epoch,
        sample_ids=ids[world.rank :: world.size],
        positions=rows * world.size + world.rank if gathered else rows,
        num_candidates=part * world.size if gathered else part,
        num_negatives=config.loss.num_negatives,
        num_online=config.recipe.num_views,
        num_target=config.recipe.num_large,
    )
    chosen = torch.from_numpy(negatives)
    if world.device.type == "cuda":
        chosen = chosen.pin_memory()  # else the copy waits for the steps that the GPU has before it
    return chosen.to(batch.large.device, non_blocking=True)
