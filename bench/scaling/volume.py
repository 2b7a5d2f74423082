"""What one process sends in a step: counted from the networks, nothing is run.

Shapes: V online views, L large views, C channels of a BatchNorm layer, B local batch, W processes,
D embedding, k parts of a batch (`accumulate`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from model.reduction import FlatGradients
from model.relicv2 import ReLICv2, ReLICv2Config
from training.config import TrainConfig

SUM, GATHER = "all_reduce", "all_gather"
_FLOAT = 4  # bytes: statistics, embeddings and gradients are float32, under autocast too


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """Calls of one kind in a step.

    `num_bytes` is what one process gives to all of them together. A ring sends it 2 (W - 1) / W
    times for a sum, W - 1 times for a gathering.
    """

    name: str
    operation: str  # SUM, GATHER
    calls: int
    num_bytes: int
    last_bytes: int = 0  # of the last call, which has no work to hide behind

    def on_a_ring(self, world_size: int) -> float:
        """Bytes that each process sends to its neighbour."""
        others = world_size - 1
        return self.num_bytes * (2 * others / world_size if self.operation == SUM else others)


def sent_in_a_step(config: TrainConfig, *, local_batch: int, world_size: int) -> tuple[Sent, ...]:
    """Everything that goes over the process group of the device in one step, on GPUs.

    - gradients: each flat tensor of model/reduction.py once.
    - BatchNorm, forward: mean and deviation of each view, and a count: 2 C v + 1 numbers of each
      layer for each v views that pass it together, in each of the k parts: L through the target;
      online one, or all of a size (`views_together`).
    - BatchNorm, backward: two sums, 2 C v numbers, of each online layer and group of views.
    - embeddings, with negatives=global alone: [L, B, D] of the target at once, [v, B, D] of each
      group of online views; and in the backward pass the gradient of the gathered [v, W B, D].

    One process alone sends nothing.
    """
    if world_size == 1:
        return ()
    networks = _networks(config.model)
    gradients = Sent(
        name="gradients",
        operation=SUM,
        calls=len(networks.gradients),
        num_bytes=sum(networks.gradients),
        last_bytes=networks.gradients[-1],
    )
    groups = _groups(config, local_batch)
    found = [gradients, *_statistics(networks, config, groups)]
    if config.loss.negatives == "global":
        found += _embeddings(config, groups, local_batch, world_size)
    return tuple(found)


def _groups(config: TrainConfig, local_batch: int) -> list[int]:
    """How many online views go through the network at once, one after the other."""
    recipe = config.recipe
    if not config.runs_views_together(local_batch // config.accumulate, on_cpu=False):
        return [1] * recipe.num_views
    return [count for count in (recipe.num_large, recipe.num_small) if count]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Networks:
    """What of the networks is sent."""

    gradients: tuple[int, ...]  # bytes of each flat tensor
    online: tuple[int, ...]  # channels of each BatchNorm layer
    target: tuple[int, ...]


@lru_cache
def _networks(config: ReLICv2Config) -> _Networks:
    """Counted on the meta device: no weights are drawn."""
    with torch.device("meta"):
        model = ReLICv2(config)
    return _Networks(
        gradients=FlatGradients(model.online.parameters()).bytes_sent,
        online=_channels(model.online),
        target=_channels(model.target),
    )


def _statistics(networks: _Networks, config: TrainConfig, groups: list[int]) -> Iterator[Sent]:
    parts = config.accumulate
    online = [(networks.online, views) for views in groups] * parts
    passes = online + [(networks.target, config.recipe.num_large)] * parts
    yield Sent(
        name="BatchNorm, forward",
        operation=GATHER,
        calls=sum(len(layers) for layers, _ in passes),
        num_bytes=_FLOAT * sum(2 * c * views + 1 for layers, views in passes for c in layers),
    )
    yield Sent(
        name="BatchNorm, backward",
        operation=SUM,
        calls=sum(len(layers) for layers, _ in online),
        num_bytes=_FLOAT * sum(2 * c * views for layers, views in online for c in layers),
    )


def _embeddings(
    config: TrainConfig, groups: list[int], local_batch: int, world_size: int
) -> Iterator[Sent]:
    recipe, parts = config.recipe, config.accumulate
    row = _FLOAT * config.model.embedding_size * local_batch  # all parts together
    yield Sent(
        name="embeddings, forward",
        operation=GATHER,
        calls=(len(groups) + 1) * parts,
        num_bytes=(recipe.num_views + recipe.num_large) * row,
    )
    yield Sent(
        name="embeddings, backward",
        operation=SUM,
        calls=len(groups) * parts,
        num_bytes=recipe.num_views * world_size * row,
    )


def _channels(module: nn.Module) -> tuple[int, ...]:
    """Of each BatchNorm layer inside."""
    return tuple(
        part.num_features
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
    )
