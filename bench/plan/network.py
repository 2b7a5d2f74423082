"""What a training step computes and keeps, counted on a few images without training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from model.relicv2 import ReLICv2
from training.config import TrainConfig

_FEW, _MORE = 2, 4  # images: BatchNorm needs two
_OPTIMIZER_COPIES = {"lars": 1, "adamw": 2}  # float32 beside each trained weight


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Bytes and multiply-adds of one process's network."""

    gigamacs: float  # of a step, per image: forward and backward of every view, target's forwards
    weight_bytes: float  # online and target, gradients, optimizer
    saved_bytes: float  # kept for the backward of one view, besides those per image
    saved_bytes_per_image: float


def examine(config: TrainConfig, *, bfloat16: bool) -> Network:
    """Run the largest views forward on this CPU and count."""
    model, recipe = _without_weights(config, "cpu"), config.recipe
    fixed, per_image = _saved(model, recipe.large_size, bfloat16=bfloat16)
    views = recipe.num_views if config.loss.kl_form == "swap_views" else 1
    return Network(
        gigamacs=step_gigamacs(config),
        weight_bytes=_weight_bytes(model, config.optimizer.name),
        saved_bytes=fixed * views,
        saved_bytes_per_image=per_image * views,
    )


def step_gigamacs(config: TrainConfig) -> float:
    """Multiply-adds of a step for one image, in 1e9; a backward is two forwards' work.

    Counted on the meta device: nothing is computed.
    """
    model, recipe = _without_weights(config, "meta"), config.recipe
    total = recipe.num_large * (
        3 * _forward_macs(model.embed_online, recipe.large_size)
        + _forward_macs(model.embed_target, recipe.large_size)
    )
    if recipe.num_small:
        total += 3 * recipe.num_small * _forward_macs(model.embed_online, recipe.small_size)
    return total / 1e9


def _without_weights(config: TrainConfig, device: str) -> ReLICv2:
    """A network of zeros: drawing the weights of a ResNet-50 takes ten seconds."""
    with torch.device("meta"):
        model = ReLICv2(config.model)
    model = model.to_empty(device=device)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    return model.train()


def _forward_macs(embed: Callable[[Tensor], Tensor], side: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        embed(torch.zeros(_FEW, 3, side, side, device="meta"))
    return float(counter.get_total_flops() / 2 / _FEW)


def _weight_bytes(model: ReLICv2, optimizer: str) -> float:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in (*model.parameters(), *model.buffers()))
    return 4.0 * (every + trained * (1 + _OPTIMIZER_COPIES[optimizer]))


def _saved(model: ReLICv2, side: int, *, bfloat16: bool) -> tuple[float, float]:
    """Bytes that a forward keeps for its backward: (besides images, per image)."""
    few, more = (_saved_bytes(model, n, side, bfloat16=bfloat16) for n in (_FEW, _MORE))
    per_image = (more - few) / (_MORE - _FEW)
    return few - _FEW * per_image, per_image


def _saved_bytes(model: ReLICv2, images: int, side: int, *, bfloat16: bool) -> float:
    """Each storage once; weights are counted elsewhere."""
    known = {
        tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
    }
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    cast = torch.autocast("cpu", dtype=torch.bfloat16) if bfloat16 else nullcontext()
    views = torch.zeros(images, 3, side, side).contiguous(memory_format=torch.channels_last)
    with saved_tensors_hooks(pack, lambda tensor: tensor), cast:
        embedding = model.embed_online(views)
    total = float(sum(kept.values()))
    del embedding  # until here the addresses are those of different tensors
    return total
