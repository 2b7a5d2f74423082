"""Rungs with threads and training: `loader`, `model` and `step`; train.py's own parts, unchanged.

`model` is SYNTHETIC: the training step on views that are made already and lie on the device, so
that the pipeline costs nothing. `step` is FULL: the same step fed by the loader. What the pipeline
takes from the training, waiting and sharing the device alike, is the difference.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import train
from bench.harness import Built
from bench.pictures import generated
from bench.stages import Task, executor_of
from bench.streams import Stream, mean_seconds, wait_until_quiet
from bench.trainer import Trainer
from pipeline.augment.params import sample_view_params
from pipeline.batch import MultiCropBatch
from pipeline.loader import MultiCropLoader, training_views
from pipeline.shards import Shards, open_shards
from training.plan import Plan, sampler_of

ENDLESS = 1_000_000_000  # steps
# Batches between the disk and the queue of views: 3 read, 3 decoded, one made.
_IN_STAGES = 7


def open_loader(task: Task, shards: Shards) -> MultiCropLoader:
    """The real loader, as train.py opens it, without an end."""
    config = task.config
    return training_views(
        shards,
        recipe=config.recipe,
        sampler=sampler_of(config, shards),
        seed=config.seed,
        config=config.loader,
        end_step=ENDLESS,
        device=task.device,
        dtype=train.views_dtype(config, task.device),
    )


def batches_ahead(task: Task) -> int:
    """The most batches that the loader holds when nobody takes any."""
    return task.config.loader.prefetch + _IN_STAGES


def loader_stream(task: Task) -> Stream:
    """Rung `loader`: bytes on disk to views on the device, threads and all."""
    shards = open_shards(task.data)
    loader = open_loader(task, shards)
    return Stream(
        batches=(([*batch.large, *batch.small], batch.labels) for batch in loader),
        ahead=batches_ahead(task),
        note=f"decoder {task.config.loader.decoder}, executor {task.config.loader.executor}",
        finish=_waiting_for(task.device),
        close=_closing(loader.close, shards.close),
    )


def model_alone(task: Task) -> Built:
    """Rung `model`."""
    trainer = Trainer(task.config, plan_of(task), task.device)
    views = resident_views(task)

    def run() -> float:
        return mean_seconds(lambda: trainer.step(views), finish=_waiting_for(task.device))

    return Built(run=run)


def full_step(task: Task) -> Built:
    """Rung `step`."""
    trainer = Trainer(task.config, plan_of(task), task.device)
    shards = open_shards(task.data)
    loader = open_loader(task, shards)
    batches = iter(loader)
    finish = _waiting_for(task.device)

    def run() -> float:
        for _ in range(batches_ahead(task)):  # until the queue is as full as it stays
            trainer.step(next(batches))
        finish()
        mean = mean_seconds(lambda: trainer.step(next(batches)), finish=finish)
        wait_until_quiet()
        return mean

    return Built(run=run, close=_closing(loader.close, shards.close))


def plan_of(task: Task) -> Plan:
    """The run's plan.

    Raises:
        ValueError: as train.py, for a configuration that cannot be trained on these shards.
    """
    shards = open_shards(task.data)
    try:
        with tempfile.TemporaryDirectory() as folder:  # a plan asks for a place of its run
            plan = Plan.of(task.config, shards, Path(folder))
        plan.check_world(task.config, 1)
        return plan
    finally:
        shards.close()


def resident_views(task: Task) -> MultiCropBatch:
    """A batch of views of generated pictures, on the device."""
    pictures, config = generated(task.batch_size), task.config
    images = pictures.decoded.images
    params = sample_view_params(
        config.recipe,
        seed=config.seed,
        epoch=0,
        sample_ids=np.arange(task.batch_size),
        heights=images.heights.numpy(),
        widths=images.widths.numpy(),
        mask_coverage=pictures.mask_coverage,
    )
    executor = executor_of(task)
    batch = executor(pictures.decoded, params)
    _waiting_for(task.device)()
    executor.close()
    large, small = (views.to(task.device) for views in (batch.large, batch.small))
    return replace(batch, large=large, small=small)


def _waiting_for(device: torch.device) -> Callable[[], object]:
    if device.type != "cuda":
        return tuple
    return lambda: torch.cuda.synchronize(device)


def _closing(*several: Callable[[], object]) -> Callable[[], object]:
    def close() -> None:
        for each in several:
            each()

    return close
