"""The figures of a log line: losses from the device, rates from the clock and the loader.

Called on every rank at the same steps: losses and bad samples are those of all ranks together.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
import torch.distributed as dist

from model.loss import LossTerms
from pipeline.loader import MultiCropLoader
from pipeline.loader.decode import TooManyBadSamples, too_many
from training.config import TrainConfig
from training.launch import World
from training.plan import Plan


class Diverged(RuntimeError):
    """The loss is no number any more."""


class Meter:
    """Turns the loader's totals and the clock into the figures of a log line."""

    def __init__(self, loader: MultiCropLoader, world: World) -> None:
        self._loader = loader
        self._world = world
        self.bad_samples: dict[int, str] = {}  # of all ranks, by sample id
        self.restart()

    def restart(self) -> None:
        """Begin the next log line's time now."""
        self._last = (time.perf_counter(), self._loader.stats())

    def read(self, terms: LossTerms, config: TrainConfig, plan: Plan, step: int) -> dict[str, Any]:
        """Return the values of the steps since the last call. Waits for the device."""
        self._collect_bad_samples(config.loader.max_bad)
        loss, contrastive, invariance, accuracy = self._averaged(terms)
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss is {loss} after step {step}; the last checkpoint is kept. Lower "
                "optimizer.base_learning_rate or raise loss.temperature, and start again"
            )
        then, before = self._last
        self.restart()
        now, stats = self._last
        images = (stats.images - before.images) * self._world.size
        return {
            "epoch": step / plan.sampler.steps_per_epoch,
            "loss": loss,
            "contrastive": contrastive,
            "invariance": invariance,
            "accuracy": accuracy,
            "learning_rate": plan.learning_rate(config, step - 1),
            "target_decay": plan.target_decay(config, step - 1),
            "images_per_second": images / (now - then),
            "wait_share": (stats.wait_seconds - before.wait_seconds) / (now - then),
            "queue_occupancy": (stats.places_filled - before.places_filled)
            / max(stats.places_asked - before.places_asked, 1),
            "decode_seconds": stats.busy.get("decode", 0.0) - before.busy.get("decode", 0.0),
            "augment_seconds": stats.busy.get("augment", 0.0) - before.busy.get("augment", 0.0),
            "bad_samples": len(self.bad_samples),
        }

    def _averaged(self, terms: LossTerms) -> list[float]:
        values = torch.stack([terms.total, terms.contrastive, terms.invariance, terms.accuracy])
        if self._world.size > 1:
            dist.all_reduce(values)
            values /= self._world.size
        return [float(value) for value in values.tolist()]

    def _collect_bad_samples(self, budget: int) -> None:
        """Learn of the bad samples of all ranks.

        Raises:
            TooManyBadSamples: together they are more than the budget; on every rank alike.
        """
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
            raise TooManyBadSamples(too_many(self.bad_samples, budget))
