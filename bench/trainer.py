"""train.py's step for one process, step after step: what rungs and the step's benchmark measure."""

from __future__ import annotations

import torch

import train
from model.guard import Guard
from pipeline.batch import MultiCropBatch
from training.config import TrainConfig
from training.launch import World
from training.plan import Plan


class Trainer:
    """Model, optimizer and guard of a run, on one device."""

    def __init__(self, config: TrainConfig, plan: Plan, device: torch.device) -> None:
        self.config, self.plan = config, plan
        self._world = World(device=device)
        self.model, self.optimizer = train.build(config, self._world)
        self.guard = Guard(self.model, remembered=config.log_every)
        self._count = 0

    def step(self, batch: MultiCropBatch) -> None:
        """One update; the schedules start anew after the last step of the run."""
        number = self._count % self.plan.total_steps
        train.train_step(
            self.model,
            self.optimizer,
            batch,
            self.config,
            self.plan,
            number,
            self._world,
            self.guard,
        )
        self._count += 1
