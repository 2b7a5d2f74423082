"""Loaders: from shards to a stream of views.

`training_views` draws params by (seed, epoch, sample id, view) in the order of a Sampler;
`evaluation_views` cuts the centre of each sample, in order. Both return a MultiCropLoader.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.augment import CPU, EXECUTORS, Executor, choose_executor, make_executor
from pipeline.augment.params import ViewParams, centre_view_params, sample_view_params
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.batch import Ids
from pipeline.loader.decode import Decoder
from pipeline.loader.multicrop import MultiCropLoader
from pipeline.rng import Stream
from pipeline.sampler import Sampler
from pipeline.shards import Shards

__all__ = [
    "LoaderConfig",
    "MultiCropLoader",
    "evaluation_views",
    "make_decoder",
    "training_views",
]

DECODERS = ("auto", "turbojpeg", "dali")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderConfig:
    """How views are fed. `threads`, `prefetch` and `max_bad` change no pixel; executors agree to
    within a level (tests/pipeline/augment/test_executors_agree.py), decoders to the bit on CPU.

    Raises:
        ValueError: unknown decoder, a negative or zero size.
    """

    decoder: str = "auto"  # turbojpeg | dali; auto: dali for tar shards where installed
    executor: str = "auto"  # fused | compiled | dali | reference; auto: fused on a GPU, or compiled
    threads: int = 0  # for decoding and for views, per process; 0: this process's share of cores
    prefetch: int = 2  # batches of views ready ahead of the step
    max_bad: int = 10  # samples that may turn out undecodable before the run stops

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise ValueError(
                f"unknown decoder {self.decoder!r}; choose one of {', '.join(DECODERS)}"
            )
        if self.executor not in EXECUTORS:
            raise ValueError(
                f"unknown executor {self.executor!r}; choose one of {', '.join(EXECUTORS)}"
            )
        if self.threads < 0 or self.max_bad < 0 or self.prefetch < 1:
            raise ValueError(
                f"loader needs threads >= 0, max_bad >= 0, prefetch >= 1; got {self.threads}, "
                f"{self.max_bad}, {self.prefetch}"
            )

    def threads_of(self, local_size: int) -> int:
        """Threads of one process where `local_size` processes share the cores."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // local_size)

    def for_device(self, device: torch.device) -> LoaderConfig:
        """Return the config with `auto` replaced by the executor that it stands for there.

        Raises:
            ValueError: an executor that this device or machine cannot run.
        """
        return replace(self, executor=choose_executor(self.executor, device))


def make_decoder(name: str, shards: Shards, *, threads: int) -> Decoder:
    """Choose who decodes: `auto` takes DALI for tar shards, libjpeg-turbo for all else."""
    if name == "auto":
        dali = shards.manifest.format == "dali" and importlib.util.find_spec("nvidia.dali")
        name = "dali" if dali else "turbojpeg"
    if name == "dali":
        from pipeline.loader.dali import DaliDecoder

        return DaliDecoder(threads=threads)
    from pipeline.loader.turbojpeg import TurboJpegDecoder

    return TurboJpegDecoder(threads=threads)


def training_views(
    shards: Shards,
    *,
    recipe: MultiCropRecipe,
    sampler: Sampler,
    seed: int,
    config: LoaderConfig,
    end_step: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    local_size: int = 1,
    stream: Stream = Stream.VIEWS,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
) -> MultiCropLoader:
    """Stream the views of this rank for steps start_step..end_step-1.

    `local_size` processes share the cores of this machine. `device` is where the views will be
    used, `dtype` as what: the executor `fused` makes them so, others float32 on the CPU.

    Raises:
        ValueError: the world size does not divide the global batch.
    """
    if sampler.global_batch_size % world_size:
        raise ValueError(
            f"the global batch of {sampler.global_batch_size} cannot be divided among {world_size} "
            "processes; choose a multiple"
        )

    def batch(step: int) -> tuple[int, Ids]:
        epoch, ids = sampler.batch(step)
        return epoch, ids[rank::world_size]

    def params(epoch: int, ids: Ids) -> ViewParams:
        return sample_view_params(
            recipe,
            seed=seed,
            epoch=epoch,
            sample_ids=ids,
            heights=shards.heights[ids],
            widths=shards.widths[ids],
            mask_coverage=shards.mask_coverage[ids],
            stream=stream,
        )

    executor = _executor(recipe, config, local_size, device, dtype)
    steps = range(start_step, end_step)
    return _loader(shards, executor, config, batch, params, steps, local_size)


def evaluation_views(
    shards: Shards,
    *,
    size: int,
    batch_size: int,
    config: LoaderConfig,
    sample_ids: Ids | None = None,
    device: torch.device = CPU,
) -> MultiCropLoader:
    """Stream the central square of each sample (spec 6.1), in order; the last batch is partial.

    `device` is where they will be used, as for `training_views`.

    `large` of each batch is [1, B, 3, size, size]; there are no small views.
    """
    ids = np.arange(len(shards)) if sample_ids is None else np.asarray(sample_ids, np.int64)
    recipe = MultiCropRecipe(num_large=1, num_small=0, large_size=size)

    def batch(step: int) -> tuple[int, Ids]:
        return 0, ids[step * batch_size : (step + 1) * batch_size]

    def params(_: int, rows: Ids) -> ViewParams:
        return centre_view_params(shards.heights[rows], shards.widths[rows])

    executor = _executor(recipe, config, 1, device, torch.float32)
    steps = range(-(-len(ids) // batch_size))
    return _loader(shards, executor, config, batch, params, steps, local_size=1)


def _executor(
    recipe: MultiCropRecipe,
    config: LoaderConfig,
    local_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Executor:
    threads = config.threads_of(local_size)
    return make_executor(config.executor, recipe, threads=threads, device=device, dtype=dtype)


def _loader(
    shards: Shards,
    executor: Executor,
    config: LoaderConfig,
    batch: Callable[[int], tuple[int, Ids]],
    params: Callable[[int, Ids], ViewParams],
    steps: range,
    local_size: int,
) -> MultiCropLoader:
    threads = config.threads_of(local_size)
    return MultiCropLoader(
        shards,
        decoder=make_decoder(config.decoder, shards, threads=threads),
        executor=executor,
        batch=batch,
        params=params,
        steps=steps,
        prefetch=config.prefetch,
        max_bad=config.max_bad,
    )
