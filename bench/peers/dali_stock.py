"""DALI's stock operators: one pipeline with a branch for each view.

Its operators take params of each picture; the order of colour operations is one for all. What is
not drawn is not computed: DALI's conditionals split the batch. Gray is a saturation of 0, the flip
is part of crop_mirror_normalize, solarize is min(x, 255 - x).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.harness import Built, Unavailable
from bench.pictures import Pictures
from pipeline.augment.recipe import MultiCropRecipe, ViewRecipe
from pipeline.augment.reference import blur_radius

PACKAGE = "nvidia-dali-cuda130"
WHAT = "one DALI pipeline of stock operators, a branch per view, one fixed jitter order; no masks"


def make(
    pictures: Pictures, recipe: MultiCropRecipe, *, threads: int, device_id: int | None = None
) -> Built:
    """Decoded pictures come by external source; for the GPU they lie in its memory already.

    Raises:
        Unavailable: the recipe asks for another threshold than that of min(x, 255 - x).
    """
    check_recipe(recipe)
    inputs = _inputs(pictures, device_id)
    pipeline = _pipeline(recipe, len(pictures), threads, device_id)
    if device_id is not None:  # one batch ahead, so that the CPU's share overlaps with the GPU's
        pipeline.feed_input("pictures", inputs, layout="HWC")

    def run() -> list[Tensor]:
        pipeline.feed_input("pictures", inputs, layout="HWC")
        views = [_tensor(view, device_id) for view in pipeline.run()]
        if device_id is not None:  # DALI has streams of its own
            torch.cuda.synchronize(device_id)
        return views

    return Built(run=run)


def check_recipe(recipe: MultiCropRecipe) -> None:
    """See that the operators can do what the recipe asks for.

    Raises:
        Unavailable: another threshold than that of min(x, 255 - x).
    """
    if {view.solarize_threshold for view in recipe.views} != {0.5}:
        raise Unavailable("its solarize is written for a threshold of 0.5")


def _inputs(pictures: Pictures, device_id: int | None) -> list[Any]:
    if device_id is None:
        return list(pictures.arrays())
    return [torch.from_numpy(array).cuda(device_id) for array in pictures.arrays()]


def _tensor(views: Any, device_id: int | None) -> Tensor:
    dense = views.as_tensor()
    return (
        torch.from_numpy(np.asarray(dense))
        if device_id is None
        else torch.utils.dlpack.from_dlpack(dense)
    )


def _pipeline(recipe: MultiCropRecipe, batch: int, threads: int, device_id: int | None) -> Any:
    from nvidia.dali import fn, pipeline_def

    on_cpu = device_id is None

    @pipeline_def(enable_conditionals=True)
    def graph() -> tuple[Any, ...]:
        device = "cpu" if on_cpu else "gpu"
        pictures = fn.external_source(name="pictures", device=device, no_copy=on_cpu)
        return view_branches(pictures, recipe)

    pipeline = graph(
        batch_size=batch,
        num_threads=threads,
        device_id=device_id,
        seed=1,
        prefetch_queue_depth=1 if on_cpu else 2,
    )
    pipeline.build()
    return pipeline


def view_branches(pictures: Any, recipe: MultiCropRecipe) -> tuple[Any, ...]:
    """Views of decoded pictures, within a pipeline that has conditionals enabled."""
    views, sizes = recipe.views, recipe.sizes  # by number: DALI puts a zip of its own in place
    return tuple(
        [
            _normalised(_view(pictures, views[v], sizes[v]), views[v], recipe)
            for v in range(recipe.num_views)
        ]
    )


def _view(pictures: Any, view: ViewRecipe, size: int) -> Any:
    """Crop, colours, blur and solarize of one branch, uint8."""
    from nvidia.dali import fn, math, types

    pixels = fn.random_resized_crop(
        pictures,
        size=[size, size],
        random_area=list(view.area),
        random_aspect_ratio=list(view.aspect),
        interp_type=types.INTERP_CUBIC,
        antialias=True,
    )
    colour = fn.random.coin_flip(probability=1 - view.grayscale_probability)
    if fn.random.coin_flip(probability=view.jitter_probability, dtype=types.BOOL):
        pixels = fn.color_twist(
            pixels,
            brightness=_around_one(view.brightness),
            contrast=_around_one(view.contrast),
            saturation=_around_one(view.saturation) * colour,
            hue=fn.random.uniform(range=[-360 * view.hue, 360 * view.hue]),
        )
    elif colour == 0:
        pixels = fn.saturation(pixels, saturation=0.0)
    if fn.random.coin_flip(probability=view.blur_probability, dtype=types.BOOL):
        pixels = fn.gaussian_blur(
            pixels,
            window_size=2 * blur_radius(size, view) + 1,
            sigma=fn.random.uniform(range=list(view.blur_sigma)),
        )
    if fn.random.coin_flip(probability=view.solarize_probability, dtype=types.BOOL):
        pixels = fn.cast(math.min(pixels, 255 - pixels), dtype=types.UINT8)
    return pixels


def _around_one(spread: float) -> Any:
    from nvidia.dali import fn

    return fn.random.uniform(range=[1 - spread, 1 + spread])


def _normalised(pixels: Any, view: ViewRecipe, recipe: MultiCropRecipe) -> Any:
    from nvidia.dali import fn, types

    return fn.crop_mirror_normalize(
        pixels,
        mirror=fn.random.coin_flip(probability=view.flip_probability),
        mean=[255 * level for level in recipe.mean],
        std=[255 * level for level in recipe.std],
        dtype=types.FLOAT,
        output_layout="CHW",
    )
