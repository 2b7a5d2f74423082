"""How much memory a run takes: the loader on the host, the step on its device.

The loader's part follows from its rings (pipeline/loader/multicrop.py). Of the step, what autograd
keeps of one view is counted by a hook on a few pictures, and grows with the rows of a part of the
batch: views go through one by one, so no more than one is there at a time, unless the form of the
KL couples them.

Shapes: B pictures of one process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.relicv2 import ReLICv2
from pipeline.batch import MASK_GRID
from pipeline.shards import Shards
from training.config import TrainConfig

_RING = 3  # batches of bytes, and of pixels
_SLACK = 1.25  # rings grow by a quarter more than asked
_PICTURES = 4  # that the hook counts on
_STATES = {"lars": 1, "adamw": 2}  # numbers that an optimizer keeps of each parameter


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """Bytes, of one process."""

    host: dict[str, float]
    device: dict[str, float]  # the step's; on the CPU too, where it is the host's memory


def plan_memory(config: TrainConfig, shards: Shards, *, batch: int, on_gpu: bool) -> MemoryPlan:
    """Predict what one process with `batch` pictures a step will hold."""
    half = on_gpu and config.precision != "float32"
    fused = on_gpu and config.loader.executor in ("auto", "fused")
    recipe = config.recipe
    of_views = [
        batch * number * 3.0 * side**2 * (2 if fused and half else 4)
        for number, side in (
            (recipe.num_large, recipe.large_size),
            (recipe.num_small, recipe.small_size),
        )
    ]
    batches = config.loader.prefetch + 2  # one is being made, one is being used
    held = batches * sum(of_views)
    pixels = 3 * float(np.mean(shards.heights.astype(np.int64) * shards.widths)) * batch
    stored = shards.manifest.stored_bytes_per_sample * batch
    pinned = _pinned_bytes if on_gpu else float  # what a GPU copies from
    host = {
        "bytes read": _RING * _SLACK * stored,
        "pixels and masks": _RING * (pinned(_SLACK * pixels) + pinned(batch * MASK_GRID**2)),
        "index": 60.0 * len(shards),
    }
    device = step_memory(config, batch=batch, half=half)
    if fused:
        device["views"] = held
        device["pixels and scratch"] = _SLACK * pixels + batch * _scratch_bytes(config)
    else:
        pinned = pinned if config.loader.executor == "compiled" else float
        host["views"] = batches * sum(map(pinned, of_views))
        if on_gpu:
            device["views"] = held
    return MemoryPlan(host=host, device=device)


def _pinned_bytes(size: float) -> float:
    """What torch's allocator of pinned memory takes for so many bytes: the next power of two."""
    return float(1 << (math.ceil(size) - 1).bit_length()) if size else 0.0


def step_memory(config: TrainConfig, *, batch: int, half: bool) -> dict[str, float]:
    """Weights, gradients and optimizer, and what is kept for backward: of one view, or of all."""
    with torch.device("meta"):  # drawing the weights of a ResNet-50 takes ten seconds
        model = ReLICv2(config.model)
    online = sum(p.numel() for p in model.online.parameters())
    target = sum(p.numel() for p in model.target.parameters())
    states = _STATES[config.optimizer.name]
    recipe, together = config.recipe, config.loss.kl_form == "swap_views"
    kept = _kept_bytes(model, recipe.large_size)
    if together:
        small = _kept_bytes(model, recipe.small_size) if recipe.num_small else 0.0
        kept = recipe.num_large * kept + recipe.num_small * small
    return {
        "weights": 4.0 * (online + target),
        "gradients": 4.0 * online,
        "optimizer": 4.0 * states * online,
        # under autocast most of it is bfloat16
        f"activations of {'all views' if together else 'one view'}": kept
        * (batch // config.accumulate)
        * (0.5 if half else 1.0),
    }


def _kept_bytes(model: ReLICv2, size: int) -> float:
    """Bytes that autograd keeps of one view of one picture; weights are not counted.

    On the meta device: nothing is computed, and storages are told apart by their identity.
    """
    own = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = model.embed_online(torch.zeros(_PICTURES, 3, size, size, device="meta"))
    del out  # until here all of them live, so that no identity is used twice
    return sum(kept.values()) / _PICTURES


def _scratch_bytes(config: TrainConfig) -> float:
    """16-bit levels between the passes of `fused`, of the larger group of views."""
    recipe = config.recipe
    groups = ((recipe.num_large, recipe.large_size), (recipe.num_small, recipe.small_size))
    return 2.0 * max(views * 3 * size**2 for views, size in groups)
