"""kornia's augmentations on batches of float32 pictures, params of each picture its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.harness import Built, Stopwatch, Work, fastest, wall_seconds
from bench.pictures import Pictures
from pipeline.augment.recipe import MultiCropRecipe, ViewRecipe
from pipeline.augment.reference import blur_radius

PACKAGE = "kornia"
WHAT = "kornia.augmentation on float32 batches, params per picture, one jitter order; no masks"


def make(
    pictures: Pictures,
    recipe: MultiCropRecipe,
    *,
    device: torch.device,
    stopwatch: Stopwatch = wall_seconds,
) -> Built:
    """Crops by slicing or by resampling a grid, whichever is faster.

    Pictures of one size form a batch: with pictures of many sizes the batches are small.
    """
    import kornia.augmentation

    groups = [
        group.permute(0, 3, 1, 2).to(device).float().div(255).contiguous()
        for group in pictures.groups()
    ]
    return fastest(
        {
            f"cropping_mode={mode}": _work(kornia.augmentation, groups, recipe, mode)
            for mode in ("slice", "resample")
        },
        stopwatch=stopwatch,
    )


def _work(library: Any, groups: list[Tensor], recipe: MultiCropRecipe, mode: str) -> Work:
    device = groups[0].device
    transforms = [
        view_transform(library, view, size, recipe, mode).to(device)
        for view, size in zip(recipe.views, recipe.sizes, strict=True)
    ]

    @torch.inference_mode()
    def run() -> list[Tensor]:
        made = [[transform(group) for group in groups] for transform in transforms]
        return [batches[0] if len(batches) == 1 else torch.cat(batches) for batches in made]

    return run


def view_transform(
    library: Any, view: ViewRecipe, size: int, recipe: MultiCropRecipe, mode: str
) -> torch.nn.Module:
    """The operators of one view, for float32 batches [n, 3, h, w] in 0..1."""
    kernel = 2 * blur_radius(size, view) + 1
    level = view.solarize_threshold
    return torch.nn.Sequential(
        library.RandomResizedCrop(
            (size, size),
            scale=view.area,
            ratio=view.aspect,
            resample="BICUBIC",
            cropping_mode=mode,
        ),
        library.RandomHorizontalFlip(p=view.flip_probability),
        library.ColorJitter(
            view.brightness, view.contrast, view.saturation, view.hue, p=view.jitter_probability
        ),
        library.RandomGrayscale(p=view.grayscale_probability),
        library.RandomGaussianBlur((kernel, kernel), view.blur_sigma, p=view.blur_probability),
        library.RandomSolarize((level, level), (0.0, 0.0), p=view.solarize_probability),
        library.Normalize(torch.tensor(recipe.mean), torch.tensor(recipe.std)),
    )
