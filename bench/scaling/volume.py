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
    - BatchNorm, forward: mean, deviation and count, 2 C + 1 numbers, of each layer for each view
      that passes it: V views online, L through the target, in each of the k parts.
    - BatchNorm, backward: two sums, 2 C numbers, of each online layer and view.
    - embeddings, with negatives=global alone: [L, B, D] of the target at once, [B, D] of each
      online view; and in the backward pass the gradient of each online view's gathered [W B, D].

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
    found = [gradients, *_statistics(networks, config)]
    if config.loss.negatives == "global":
        found += _embeddings(config, local_batch, world_size)
    return tuple(found)


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


def _statistics(networks: _Networks, config: TrainConfig) -> Iterator[Sent]:
    recipe, parts = config.recipe, config.accumulate
    passes = [
        (networks.online, recipe.num_views * parts),
        (networks.target, recipe.num_large * parts),
    ]
    yield Sent(
        name="BatchNorm, forward",
        operation=GATHER,
        calls=sum(len(layers) * times for layers, times in passes),
        num_bytes=_FLOAT * sum((2 * c + 1) * times for layers, times in passes for c in layers),
    )
    layers, times = passes[0]
    yield Sent(
        name="BatchNorm, backward",
        operation=SUM,
        calls=len(layers) * times,
        num_bytes=_FLOAT * sum(2 * c * times for c in layers),
    )


def _embeddings(config: TrainConfig, local_batch: int, world_size: int) -> Iterator[Sent]:
    recipe, parts = config.recipe, config.accumulate
    row = _FLOAT * config.model.embedding_size * local_batch  # all parts together
    yield Sent(
        name="embeddings, forward",
        operation=GATHER,
        calls=(recipe.num_views + 1) * parts,
        num_bytes=(recipe.num_views + recipe.num_large) * row,
    )
    yield Sent(
        name="embeddings, backward",
        operation=SUM,
        calls=recipe.num_views * parts,
        num_bytes=recipe.num_views * world_size * row,
    )


def _channels(module: nn.Module) -> tuple[int, ...]:
    """Of each BatchNorm layer inside."""
    return tuple(
        part.num_features
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
    )
