"""FFCV's own Loader on a .beton, with a pipeline for each view, and torchvision for the rest.

FFCV maps several pipelines to one field by `PipelineSpec`; each of them decodes the picture anew.
It crops (OpenCV's area filter) and flips; hue, gray, blur and solarize it does not have. So the
colours are torchvision's, with params of each picture, on the batches that FFCV gives, in threads
of this process: as modules inside the pipelines all of them would run in one thread of FFCV's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.peers.torchvision_v2 import colour_transform, transforms_v2
from bench.streams import Batch, Stream
from pipeline.augment.recipe import MultiCropRecipe, ViewRecipe
from pipeline.shards.beton import BETON_NAME

PACKAGE = "ffcv"
WHAT = (
    "FFCV's Loader with a pipeline for each view (decode, RandomResizedCrop, flip), torchvision "
    "v2 on its batches for the colours, by threads; no masks"
)

_AHEAD = 3  # batches: FFCV's default
_PASSES = 100  # an epoch of so many passes: an epoch begins with an empty queue


def make(
    data: Path, recipe: MultiCropRecipe, *, batch: int, workers: int, passes: int = _PASSES
) -> Stream:
    """Shards in the format ffcv."""
    loader = _loader(data / BETON_NAME, recipe, batch, workers, passes)
    batches = _batches(loader, recipe, workers)
    return Stream(
        batches=batches,
        ahead=_AHEAD + 2,
        note=f"{workers} threads in FFCV and {workers} for torchvision",
        close=batches.close,
    )


def _loader(path: Path, recipe: MultiCropRecipe, batch: int, workers: int, passes: int) -> Any:
    from ffcv.fields.basics import IntDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.reader import Reader
    from ffcv.transforms import Squeeze, ToTensor

    count, shuffle = int(Reader(str(path)).num_samples), np.random.default_rng(0)
    pipelines: dict[str, Any] = {
        f"view {number}": _pipeline(view, size)
        for number, (view, size) in enumerate(zip(recipe.views, recipe.sizes, strict=True))
    }
    pipelines |= {"image": None, "mask": None, "label": [IntDecoder(), ToTensor(), Squeeze()]}
    return Loader(
        str(path),
        batch_size=batch,
        num_workers=workers,
        os_cache=True,
        order=OrderOption.SEQUENTIAL,  # of indices that are shuffled, each pass anew
        indices=np.concatenate([shuffle.permutation(count) for _ in range(passes)]),
        pipelines=pipelines,
        drop_last=True,
        batches_ahead=_AHEAD,
    )


def _pipeline(view: ViewRecipe, size: int) -> Any:
    """uint8 [B, 3, size, size]."""
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.pipeline import PipelineSpec
    from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage

    decoder = RandomResizedCropRGBImageDecoder((size, size), view.area, view.aspect)
    flip = RandomHorizontalFlip(view.flip_probability)
    operations = [decoder, flip, ToTensor(), ToTorchImage(channels_last=False)]
    return PipelineSpec("image", transforms=operations)


def _batches(loader: Any, recipe: MultiCropRecipe, workers: int) -> Generator[Batch, None, None]:
    """Closing it ends the threads: FFCV's own stays behind unless its iterator is closed."""
    finish = [
        _finishing(view, size, recipe)
        for view, size in zip(recipe.views, recipe.sizes, strict=True)
    ]
    epoch = iter(loader)
    # torch's own threads would wait for each other at every small operation
    with ThreadPoolExecutor(workers, initializer=lambda: torch.set_num_threads(1)) as pool:
        try:
            for labels, *views in epoch:
                made = [f(view, pool) for f, view in zip(finish, views, strict=True)]
                yield made, labels.clone()
        finally:
            epoch.close()


def _finishing(
    view: ViewRecipe, size: int, recipe: MultiCropRecipe
) -> Callable[[Tensor, ThreadPoolExecutor], Tensor]:
    v2 = transforms_v2()
    colours = colour_transform(v2, view, size, largest=255)
    normalise = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(recipe.mean, recipe.std)]
    )

    def finish(pixels: Tensor, pool: ThreadPoolExecutor) -> Tensor:
        one = list(pool.map(lambda picture: normalise(colours(picture)), pixels))
        return torch.stack(one)

    return finish
