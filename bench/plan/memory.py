"""How much memory a training needs: of each process on the host, and of each GPU.

Buffers of the loader grow to the largest batch met and a quarter more; what is counted here are
means, so a data set of very different pictures takes more. What Python, torch and the compiled code
take before the first picture, CUDA's context and the workspaces of its libraries are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bench.plan.capacity import Machine
from bench.plan.gather import Place
from bench.plan.network import Network
from pipeline.batch import MASK_GRID
from pipeline.shards import Shards
from pipeline.shards.index import ROW
from training.config import TrainConfig

_SLOTS = 3  # batches of bytes, and of pixels, in the loader
_SPARE = 1.25  # what a buffer gets beyond what was asked for
_IN_HAND = 2  # batches of views besides the queue: being made, being used
_ORDERS = 2  # epochs whose order is kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes by what they are for."""

    host_per_process: Mapping[str, float]
    device: Mapping[str, float]  # of each GPU; empty on a CPU
    data: float  # stored bytes of all samples
    data_fit: bool  # beside all processes in the machine's memory: then it is read once


def memory_of(
    config: TrainConfig, machine: Machine, place: Place, shards: Shards, network: Network
) -> Memory:
    """What the planned training takes on the planned machine."""
    batch = local_batch(
        config,
        processes=machine.gpus,
        stored_bytes=float(np.mean(shards.stored_bytes)),
        pixel_bytes=3 * float(np.mean(shards.heights.astype(np.int64) * shards.widths)),
        value_bytes=2 if place.views_on_gpu and place.bfloat16 else 4,
    )
    host = index_memory(len(shards)) | loader_memory(
        config, batch, views_on_host=not place.views_on_gpu
    )
    if not place.on_gpu:
        host |= network_memory(network, batch.images)
    data = float(shards.stored_bytes.sum())
    used = machine.gpus * sum(host.values())
    return Memory(
        host_per_process=host,
        device=device_memory(config, batch, network) if place.on_gpu else {},
        data=data,
        data_fit=data + used < machine.memory_bytes,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The local batch of one process; bytes of all its images together."""

    images: int
    stored: float
    pixels: float
    views: float


def local_batch(
    config: TrainConfig,
    *,
    processes: int,
    stored_bytes: float,
    pixel_bytes: float,
    value_bytes: int,
) -> Batch:
    """The local batch of images of mean `stored_bytes` and `pixel_bytes`."""
    images = config.global_batch_size // processes
    sides = config.recipe.sizes
    return Batch(
        images=images,
        stored=images * stored_bytes,
        pixels=images * (pixel_bytes + MASK_GRID**2),
        views=images * 3 * sum(side * side for side in sides) * value_bytes,
    )


def loader_memory(config: TrainConfig, batch: Batch, *, views_on_host: bool) -> dict[str, float]:
    """Bytes on the host of one process's loader."""
    return {
        "stored bytes": _SLOTS * _SPARE * batch.stored,
        "decoded pixels": _SLOTS * _SPARE * batch.pixels,
        "views": _num_views(config) * batch.views if views_on_host else 0.0,
    }


def index_memory(num_samples: int) -> dict[str, float]:
    """Bytes of what is known of each sample, and of the order of two epochs."""
    arrays = 8 + 4 * 4  # stored bytes; height, width, label, coverage
    return {"index and order": float(num_samples * (ROW.itemsize + arrays + 8 * _ORDERS))}


def network_memory(network: Network, images: int) -> dict[str, float]:
    """Bytes of the training itself, where it runs."""
    return {
        "weights, gradients, optimizer": network.weight_bytes,
        "activations": network.saved_bytes + images * network.saved_bytes_per_image,
    }


def device_memory(config: TrainConfig, batch: Batch, network: Network) -> dict[str, float]:
    """Bytes on one GPU, without CUDA's context and the workspaces of its libraries."""
    recipe = config.recipe
    groups = ((recipe.num_large, recipe.large_size), (recipe.num_small, recipe.small_size))
    levels = max(3 * views * side * side for views, side in groups)  # of one image, 16 bits each
    return {
        **network_memory(network, batch.images),
        "views": _num_views(config) * batch.views,
        "uploaded pixels": _SPARE * batch.pixels,
        "executor": 2.0 * batch.images * levels,
    }


def _num_views(config: TrainConfig) -> int:
    return config.loader.prefetch + _IN_HAND
