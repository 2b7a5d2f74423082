"""The figures of a log line: losses from the device, rates from the clock and the loader.

Called on every rank at the same steps: losses, spread of the embeddings (of the last step, or of
its last micro-batch) and bad samples are those of all ranks together, the
loader's figures those of the rank that waits longest, for which all others wait too.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from model.collapse import embedding_std, rank_me
from model.distributed import all_gather_with_gradient
from model.guard import SkippedSteps
from model.loss import LossTerms
from pipeline.loader import MultiCropLoader
from pipeline.loader.decode import TooManyBadSamples, too_many
from pipeline.stats import OTHER_WORK, STAGES, LoaderStats, bottleneck
from training.config import TrainConfig
from training.launch import World
from training.peak_memory import peak_memory
from training.plan import Plan
from training.runlog import RunLog, SilentLog

# Of the time of the cores: a step on a CPU that loses more to other processes is slowed by them.
_DISTURBED = 0.2


class Diverged(RuntimeError):
    """Too many steps in a row were no numbers, or the weights are none."""


class Meter:
    """Turns the loader's totals and the clock into the figures of a log line.

    `fail` is told when too many samples have turned out bad, those that `log` knows included.
    """

    def __init__(
        self,
        loader: MultiCropLoader,
        world: World,
        fail: Callable[[Exception], object],
        skipped: SkippedSteps,
        log: RunLog | SilentLog,
    ) -> None:
        self._loader = loader
        self._world = world
        self._fail = fail
        self._skipped = skipped
        self._in_a_row = 0
        # of all ranks, by sample id, and sample ids by step; rank 0 knows of those before the last
        # start, too
        self.bad_samples = dict(log.bad_samples)
        self.skipped_steps = dict(log.skipped_steps)
        self.restart()

    def restart(self) -> None:
        """Begin the next log line's time now."""
        self._last = (time.perf_counter(), self._loader.stats())
        self._cores = core_seconds()

    def read(self, terms: LossTerms, config: TrainConfig, plan: Plan, step: int) -> dict[str, Any]:
        """Return the values of the steps since the last call. Waits for the device."""
        self._collect_bad_samples(config.loader.max_bad)
        self._collect_skipped_steps(plan)
        losses = self._averaged(terms)
        (then, before), cores = self._last, self._cores
        self.restart()
        now, stats = self._last
        other = other_work(cores, self._cores)
        images = (stats.images - before.images) * self._world.size
        return {
            "epoch": step / plan.sampler.steps_per_epoch,
            **{name: value for name, value in losses.items() if math.isfinite(value)},
            **self._spread(terms),
            "learning_rate": plan.learning_rate(config, step - 1),
            "target_decay": plan.target_decay(config, step - 1),
            "images_per_second": images / (now - then),
            **self._feeding(stats, before, now - then, other),
            "bad_samples": len(self.bad_samples),
            "skipped_steps": len(self.skipped_steps),
            **self._memory(),
        }

    def check_skipped(self, most: int) -> None:
        """Raise Diverged, on every rank alike, if as many steps in a row were skipped as that."""
        if self._in_a_row >= most:
            raise Diverged(
                f"the loss or a gradient was not finite in {self._in_a_row} steps in a row, up to "
                f"step {max(self.skipped_steps) + 1}, which changed nothing; the last checkpoint "
                "is kept. Lower optimizer.base_learning_rate or raise loss.temperature, and start "
                "again"
            )

    def _feeding(
        self, now: LoaderStats, before: LoaderStats, seconds: float, other: float
    ) -> dict[str, Any]:
        """Shares of the time since the last line, of the rank that waited longest for views.

        `other_work` is that of the rank that has most of it.
        """
        asked = max(now.places_asked - before.places_asked, 1)
        own = {
            "wait_share": (now.wait_seconds - before.wait_seconds) / seconds,
            "queue_occupancy": (now.places_filled - before.places_filled) / asked,
            "other_work": other,
        }
        for stage in STAGES:
            own[f"{stage}_busy"] = (now.busy[stage] - before.busy[stage]) / seconds
            own[f"{stage}_waiting"] = (now.waiting[stage] - before.waiting[stage]) / seconds
        every = self._gathered(list(own.values()))
        slowest = max(range(len(every)), key=lambda rank: every[rank][0])
        figures: dict[str, Any] = dict(zip(own, every[slowest], strict=True))
        figures["queue_occupancy"] = min(values[1] for values in every)
        figures["other_work"] = max(values[2] for values in every)
        busy = {stage: figures[f"{stage}_busy"] for stage in STAGES}
        figures["bottleneck"] = bottleneck(figures["wait_share"], busy)
        on_cpu = self._world.device.type == "cpu"
        if on_cpu and figures["bottleneck"] == "step" and figures["other_work"] > _DISTURBED:
            figures["bottleneck"] = OTHER_WORK
        return figures | ({"slowest_rank": slowest} if len(every) > 1 else {})

    def _memory(self) -> dict[str, float]:
        """The most that a process of the run has held so far."""
        own = peak_memory(self._world.device)
        every = self._gathered(list(own.values()))
        return dict(zip(own, map(max, zip(*every, strict=True)), strict=True))

    def _gathered(self, values: list[float]) -> list[list[float]]:
        """The values of every rank."""
        if self._world.size == 1:
            return [values]
        own = torch.tensor(values, dtype=torch.float64, device=self._world.device)
        every = [torch.empty_like(own) for _ in range(self._world.size)]
        dist.all_gather(every, own)
        return [one.tolist() for one in every]

    def _averaged(self, terms: LossTerms) -> dict[str, float]:
        """The means over all ranks, of the last step; no numbers where it was skipped."""
        values = torch.stack([terms.total, terms.contrastive, terms.invariance, terms.accuracy])
        if self._world.size > 1:
            dist.all_reduce(values)
            values /= self._world.size
        names = ("loss", "contrastive", "invariance", "accuracy")
        return dict(zip(names, values.tolist(), strict=True))

    def _collect_skipped_steps(self, plan: Plan) -> None:
        """Learn which steps were skipped, and whom they had: the same on every rank."""
        found = self._skipped.read()
        self._in_a_row = found.in_a_row
        for step in found.steps:
            self.skipped_steps[step] = plan.sampler.batch(step)[1].tolist()

    def _spread(self, terms: LossTerms) -> dict[str, float]:
        """How far apart the global batch's embeddings are; nothing where they are not finite."""
        if terms.embeddings is None:
            return {}
        embeddings = all_gather_with_gradient(terms.embeddings)
        figures = torch.stack([embedding_std(embeddings), rank_me(embeddings)]).tolist()
        named = zip(("embedding_std", "rank_me"), figures, strict=True)
        return {name: value for name, value in named if math.isfinite(value)}

    def _collect_bad_samples(self, budget: int) -> None:
        """Learn of the bad samples of all ranks; too many end the run, on every rank alike."""
        own = self._loader.bad_by_id
        every = [own]
        if self._world.size > 1:
            count = torch.tensor(len(own), device=self._world.device)
            dist.all_reduce(count)
            if int(count):
                every = [own] * self._world.size
                dist.all_gather_object(every, own)
        for found in every:
            self.bad_samples |= found
        if len(self.bad_samples) > budget:
            self._fail(TooManyBadSamples(too_many(self.bad_samples, budget)))


def core_seconds() -> tuple[float, float, float]:
    """Seconds so far: of all work on this process's cores, of its own, and of the cores' time.

    Zeros where the kernel does not tell.
    """
    busy = whole = 0.0
    own = os.sched_getaffinity(0)
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return 0.0, 0.0, 0.0
    for line in lines:
        name, *ticks = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in own:
            user, nice, system, idle, iowait, irq, softirq, steal = map(int, ticks[:8])
            busy += user + nice + system + irq + softirq + steal
            whole += idle + iowait
    tick = os.sysconf("SC_CLK_TCK")
    return busy / tick, time.process_time(), (busy + whole) / tick


def other_work(before: tuple[float, float, float], now: tuple[float, float, float]) -> float:
    """Return the share of the cores' time between two `core_seconds` that others have used.

    0 within less than a second of a core: the kernel counts in hundredths.
    """
    busy, own, whole = (later - earlier for later, earlier in zip(now, before, strict=True))
    return min(max((busy - own) / whole, 0.0), 1.0) if whole >= 1 else 0.0
