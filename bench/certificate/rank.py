"""What one process of the certificate does: FULL and SYNTHETIC in turn, reading alone, cold pages.

Gives raw figures; bench/certificate/report.py makes lines of them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import train
from bench.certificate import page_cache
from bench.certificate.blocks import (
    BESIDE_COLD,
    COLD,
    FULL,
    SYNTHETIC,
    Block,
    Counter,
    Source,
    wait_until_asleep,
)
from bench.certificate.cores import Cores, pinned_to
from bench.certificate.schedule import RESUME, SETTLE, WARMUP, Schedule
from bench.certificate.throttle import ThrottledShards
from bench.certificate.trainee import Trainee, number_kept, own
from bench.harness import tell
from model.distributed import barrier
from pipeline.batch import MultiCropBatch
from pipeline.loader import AHEAD, MultiCropLoader
from pipeline.readahead import Share, upcoming
from pipeline.shards import ReadMemory, Shards
from training.config import TrainConfig
from training.launch import World
from training.plan import Plan

_LINES = 10  # of progress
_IO_SECONDS, _IO_BATCHES = 3.0, 200  # of reading alone


class Rank:
    """Measures in one process of the world."""

    def __init__(
        self,
        world: World,
        config: TrainConfig,
        plan: Plan,
        schedule: Schedule,
        cores: Cores,
        shards: Shards,
        folder: Path,
        *,
        throttle: float,
    ) -> None:
        self._world, self._config, self._plan = world, config, plan
        self._schedule, self._cores, self._throttle = schedule, cores, throttle
        self._shards = ThrottledShards(shards)
        self._trainee = Trainee(config, plan, world, folder)
        self._counter = Counter(self._trainee, world.device)
        self._kept: list[tuple[int, MultiCropBatch]] = []
        self._blocks: list[Block] = []

    def measure(self, files: list[Path]) -> dict[str, Any]:
        """Measure everything; `files` are those that the shards are read from."""
        self._take_turns()
        reading = self._reading_alone(files)
        cold = self._cold_pass(files)
        return {
            "rank": self._world.rank,
            "images_per_step": self._images,
            "blocks": [asdict(block) for block in self._blocks],
            "reading": reading,
            "cold": cold,
        }

    def _take_turns(self) -> None:
        schedule = self._schedule
        with self._open_views(schedule.start_step, schedule.end_step) as loader:
            views: Source = enumerate(loader, schedule.start_step)
            self._warm_up(views)
            synthetic: Source = itertools.cycle(self._kept)
            for number in range(schedule.blocks):
                self._synthetic_block(SYNTHETIC, synthetic, loader, number)
                _take(views, schedule.drain, _drop)
                _take(views, SETTLE, self._trainee.step)
                self._count(FULL, views, loader, number)
            self._synthetic_block(SYNTHETIC, synthetic, loader, schedule.blocks)

    def _warm_up(self, views: Source) -> None:
        self._tell("warming up")

        def step(number: int, batch: MultiCropBatch) -> None:
            self._trainee.step(number, batch)
            if len(self._kept) < number_kept(batch, WARMUP):
                self._kept.append((number, own(batch)))

        _take(views, WARMUP, step)

    def _synthetic_block(
        self, kind: str, synthetic: Source, loader: MultiCropLoader, number: int
    ) -> None:
        """Views that lie there, a loader that sleeps: the demand that --throttle is a share of."""
        wait_until_asleep(loader)
        _take(synthetic, RESUME, self._trainee.step)
        block = self._count(kind, synthetic, loader, number)
        if self._throttle:
            self._shards.images_per_second = self._throttle * self._rate(block)

    def _count(self, kind: str, source: Source, loader: MultiCropLoader, number: int) -> Block:
        """Count one block; those of FULL and SYNTHETIC of one number write checkpoints alike."""
        schedule = self._schedule
        if kind in (FULL, SYNTHETIC):
            numbers = range(number * schedule.block, (number + 1) * schedule.block)
            block = self._counter.count(kind, source, loader, numbers, schedule.saves)
        else:
            block = self._counter.count(kind, source, loader, range(schedule.cold_steps))
        self._blocks.append(block)
        if kind == FULL and (number + 1) % -(-schedule.blocks // _LINES) == 0:
            self._tell(
                f"block {number + 1} of {schedule.blocks}: {self._rate(block):.1f} images/s a "
                f"process, waiting {block.waiting / sum(block.seconds):.1%}"
            )
        return block

    def _reading_alone(self, files: list[Path]) -> dict[str, float]:
        """Read batches of this rank as the loader's first stage does, hints and all, from the disk.

        What FULL has read lies in memory, and would say nothing of the disk.
        """
        self._tell("reading alone")
        stayed = page_cache.drop(files) if self._world.local_rank == 0 else 0.0
        barrier()
        sampler, memory = self._plan.sampler, ReadMemory()
        share = Share(
            rank=self._world.rank,
            world_size=self._world.size,
            local_size=self._world.local_size,
        )
        # from the start of an epoch, and no longer: the next would find its samples in memory
        first = -(-self._schedule.start_step // sampler.steps_per_epoch) * sampler.steps_per_epoch
        steps = range(first, first + min(_IO_BATCHES, sampler.steps_per_epoch))
        images, start = 0, time.perf_counter()
        for step in steps:
            self._shards.expect(upcoming(sampler, step, steps=steps, ahead=AHEAD, share=share))
            ids = share.of(sampler.batch(step)[1])
            self._shards.read(ids, memory)
            images += len(ids)
            if time.perf_counter() - start > _IO_SECONDS:
                break
        return {
            "images": images,
            "seconds": time.perf_counter() - start,
            "pages_stayed": stayed,
        }

    def _cold_pass(self, files: list[Path]) -> dict[str, float]:
        """The first pass over data that no page cache holds, beside a block of SYNTHETIC."""
        self._tell("first pass with a cold page cache")
        figures = _empty_page_cache(files) if self._world.local_rank == 0 else {}
        barrier()
        schedule = self._schedule
        with self._open_views(schedule.cold_start_step, schedule.last_step) as loader:
            views: Source = enumerate(loader, schedule.cold_start_step)
            _take(views, SETTLE, self._trainee.step)
            self._count(COLD, views, loader, 0)
            self._synthetic_block(BESIDE_COLD, itertools.cycle(self._kept), loader, 0)
        return figures

    def _open_views(self, start_step: int, end_step: int) -> MultiCropLoader:
        with pinned_to(self._cores.loader):  # where its threads stay
            return train.open_views(
                self._shards,
                self._config,
                self._plan,
                self._world,
                start_step=start_step,
                end_step=end_step,
            )

    @property
    def _images(self) -> int:
        return self._config.global_batch_size // self._world.size

    def _rate(self, block: Block) -> float:
        return self._images * len(block.seconds) / sum(block.seconds)

    def _tell(self, message: str) -> None:
        if self._world.is_main:
            tell(message)


def _take(source: Source, count: int, use: Callable[[int, MultiCropBatch], None]) -> None:
    for step, batch in itertools.islice(source, count):
        use(step, batch)


def _drop(step: int, batch: MultiCropBatch) -> None:
    """The views of this step are not used."""


def _empty_page_cache(files: list[Path]) -> dict[str, float]:
    page_cache.drop(files)
    rate, done = page_cache.sequential_rate(files)
    return {
        "disk_bytes_per_second": rate,
        "disk_bytes": float(done),
        "pages_stayed": page_cache.drop(files),
    }
