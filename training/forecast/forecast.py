"""The forecast of a run: counted, rehearsed, and compared with what the machine has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from model import checkpoint
from pipeline.shards import Shards, open_shards
from training.config import TrainConfig
from training.forecast.footprint import Footprint
from training.forecast.memory import MemoryPlan
from training.forecast.obstacles import Obstacles, obstacles_of
from training.forecast.operations import (
    count_parameters,
    forward_operations,
    operations_per_image,
)
from training.forecast.rehearsal import Failed, Rehearsal, Run, rehearse
from training.forecast.room import Room, nearest_folder, room_here
from training.monitor import num_measured
from training.plan import Plan

# Operations of a step that a CPU is asked to rehearse: some ten seconds on two cores.
_CPU_STEP_OPERATIONS = 3e12
_SHARE_OF_ROOM = 0.8  # that a rehearsal may fill, by count


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a run will take; None where it is not known."""

    name: str
    processes: int
    device: str
    num_samples: int
    global_batch_size: int
    steps_per_epoch: int
    steps: int  # of the whole run
    done: int  # that a checkpoint in --out has
    parameters: dict[str, int]
    operations_per_image: float
    counted: MemoryPlan  # bytes of one process
    rehearsal: Rehearsal | None
    host_bytes: float | None  # of all processes
    device_bytes: float | None  # of each GPU
    disk_bytes: float | None  # of the run directory
    room: Room
    images_per_second: float | None
    days: float | None  # for the steps that are left
    obstacles: Obstacles


def forecast(
    run: Run,
    config: TrainConfig,
    data: Path,
    out: Path,
    plan: Plan,
    *,
    device_type: str,
    size: int,
    tell: Callable[[str], object],
) -> Forecast:
    """Count, rehearse and compare. Nothing is left in `out`.

    Args:
        run: train.py's own, `run(world, config, data, out) -> status`.
        plan: of this run, checked for `size` processes.
    """
    room = room_here(out, device_type=device_type)
    shards = open_shards(data)
    try:
        footprint = Footprint(config, shards, size, on_gpu=device_type == "cuda")
        rehearsal: Rehearsal | None = None
        failure = "even a smaller batch does not fit into memory; nothing was rehearsed"
        if trial := _trial(config, plan, footprint, room, size):
            near = nearest_folder(out)
            try:
                rehearsal = rehearse(
                    run, trial, data, device_type=device_type, size=size, near=near, tell=tell
                )
                failure = ""
            except Failed as error:
                failure = str(error)
        host, device = footprint.of_run(rehearsal)
        disk = _disk(config, plan, rehearsal)
        done = checkpoint.completed_steps(out)
        rate = rehearsal.images_per_second if rehearsal else None
        return Forecast(
            name=config.name,
            processes=size,
            device=device_type,
            num_samples=len(shards),
            global_batch_size=config.global_batch_size,
            steps_per_epoch=plan.sampler.steps_per_epoch,
            steps=plan.end_step,
            done=done,
            parameters=count_parameters(config),
            operations_per_image=operations_per_image(footprint.config),
            counted=footprint.counted(config.global_batch_size),
            rehearsal=rehearsal,
            host_bytes=host,
            device_bytes=device,
            disk_bytes=disk,
            room=room,
            images_per_second=rate,
            days=_work(config, plan, shards, done=done, size=size) / rate / 86_400
            if rate
            else None,
            obstacles=obstacles_of(
                failure=failure,
                host=host,
                device=device,
                disk=disk,
                room=room,
                rehearsal=rehearsal,
                data_bytes=float(np.sum(shards.stored_bytes)),
                num_samples=len(shards),
                max_bad=config.loader.max_bad,
            ),
        )
    finally:
        shards.close()


def _trial(
    config: TrainConfig, plan: Plan, footprint: Footprint, room: Room, size: int
) -> TrainConfig | None:
    """The run with a batch that can be rehearsed: halved while it is too much, if it can be.

    None: it does not fit into memory, however small.
    """
    operations = operations_per_image(footprint.config)
    on_cpu = room.device is None
    trial = config
    while True:
        batch = trial.global_batch_size
        fits = footprint.fits(batch, room, share=_SHARE_OF_ROOM)
        if fits and (not on_cpu or operations * batch <= _CPU_STEP_OPERATIONS):
            return trial
        smaller = replace(trial, global_batch_size=batch // 2)
        if batch % 2 or not _is_possible(smaller, plan, size):
            return trial if fits else None
        trial = smaller


def _is_possible(config: TrainConfig, plan: Plan, size: int) -> bool:
    try:
        plan.check_world(config, size)
    except ValueError:
        return False
    return True


def _work(config: TrainConfig, plan: Plan, shards: Shards, *, done: int, size: int) -> float:
    """What is left to do, in pictures of a step with views of the full size.

    Epochs with smaller views count by their operations, and so do the kNN's forward passes, for
    which all processes wait.
    """
    whole = operations_per_image(replace(config, recipe=config.recipe.full_size))
    per_epoch = plan.sampler.steps_per_epoch
    work = 0.0
    for epoch in range(done // per_epoch, -(-plan.end_step // per_epoch)):
        steps = min((epoch + 1) * per_epoch, plan.end_step) - max(epoch * per_epoch, done)
        share = 1.0
        if epoch < config.recipe.progressive_epochs:
            share = operations_per_image(replace(config, recipe=config.recipe.at(epoch))) / whole
        work += share * steps * config.global_batch_size
        if config.monitor_every and (epoch + 1) % config.monitor_every == 0:
            (forward,) = forward_operations(config.model.encoder, config.recipe.large_size)
            work += size * num_measured(shards, config) * forward / whole
    return work


def _disk(config: TrainConfig, plan: Plan, rehearsal: Rehearsal | None) -> float | None:
    """Bytes of checkpoints: those kept, one that is being written, and milestones."""
    if rehearsal is None:
        return None
    epochs = plan.end_step // plan.sampler.steps_per_epoch
    milestones = epochs // config.milestone_every if config.milestone_every else 0
    return float(rehearsal.saved_bytes * (config.keep_checkpoints + 1 + milestones))
