"""Loaders: from shards to a stream of views.

`training_views` draws params by (seed, epoch, sample id, view) in the order of a Sampler;
`evaluation_views` cuts the centre of each sample, in order. Both return a MultiCropLoader.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from pipeline.augment import EXECUTORS, Executor, choose_executor, make_executor
from pipeline.augment.params import ViewParams, centre_view_params, sample_view_params
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.batch import Ids
from pipeline.devices import CPU
from pipeline.loader.decode import Decoder
from pipeline.loader.multicrop import MultiCropLoader
from pipeline.loader.shares import (
    GpuShares,
    ShareOrAuto,
    check_gpu_decode,
    choose_decoder,
)
from pipeline.readahead import Share, upcoming
from pipeline.rng import Stream
from pipeline.sampler import Sampler
from pipeline.shards import Shards
from pipeline.stats import Beat, LoaderClock, no_beat

__all__ = [
    "AHEAD",
    "LoaderConfig",
    "MultiCropLoader",
    "evaluation_views",
    "make_decoder",
    "training_views",
]

AHEAD = 4  # steps that the kernel is asked for the bytes of, before they are read
DECODERS = ("auto", "turbojpeg", "dali", "dali-gpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderConfig:
    """How views are fed. `threads`, `prefetch` and `max_bad` change no pixel; executors agree to
    within a level (pipeline/augment/agreement.py), decoders to the bit on CPU.
    On a GPU they differ by a level or two (pipeline/loader/tolerance.py).

    Raises:
        ValueError: unknown decoder, a negative or zero size, a share outside 0..1.
    """

    CHOICES: ClassVar = {"decoder": DECODERS, "executor": EXECUTORS}

    # what decodes JPEGs; auto: turbojpeg, or dali-gpu where a GPU has too few cores [ours]
    decoder: str = "auto"
    executor: str = "auto"  # what makes the views; auto: fused on a GPU, else compiled [ours]
    # for decoding and for views, per process; 0: one for each core that it may use [ours]
    threads: int = 0
    prefetch: int = 2  # batches of views that are ready ahead of the step [ours]
    max_bad: int = 10  # samples that may turn out undecodable before the run stops [ours]
    # seconds without any progress of a stage, after which the run stops [ours]
    stall_seconds: float = 300.0
    # of dali-gpu: share of the samples that the GPU decodes; auto: measured at the start [ours]
    gpu_decode_share: ShareOrAuto = "auto"
    # share of the GPU's samples that its JPEG engine decodes; auto: measured [ours]
    hw_decoder_load: ShareOrAuto = "auto"

    def __post_init__(self) -> None:
        for name, choices in self.CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}"
                )
        if self.threads < 0 or self.max_bad < 0 or self.prefetch < 1 or self.stall_seconds <= 0:
            raise ValueError(
                "loader needs threads >= 0, max_bad >= 0, prefetch >= 1, stall_seconds > 0; got "
                f"{self.threads}, {self.max_bad}, {self.prefetch}, {self.stall_seconds}"
            )
        for name in ("gpu_decode_share", "hw_decoder_load"):
            share: ShareOrAuto = getattr(self, name)
            if share != "auto" and (isinstance(share, str) or not 0 <= share <= 1):
                raise ValueError(f"loader.{name} must lie in 0..1 or be auto, got {share}")

    @property
    def num_threads(self) -> int:
        """Of decoding and of making views each: one for each core of this process, or as set."""
        return self.threads or len(os.sched_getaffinity(0))

    def for_device(self, device: torch.device) -> LoaderConfig:
        """Return the config with `auto` replaced by the executor that it stands for there.

        Raises:
            ValueError: an executor or a decoder that this device or machine cannot run.
        """
        executor = choose_executor(self.executor, device)
        if self.decoder == "dali-gpu":
            check_gpu_decode(device, executor)
        return replace(self, executor=executor)

    def settled(
        self, shards: Shards, *, device: torch.device, tell: Callable[[str], object]
    ) -> LoaderConfig:
        """Return the config with numbers for the shares of decoders, if a GPU is to decode.

        Then its engines are tested and timed on the data set, which takes some seconds; `tell` gets
        what came out, a line at a time. The executor must have been chosen (`for_device`).

        Raises:
            ValueError: it cannot decode here, or a share that is set needs an engine that fails.
        """
        threads = self.num_threads
        chosen = choose_decoder(
            self.decoder, device=device, executor=self.executor, threads=threads
        )
        if chosen != "dali-gpu":
            return self
        check_gpu_decode(device, self.executor)
        from pipeline.loader.gpu_decode import settled_shares

        asked = (self.gpu_decode_share, self.hw_decoder_load)
        shares = settled_shares(*asked, shards, device=device, threads=threads, tell=tell)
        return replace(
            self, decoder=chosen, gpu_decode_share=shares.gpu, hw_decoder_load=shares.hardware
        )


def decoder_for(
    config: LoaderConfig, shards: Shards, *, device: torch.device = CPU, beat: Beat = no_beat
) -> Decoder:
    """Make who decodes: a CPU decoder, or those that share each batch with the GPU `device`.

    Raises:
        ValueError: `dali-gpu` cannot decode here, or its shares are not settled.
    """
    threads = config.num_threads
    if config.decoder != "dali-gpu":
        return make_decoder(config.decoder, shards, threads=threads, beat=beat)
    gpu, hardware = config.gpu_decode_share, config.hw_decoder_load
    if isinstance(gpu, str) or isinstance(hardware, str):
        raise ValueError(
            "decoder dali-gpu needs numbers for loader.gpu_decode_share and loader.hw_decoder_load "
            "here; auto is measured at the start of training only"
        )
    cpu = make_decoder("turbojpeg", shards, threads=threads, beat=beat)
    if gpu == 0:
        return cpu
    check_gpu_decode(device, config.executor)
    from pipeline.loader.gpu_decode import gpu_decoder

    shares = GpuShares(gpu=gpu, hardware=hardware)
    return gpu_decoder(cpu, shares, device=device, threads=threads, beat=beat)


def make_decoder(name: str, shards: Shards, *, threads: int, beat: Beat = no_beat) -> Decoder:
    """Make a CPU decoder: `auto` takes libjpeg-turbo, the faster of the two for both formats."""
    assert name != "dali-gpu"
    if name == "dali":
        from pipeline.loader.dali import DaliDecoder

        return DaliDecoder(threads=threads, beat=beat)
    from pipeline.loader.turbojpeg import TurboJpegDecoder

    return TurboJpegDecoder(threads=threads, beat=beat)


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
    executor: Executor | None = None,
) -> MultiCropLoader:
    """Stream the views of this rank for steps start_step..end_step-1.

    `local_size` processes share the page cache of this machine. `device` is where the views will be
    used, `dtype` as what: the executor `fused` makes them so, others float32 on the CPU.
    `executor` makes them in place of the one that `config` names; the loader closes it.

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

    steps = range(start_step, end_step)
    share = Share(rank=rank, world_size=world_size, local_size=local_size)

    def expected(step: int) -> Ids:
        return upcoming(sampler, step, steps=steps, ahead=AHEAD, share=share)

    feeding = _Feeding(recipe=recipe, config=config, device=device)
    return feeding.loader(shards, batch, params, expected, steps, dtype, executor)


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

    def expected(step: int) -> Ids:
        """The batch AHEAD steps later, and at the first step all up to it."""
        first = step + AHEAD if step else 0
        return ids[first * batch_size : (step + AHEAD + 1) * batch_size]

    feeding = _Feeding(recipe=recipe, config=config, device=device)
    steps = range(-(-len(ids) // batch_size))
    return feeding.loader(shards, batch, params, expected, steps, torch.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Feeding:
    """How views are fed, for training or evaluation."""

    recipe: MultiCropRecipe
    config: LoaderConfig
    device: torch.device

    def loader(
        self,
        shards: Shards,
        batch: Callable[[int], tuple[int, Ids]],
        params: Callable[[int, Ids], ViewParams],
        expected: Callable[[int], Ids],
        steps: range,
        dtype: torch.dtype,
        executor: Executor | None = None,
    ) -> MultiCropLoader:
        config, clock = self.config, LoaderClock()
        return MultiCropLoader(
            shards,
            decoder=decoder_for(config, shards, device=self.device, beat=clock.decode.beat),
            executor=executor
            or make_executor(
                config.executor,
                self.recipe,
                threads=config.num_threads,
                device=self.device,
                dtype=dtype,
                beat=clock.augment.beat,
            ),
            batch=batch,
            params=params,
            expected=expected,
            steps=steps,
            clock=clock,
            prefetch=config.prefetch,
            max_bad=config.max_bad,
            stall_seconds=config.stall_seconds,
            device=self.device,
        )
