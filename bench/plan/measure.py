"""Costs measured on this machine, in some seconds: one core for the pipeline, all for the step.

Each stage's part of a batch is timed by itself, one after another, so that nothing overlaps. What
cores do is measured in CPU time, which others' work beside it hardly changes; what a GPU does, by
the clock.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
from torch import Tensor

import train
from bench.certificate import page_cache
from bench.certificate.cores import pinned_to
from bench.certificate.trainee import Trainee
from pipeline.augment import make_executor
from pipeline.augment.params import ViewParams, sample_view_params
from pipeline.batch import DecodedBatch, Ids, MultiCropBatch
from pipeline.loader import make_decoder
from pipeline.loader.decode import BadSamples, decode_batch, read_batch
from pipeline.loader.ring import Slot
from pipeline.sampler import make_sampler
from pipeline.shards import ReadMemory, Shards
from training.config import TrainConfig
from training.launch import World
from training.plan import Plan

_SECONDS = 3.0  # for each measurement, after a first turn that is not counted
_TURNS = 5  # at least
_MOST_IMAGES = 64  # of a batch
_UPLOAD_BYTES = 64 << 20
Turn = dict[str, float]  # stage -> seconds for one image


def pipeline_costs(
    shards: Shards, config: TrainConfig, executor: str | None, device: torch.device
) -> Turn:
    """Seconds for one image of "read", "decode" and, if an executor is named, of "augment".

    One core does the CPU's part, on data that are in the page cache. `device` is where the executor
    makes the views; on a GPU "augment" has the upload in it.
    """
    with pinned_to(frozenset([max(os.sched_getaffinity(0))])):
        stages = _Stages(shards, config, executor, device)
        try:
            return _measured(stages.turn, median)
        finally:
            stages.close()


def upload_cost(num_bytes: float, device: torch.device) -> float:
    """Seconds for `num_bytes` from pinned memory to a GPU, in large pieces."""
    host = torch.empty(_UPLOAD_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(host, device=device)

    def turn() -> Turn:
        start = time.perf_counter()
        target.copy_(host, non_blocking=True)
        _wait_for(device)
        return {"upload": (time.perf_counter() - start) * num_bytes / _UPLOAD_BYTES}

    return _measured(turn, median)["upload"]


def disk_cost(shards: Shards, config: TrainConfig) -> float:
    """Seconds for one image from the disk, in the order of the training; empties the page cache."""
    page_cache.drop([shards.path / entry.name for entry in shards.manifest.files])
    memory, ids = ReadMemory(), _batches(shards, config)
    ahead = next(ids)
    shards.expect(ahead)

    def turn() -> Turn:
        nonlocal ahead
        current, ahead = ahead, next(ids)
        start = time.perf_counter()
        shards.expect(ahead)
        shards.read(current, memory)
        return {"disk": (time.perf_counter() - start) / len(current)}

    return _measured(turn, fmean)["disk"]


def step_cost(config: TrainConfig, plan: Plan, world: World, images: int, folder: Path) -> float:
    """Seconds for one image of a training step on `images` views that are there already.

    On a CPU in seconds of one core, of all that the step keeps busy: threads that wait for others
    spin.
    """
    trainee = Trainee(config, plan, world, folder)
    batch = _resident(config, world.device, images)
    clock = time.process_time if world.device.type == "cpu" else time.perf_counter

    def turn() -> Turn:
        start = clock()
        trainee.step(0, batch)
        _wait_for(world.device)
        return {"step": (clock() - start) / images}

    return _measured(turn, median)["step"]


class _Stages:
    """Read, decode and augment in this thread, batch after batch in the training's order."""

    def __init__(
        self, shards: Shards, config: TrainConfig, executor: str | None, device: torch.device
    ) -> None:
        self._shards, self._config, self._device = shards, config, device
        self._ids = _batches(shards, config)
        self._memory = ReadMemory()
        self._bad = BadSamples(shards, budget=config.loader.max_bad)
        self._slot = Slot(torch.device("cpu"), pinned=device.type == "cuda")
        self._decoder = make_decoder(config.loader.decoder, shards, threads=1)
        self._clock = time.thread_time if device.type == "cpu" else time.perf_counter
        dtype = train.views_dtype(config, device)
        self._executor = executor and make_executor(
            executor, config.recipe, threads=1, device=device, dtype=dtype
        )

    def turn(self) -> Turn:
        """One batch."""
        ids, times = next(self._ids), [self._clock()]
        encoded = read_batch(self._shards, self._bad, sample_ids=ids, memory=self._memory)
        times.append(self._clock())
        decoded = decode_batch(
            self._shards, self._decoder, self._slot, self._bad, encoded=encoded, epoch=0
        )
        times.append(self._clock())
        if self._executor:
            self._executor(decoded, self._params(decoded))
            _wait_for(self._device)
            times.append(self._clock())
        spent = [(end - start) / len(ids) for start, end in pairwise(times)]
        return dict(zip(("read", "decode", "augment"), spent, strict=False))

    def _params(self, decoded: DecodedBatch) -> ViewParams:
        ids, shards = decoded.sample_ids, self._shards
        return sample_view_params(
            self._config.recipe,
            seed=self._config.seed,
            epoch=decoded.epoch,
            sample_ids=ids,
            heights=shards.heights[ids],
            widths=shards.widths[ids],
            mask_coverage=shards.mask_coverage[ids],
        )

    def close(self) -> None:
        self._decoder.close()
        if self._executor:
            self._executor.close()


def _measured(turn: Callable[[], Turn], middle: Callable[[list[float]], float]) -> Turn:
    """Take turns for some seconds; the first is a warm-up."""
    turn()
    turns, deadline = [], time.perf_counter() + _SECONDS
    while len(turns) < _TURNS or time.perf_counter() < deadline:
        turns.append(turn())
    return {stage: middle([each[stage] for each in turns]) for stage in turns[0]}


def _batches(shards: Shards, config: TrainConfig) -> Iterator[Ids]:
    """Sample ids in the order of the training, in batches that are soon measured."""
    order = make_sampler(
        shards.stored_bytes,
        global_batch_size=min(config.global_batch_size, _MOST_IMAGES, len(shards)),
        seed=config.seed,
        order=config.order,
    )
    return (order.batch(step)[1] for step in itertools.count())


def _resident(config: TrainConfig, device: torch.device, images: int) -> MultiCropBatch:
    """Views of noise, where and as an executor would leave them."""
    recipe, dtype = config.recipe, train.views_dtype(config, device)
    generator = torch.Generator().manual_seed(0)

    def views(count: int, side: int) -> Tensor:
        noise = torch.randn(count, images, side, side, 3, generator=generator)
        return noise.permute(0, 1, 4, 2, 3).to(device, dtype)

    return MultiCropBatch(
        large=views(recipe.num_large, recipe.large_size),
        small=views(recipe.num_small, recipe.small_size),
        labels=torch.zeros(images, dtype=torch.int64),
        sample_ids=np.arange(images),
        epoch=0,
    )


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
