"""The forecast of a run: counted, rehearsed, and compared with what the machine has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from model import checkpoint
from pipeline.shards import Shards, open_shards
from pipeline.shards.described import mask_summary
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
from training.forecast.room import Room, room_here, writable_beside
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
    masks: str  # a sentence: how many samples have one
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
    disk_bytes: float | None  # that checkpoints will take beyond those that are there
    room: Room
    images_per_second: float | None
    days: float | None  # for the steps that are left
    obstacles: Obstacles


def make_forecast(
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
            near = writable_beside(out)
            try:
                rehearsal = rehearse(
                    run, trial, data, device_type=device_type, size=size, near=near, tell=tell
                )
                failure = ""
            except Failed as error:
                failure = str(error)
        host, device = footprint.of_run(rehearsal)
        parameters = count_parameters(config)
        done = checkpoint.completed_steps(out)
        disk = _disk(config, plan, rehearsal, out, done=done, encoder=4 * parameters["encoder"])
        mean = rehearsal.images_per_second_mean if rehearsal else None
        return Forecast(
            name=config.name,
            processes=size,
            device=device_type,
            num_samples=len(shards),
            masks=mask_summary(shards.manifest, config.recipe),
            global_batch_size=config.global_batch_size,
            steps_per_epoch=plan.sampler.steps_per_epoch,
            steps=plan.end_step,
            done=done,
            parameters=parameters,
            operations_per_image=operations_per_image(footprint.config),
            counted=footprint.counted(config.global_batch_size),
            rehearsal=rehearsal,
            host_bytes=host,
            device_bytes=device,
            disk_bytes=disk,
            room=room,
            images_per_second=rehearsal.images_per_second if rehearsal else None,
            days=_work(config, plan, shards, done=done, size=size) / mean / 86_400
            if mean
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
    shared = size * config.accumulate  # a batch is a multiple of it
    trial = config
    while True:
        batch = trial.global_batch_size
        fits = footprint.fits(batch, room, share=_SHARE_OF_ROOM)
        if fits and (not on_cpu or operations * batch <= _CPU_STEP_OPERATIONS):
            return trial
        half = batch // 2 // shared * shared
        smaller = replace(trial, global_batch_size=half) if half else None
        if smaller is None or not _is_possible(smaller, plan, size):
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
    if measured := num_measured(shards, config):
        (forward,) = forward_operations(config.model.encoder, config.recipe.large_size)
        every = config.monitor_every * per_epoch
        times = plan.end_step // every - done // every
        times += plan.end_step % every > 0 and done < plan.end_step  # and at the end
        times += done == 0  # and of the untrained encoder
        work += times * size * measured * forward / whole
    return work


def _disk(
    config: TrainConfig,
    plan: Plan,
    rehearsal: Rehearsal | None,
    out: Path,
    *,
    done: int,
    encoder: int,
) -> float | None:
    """Bytes that a run adds to its directory: checkpoints that it keeps, one that is being written,
    and an encoder beside each milestone and at the end, less what lies there.
    """
    if done == plan.end_step:
        return 0.0
    if rehearsal is None:
        return None
    end = plan.end_step
    every, long = config.checkpoint_every, config.milestone_every * plan.sampler.steps_per_epoch
    milestones = set(range(long, end + 1, long)) if long else set()
    saved = sorted(milestones | {end, *range(every, end + 1, every)})
    kept = milestones | set(saved[-config.keep_checkpoints :])
    there = sum(
        path.stat().st_size
        for kind in ("checkpoint", "encoder")
        for path in out.glob(f"{kind}*.pt")
    )
    needs = rehearsal.saved_bytes * (len(kept) + 1) + encoder * (len(milestones) + 1)
    return max(float(needs - there), 0.0)
