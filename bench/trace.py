"""What the training would see: sample ids and a hash of every view's pixels, step by step.

Each process streams its own share with the same loader that train.py uses; the shares are merged
into global steps. Order, resume and independence of world size can so be checked from outside.

Shapes: V views (large first), G global batch.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.batch import MultiCropBatch
from pipeline.loader import training_views
from pipeline.shards import open_shards
from training.config import TrainConfig
from training.plan import sampler_of

Row = tuple[int, int, list[str]]  # sample id, epoch, a hash for each view


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceRequest:
    """Which steps to trace, in how many processes."""

    data: Path
    config: TrainConfig
    start_step: int
    num_steps: int
    processes: int


def trace(request: TraceRequest) -> dict[str, Any]:
    """Return {"steps": [{step, epoch, sample_ids [G], views [G][V], digest}], "digest"}.

    Raises:
        ValueError: unreadable shards, or a global batch that the processes do not divide.
    """
    size = request.processes
    batch = request.config.global_batch_size
    if batch % size:
        raise ValueError(f"global_batch_size={batch} cannot be divided among {size} processes")
    # A bad folder, too few samples, a step beyond the last epoch: reported here, in one line.
    shards = open_shards(request.data)
    sampler_of(request.config, shards).batch(request.start_step + request.num_steps - 1)
    shards.close()
    if size == 1:
        shares = [trace_rank(request, 0)]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(size, mp_context=context) as pool:
            shares = list(pool.map(partial(trace_rank, request), range(size)))
    steps = [
        _merged(request.start_step + number, [share[number] for share in shares])
        for number in range(request.num_steps)
    ]
    return {"steps": steps, "digest": _digest(step["digest"] for step in steps)}


def trace_rank(request: TraceRequest, rank: int) -> list[list[Row]]:
    """Return the rows of each step that one rank sees."""
    torch.set_num_threads(1)
    config = request.config
    shards = open_shards(request.data)
    with training_views(
        shards,
        recipe=config.recipe,
        sampler=sampler_of(request.config, shards),
        seed=config.seed,
        config=config.loader,
        start_step=request.start_step,
        end_step=request.start_step + request.num_steps,
        rank=rank,
        world_size=request.processes,
        local_size=request.processes,
    ) as views:
        return [rows_of(batch) for batch in views]


def rows_of(batch: MultiCropBatch) -> list[Row]:
    """What a batch on the CPU holds, sample by sample."""
    views = [*batch.large, *batch.small]
    return [
        (int(sample_id), batch.epoch, [_hash(view[row]) for view in views])
        for row, sample_id in enumerate(batch.sample_ids)
    ]


def _hash(view: torch.Tensor) -> str:
    return hashlib.sha256(view.contiguous().numpy().tobytes()).hexdigest()[:16]


def _merged(step: int, shares: list[list[Row]]) -> dict[str, Any]:
    """Interleave the shares of all ranks: row r of rank k is sample k + r * world_size."""
    rows = [row for group in zip(*shares, strict=True) for row in group]
    return {
        "step": step,
        "epoch": rows[0][1],
        "sample_ids": [row[0] for row in rows],
        "views": [row[2] for row in rows],
        "digest": _digest(f"{row[0]}:{':'.join(row[2])}" for row in rows),
    }


def _digest(parts: Any) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
