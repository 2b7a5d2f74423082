"""One loader of the simulation: a process that takes its batches at a pace, and counts.

It stands where a training process stands: rank r of N on this machine, on its share of the cores,
with the loader of train.py. Where the step would be, it sleeps.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from bench.certificate.schedule import SETTLE
from bench.certificate.throttle import ThrottledShards
from bench.training_rungs import ENDLESS
from pipeline.augment.params import ViewParams
from pipeline.batch import DecodedBatch, MultiCropBatch
from pipeline.loader import MultiCropLoader, training_views
from pipeline.sampler import Sampler
from pipeline.shards import Shards, open_shards
from training.affinity import share_of_cores
from training.allocator import keep_freed_memory
from training.config import TrainConfig

Take = Callable[[], int]  # takes a batch, returns its images

_LATE = 0.002  # seconds that a sleep may overshoot without being called late


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What all loaders of one measurement do."""

    loaders: int
    pace: float  # seconds of a step; 0: take what comes
    warm_up: float  # seconds of taking what comes, uncounted: no batch lies ready after it
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """Of one loader in the counted time."""

    images: int
    seconds: float
    waited: float  # seconds without a batch
    cpu_seconds: float  # of the whole process


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """What a loader reads and makes."""

    config: TrainConfig  # its global batch is ignored
    data: Path
    batch: int  # of each loader
    views_here: bool  # else a GPU makes them: the cores read, decode and draw params
    images_per_second: float | None  # that storage gives to each loader; None: what it gives


def serve(orders: Connection, feed: Feed, rank: int) -> None:
    """The process: one trial after another, until the orders end."""
    keep_freed_memory()
    torch.set_num_threads(1)
    cores = os.sched_getaffinity(0)
    shards = ThrottledShards(open_shards(feed.data))
    try:
        orders.send("ready")
        while True:
            trial: Trial = orders.recv()
            own = share_of_cores(cores, local_rank=rank, near=[], local_size=trial.loaders)
            os.sched_setaffinity(0, own)
            if feed.images_per_second is not None:
                shards.images_per_second = feed.images_per_second / trial.loaders
            with open_loader(shards, feed, rank, trial.loaders) as loader:
                orders.send("ready")
                orders.recv()  # all of them begin together
                counted = consume(partial(_take, iter(loader)), trial)
            orders.send(counted)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
    finally:
        shards.close()


def consume(take: Take, trial: Trial) -> Counted:
    """Take batches as a training does whose steps last `pace`: none sooner, late ones later.

    Some steps at that pace pass uncounted first: in them a loader that keeps up fills its queues.
    """
    begin = time.perf_counter()
    while time.perf_counter() - begin < trial.warm_up:
        take()
    _paced(take, trial.pace, lambda steps, _: steps < SETTLE)
    return _paced(take, trial.pace, lambda _, seconds: seconds < trial.seconds)


def _paced(take: Take, pace: float, goes_on: Callable[[int, float], bool]) -> Counted:
    """Take batches at a pace while `goes_on(steps, seconds)`."""
    steps, images, waited, cpu = 0, 0, 0.0, time.process_time()
    # since the start: a clock of many hours rounds each pace, and hundreds of them add up
    start, due = time.perf_counter(), 0.0
    while goes_on(steps, due):
        asked = time.perf_counter()
        images += take()
        now = time.perf_counter()
        waited += now - asked
        due = max(due, now - start - _LATE) + pace
        time.sleep(max(0.0, start + due - time.perf_counter()))
        steps += 1
    return Counted(
        images=images,
        seconds=due,
        waited=waited,
        cpu_seconds=time.process_time() - cpu,
    )


def _take(batches: Iterator[MultiCropBatch]) -> int:
    return len(next(batches).labels)


def open_loader(shards: Shards, feed: Feed, rank: int, loaders: int) -> MultiCropLoader:
    """The loader of rank `rank` of `loaders` on this machine."""
    config = feed.config
    sampler = Sampler(
        num_samples=len(shards), global_batch_size=feed.batch * loaders, seed=config.seed
    )
    here = feed.views_here
    return training_views(
        shards,
        recipe=config.recipe,
        sampler=sampler,
        seed=config.seed,
        config=config.loader.for_device(torch.device("cpu")) if here else config.loader,
        end_step=ENDLESS,
        rank=rank,
        world_size=loaders,
        local_size=loaders,
        executor=None if here else _MadeElsewhere(),
    )


class _MadeElsewhere:
    """Stands for an executor on a GPU: costs the cores nothing, hands over no pixels."""

    def __call__(self, decoded: DecodedBatch, params: ViewParams) -> MultiCropBatch:
        nothing = torch.empty(0, len(decoded.labels), 3, 0, 0)
        return MultiCropBatch(
            large=nothing,
            small=nothing,
            labels=decoded.labels.clone(),  # the slot is lent again
            sample_ids=decoded.sample_ids,
            epoch=decoded.epoch,
        )

    def close(self) -> None:
        """It holds nothing."""
