"""kornia after DALI's reader and decoder, on the GPU: who wants params per picture does it so.

kornia works on batches of one size, so DALI resizes each picture before, as its users do; crops
then come from fewer pixels than ours. The operators are those of kornia_batched. Without a GPU
(device_id None) all of it runs on the CPU; tests look at it there.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from bench.peers.dali_loader import label_numbers, webdataset
from bench.peers.kornia_batched import view_transform
from bench.streams import Batch, Stream
from pipeline.augment.recipe import MultiCropRecipe

PACKAGE = "kornia"
WHAT = (
    "DALI's webdataset reader and mixed decoder, pictures resized to 256x256, kornia.augmentation "
    "on float32 batches, one jitter order; no masks"
)

_AHEAD = 2  # batches: DALI's default
_SIDE = 256


def make(
    data: Path, recipe: MultiCropRecipe, *, batch: int, workers: int, device_id: int | None
) -> Stream:
    """Shards in the format dali; kornia works on the current stream."""
    import kornia.augmentation

    device = torch.device("cpu") if device_id is None else torch.device("cuda", device_id)
    transforms = [
        view_transform(kornia.augmentation, view, size, recipe, "slice").to(device)
        for view, size in zip(recipe.views, recipe.sizes, strict=True)
    ]
    batches = _batches(_pipeline(data, batch, workers, device_id), transforms)
    return Stream(
        batches=batches,
        ahead=_AHEAD + 1,
        note=f"{workers} threads of DALI",
        finish=tuple if device_id is None else torch.cuda.synchronize,
        close=batches.close,
    )


def _pipeline(data: Path, batch: int, threads: int, device_id: int | None) -> Any:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def
    def graph() -> tuple[Any, Any]:
        jpegs, labels = webdataset(data)
        device = "cpu" if device_id is None else "mixed"
        pictures = fn.decoders.image(jpegs, device=device, output_type=types.RGB)
        return fn.resize(pictures, size=[_SIDE, _SIDE]), fn.pad(labels)

    return graph(
        batch_size=batch,
        num_threads=threads,
        device_id=device_id,
        seed=1,
        prefetch_queue_depth=_AHEAD,
    )


@torch.inference_mode()
def _views(pictures: torch.Tensor, transforms: list[torch.nn.Module]) -> list[torch.Tensor]:
    floats = pictures.permute(0, 3, 1, 2).float().div(255)
    return [transform(floats) for transform in transforms]


def _batches(pipeline: Any, transforms: list[torch.nn.Module]) -> Generator[Batch, None, None]:
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    epochs = DALIGenericIterator(
        pipeline,
        ["pictures", "labels"],
        reader_name="reader",
        last_batch_policy=LastBatchPolicy.DROP,
        auto_reset=True,
    )
    while True:
        for (given,) in epochs:
            yield _views(given["pictures"], transforms), label_numbers(given["labels"])
