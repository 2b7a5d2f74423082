"""The stages of the pipeline one after another, each with its threads but none beside another.

What the loader's threads do at the same time, a rung does in a row: `read`, then `decode`, `upload`
and `augment` on top. So each rung contains the one before, and the difference is the stage's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.harness import Unavailable
from pipeline.augment import Executor, make_executor
from pipeline.augment.params import sample_view_params
from pipeline.batch import DecodedBatch, EncodedBatch, Ids, MultiCropBatch
from pipeline.loader import decoder_for
from pipeline.loader.decode import BadSamples, decode_batch, read_batch
from pipeline.loader.ring import Slot
from pipeline.shards import ReadMemory, open_shards
from train import views_dtype
from training.config import TrainConfig
from training.plan import sampler_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What a rung of the ladder works on; its config is complete: batch, threads, executor."""

    config: TrainConfig
    data: Path
    device: torch.device
    threads: int

    @property
    def batch_size(self) -> int:
        return self.config.global_batch_size


class Stages:
    """The stages for one batch after another, in the order of the run's sampler.

    Raises:
        ValueError: unreadable shards, too few samples, a decoder or executor that cannot run here.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self.shards = open_shards(task.data)
        self._sampler = sampler_of(task.config, self.shards)
        loader = task.config.loader
        self._decoder = decoder_for(loader, self.shards, device=task.device)
        self._bad = BadSamples(self.shards, budget=loader.max_bad)
        self._slot = Slot(self._decoder.device, pinned=task.device.type == "cuda")
        self._memory = ReadMemory()
        self._executor: Executor | None = None
        self._step = 0

    @property
    def decoder(self) -> str:
        """Who decodes."""
        return type(self._decoder).__name__

    def read(self) -> EncodedBatch:
        """The bytes of the next batch."""
        return self.read_ids(self.next_ids()[1])

    def read_ids(self, ids: Ids) -> EncodedBatch:
        return read_batch(self.shards, self._bad, sample_ids=ids, memory=self._memory)

    def decode(self) -> DecodedBatch:
        """The next batch read, and decoded into the slot."""
        epoch, ids = self.next_ids()
        return self.decode_ids(ids, epoch)

    def decode_ids(self, ids: Ids, epoch: int = 0) -> DecodedBatch:
        return self.decode_read(self.read_ids(ids), epoch)

    def decode_read(self, encoded: EncodedBatch, epoch: int = 0) -> DecodedBatch:
        return decode_batch(
            self.shards, self._decoder, self._slot, self._bad, encoded=encoded, epoch=epoch
        )

    def upload(self) -> tuple[Tensor, Tensor]:
        """The next batch decoded, and its pixels and mask grids on the device.

        Raises:
            Unavailable: there is nothing to bring there, or it is brought later.
        """
        self._check_upload()
        decoded = self.decode()
        moved = [
            tensor.to(self._task.device, non_blocking=True)
            for tensor in (decoded.images.pixels, decoded.masks)
        ]
        self.finish()
        return moved[0], moved[1]

    def augment(self) -> MultiCropBatch:
        """The next batch decoded, its params drawn, and its views made."""
        return self.views_of(self.decode())

    def views_of(self, decoded: DecodedBatch) -> MultiCropBatch:
        ids, shards, config = decoded.sample_ids, self.shards, self._task.config
        params = sample_view_params(
            config.recipe,
            seed=config.seed,
            epoch=decoded.epoch,
            sample_ids=ids,
            heights=shards.heights[ids],
            widths=shards.widths[ids],
            mask_coverage=shards.mask_coverage[ids],
        )
        self._executor = self._executor or executor_of(self._task)
        views = self._executor(decoded, params)
        self.finish()
        return views

    def finish(self) -> None:
        """Wait for the device."""
        if self._task.device.type == "cuda":
            torch.cuda.synchronize(self._task.device)

    def close(self) -> None:
        self._decoder.close()
        if self._executor is not None:
            self._executor.close()
        self.shards.close()

    def next_ids(self) -> tuple[int, Ids]:
        """Epoch and sample ids of the next batch."""
        self._step += 1
        return self._sampler.batch(self._step - 1)

    def _check_upload(self) -> None:
        executor = self._task.config.loader.executor
        if self._task.device.type == "cpu":
            raise Unavailable("nothing to upload: the views are made and used on the CPU")
        if self._decoder.device.type != "cpu":
            raise Unavailable(f"nothing to upload: {self.decoder} decodes on the GPU")
        if executor != "fused":
            raise Unavailable(f"executor {executor} makes views on the CPU: augment uploads them")


def require_decoder(task: Task) -> None:
    """Decode one sample: in a loader's thread, a package that is missing would be a failure.

    Raises:
        Unavailable: a package is not installed.
    """
    stages = Stages(task)
    try:
        stages.decode_ids(np.arange(1))
    except ImportError as error:
        raise Unavailable(f"not installed: {error.name or error}") from error
    finally:
        stages.close()


def executor_of(task: Task) -> Executor:
    """Who makes the views of the run."""
    return make_executor(
        task.config.loader.executor,
        task.config.recipe,
        threads=task.threads,
        device=task.device,
        dtype=views_dtype(task.config, task.device),
    )
