"""The figures of a log line: losses from the device, rates from the clock and the loader."""

from __future__ import annotations

import math
import time
from typing import Any

from model.loss import LossTerms
from pipeline.loader import MultiCropLoader
from training.config import TrainConfig
from training.launch import World
from training.plan import Plan


class Diverged(RuntimeError):
    """The loss is no number any more."""


class Meter:
    """Turns the loader's totals and the clock into the figures of a log line."""

    def __init__(self, loader: MultiCropLoader, world: World) -> None:
        self._loader = loader
        self._world_size = world.size
        self.restart()

    def restart(self) -> None:
        """Begin the next log line's time now."""
        self._last = (time.perf_counter(), self._loader.stats())

    def read(self, terms: LossTerms, config: TrainConfig, plan: Plan, step: int) -> dict[str, Any]:
        """Return the values of the steps since the last call. Waits for the device."""
        loss = float(terms.total)
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss is {loss} after step {step}; the last checkpoint is kept. Lower "
                "optimizer.base_learning_rate or raise loss.temperature, and start again"
            )
        then, before = self._last
        self.restart()
        now, stats = self._last
        images = (stats.images - before.images) * self._world_size
        return {
            "epoch": step / plan.sampler.steps_per_epoch,
            "loss": loss,
            "contrastive": float(terms.contrastive),
            "invariance": float(terms.invariance),
            "accuracy": float(terms.accuracy),
            "learning_rate": plan.learning_rate(config, step - 1),
            "target_decay": plan.target_decay(config, step - 1),
            "images_per_second": images / (now - then),
            "wait_share": (stats.wait_seconds - before.wait_seconds) / (now - then),
            "queue_occupancy": stats.occupancy,
            "decode_seconds": stats.busy.get("decode", 0.0) - before.busy.get("decode", 0.0),
            "augment_seconds": stats.busy.get("augment", 0.0) - before.busy.get("augment", 0.0),
            "bad_samples": stats.bad_samples,
        }
