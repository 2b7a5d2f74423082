"""The step that is to be fed: model and optimizer as the training has them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import train
from bench.harness import tell
from model.guard import Guard
from pipeline.batch import MultiCropBatch
from training.config import TrainConfig
from training.launch import World
from training.plan import Plan

_KEPT_BYTES = 256 << 20  # of SYNTHETIC's views: more than any cache holds
_FEWEST_KEPT = 2


class Trainee:
    """One step, and a checkpoint into a folder that is thrown away later."""

    def __init__(self, config: TrainConfig, plan: Plan, world: World, folder: Path) -> None:
        self.model, self.optimizer = train.build(config, world)
        self._guard = Guard(self.model, remembered=config.log_every)
        self._writer = train.open_writer(folder, config, plan, world, tell, _raise)
        self._config, self._plan, self._world = config, plan, world
        self._done = 0

    def step(self, step: int, batch: MultiCropBatch) -> None:
        """One update; as often as the training writes a log line, its loss is read.

        Raises:
            ValueError: the loss is no number.
        """
        terms = train.train_step(
            self.model,
            self.optimizer,
            batch,
            self._config,
            self._plan,
            step,
            self._world,
            self._guard,
        )
        self._done += 1
        if self._done % self._config.log_every == 0 and not math.isfinite(float(terms.total)):
            raise ValueError(
                f"the loss is no number after {self._done} steps; a certificate needs settings "
                "that train: lower optimizer.base_learning_rate"
            )

    def save(self) -> None:
        """Save a checkpoint as the training does; the folder keeps as many as the settings say."""
        self._writer.save(self._done, self.model, self.optimizer)

    def finish_saving(self) -> None:
        """Wait until it is written."""
        self._writer.wait()


def _raise(error: Exception) -> None:
    raise error


def number_kept(batch: MultiCropBatch, most: int) -> int:
    """How many batches SYNTHETIC goes through in turn: so many that no cache holds them."""
    size = sum(views.numel() * views.element_size() for views in (batch.large, batch.small))
    return max(_FEWEST_KEPT, min(most, -(-_KEPT_BYTES // size)))


def own(batch: MultiCropBatch) -> MultiCropBatch:
    """The same views in memory that no loader lends again, where they are, laid out as they are."""
    return replace(batch, large=batch.large.clone(), small=batch.small.clone())
