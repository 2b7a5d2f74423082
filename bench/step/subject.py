"""What is measured: train.py's step on views that lie on the device, and the bare networks.

No data are read: the views are noise, and the sampler, which the ids of the negatives come from, is
that of a made-up data set.

Shapes: L large views, S small views, V = L + S, B batch, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import train
from bench.trainer import Trainer
from model.relicv2 import ReLICv2
from pipeline.batch import MultiCropBatch
from pipeline.sampler import Sampler
from training.config import TrainConfig
from training.plan import Plan

STEPS_PER_EPOCH = 1_000


class Subject:
    """One model with its optimizer, and a batch of views on the device.

    Raises:
        ValueError: the configuration cannot be trained by one process.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self._trainer = Trainer(config, plan_of(config), device)
        self._batch = resident_batch(config, device)
        self._weights = torch.ones(
            config.global_batch_size, config.model.embedding_size, device=device
        )
        self.plan.sampler.batch(0)  # an epoch's order is worked out once: not in a step here

    @property
    def model(self) -> ReLICv2:
        return self._trainer.model

    @property
    def plan(self) -> Plan:
        return self._trainer.plan

    @property
    def bytes_per_image(self) -> float:
        """Of its views, which a step reads once at least."""
        return float(self.config.recipe.values_per_image * self._batch.large.element_size())

    def step(self) -> None:
        """One update, as a training does it: nothing is read back."""
        self._trainer.step(self._batch)

    def bare(self) -> None:
        """Forward and backward of the same networks at the same batch, and nothing else.

        The same networks: target's encoder and projector forward, without gradient, on each of the
        L large views; online's encoder, projector and predictor forward and backward on each of
        the V views. BatchNorm and ReLU are in them, types and memory layout are those of the step.
        Nothing else: no normalisation of embeddings, no loss (backward begins from a constant), no
        negatives, no guard, no optimizer, no target update. Gradients begin as None, as after
        `zero_grad()`, and are dropped with the next step.
        """
        for parameter in self.model.online.parameters():
            parameter.grad = None
        for view in self._batch.large:
            with self._autocast(), torch.no_grad():
                self.model.target.projector(self.model.target.encoder(view))
        online = self.model.online
        for view in (*self._batch.large, *self._batch.small):
            with self._autocast():
                output = online.predictor(online.projector(online.encoder(view)))
            output.backward(self._weights.to(output.dtype))

    @contextmanager
    def marking(self, mark: Callable[[], object]) -> Iterator[None]:
        """Call `mark` four times in each step: after backward, before the optimizer (the gradients
        have been looked through), after it, and after target and statistics.
        """
        guard, optimizer = self._trainer.guard, self._trainer.optimizer
        update = guard.update

        def hook(*_: object) -> None:
            mark()

        def marked_update(*arguments: Any) -> None:
            mark()
            update(*arguments)
            mark()

        hooks = [
            optimizer.register_step_pre_hook(hook),
            optimizer.register_step_post_hook(hook),
        ]
        guard.update = marked_update
        try:
            yield
        finally:
            del guard.update  # the class's own again
            for handle in hooks:
                handle.remove()

    def finish(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _autocast(self) -> torch.autocast:
        half = train.views_dtype(self.config, self.device) == torch.bfloat16
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half)


def plan_of(config: TrainConfig) -> Plan:
    """The steps of a run on made-up data, in one process.

    Raises:
        ValueError: such a run cannot be.
    """
    sampler = Sampler(
        num_samples=STEPS_PER_EPOCH * config.global_batch_size,
        global_batch_size=config.global_batch_size,
        seed=config.seed,
    )
    plan = Plan.along(sampler, config)
    plan.check_world(config, 1)
    return plan


def resident_batch(config: TrainConfig, device: torch.device) -> MultiCropBatch:
    """Noise in the shape, type and memory layout in which executors leave views on this device."""
    generator = torch.Generator(device).manual_seed(config.seed)
    recipe, batch = config.recipe, config.global_batch_size
    on_gpu = device.type == "cuda"
    dtype = train.views_dtype(config, device) if on_gpu else torch.float32

    def views(count: int, size: int) -> Tensor:
        shape = (count, batch, size, size, 3) if on_gpu else (count, batch, 3, size, size)
        noise = torch.randn(shape, generator=generator, device=device, dtype=dtype)
        return noise.permute(0, 1, 4, 2, 3) if on_gpu else noise

    return MultiCropBatch(
        large=views(recipe.num_large, recipe.large_size),
        small=views(recipe.num_small, recipe.small_size),
        labels=torch.zeros(batch, dtype=torch.int64),
        sample_ids=torch.arange(batch).numpy(),
        epoch=0,
    )
