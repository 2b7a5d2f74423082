"""torchvision's transforms v2, one picture after another, as a data set's __getitem__ does it."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from bench.harness import Built, Work, fastest
from bench.pictures import Pictures
from pipeline.augment.recipe import MultiCropRecipe, ViewRecipe
from pipeline.augment.reference import blur_radius
from torchvision_cpu import import_torchvision

PACKAGE = "torchvision"
WHAT_TENSOR = "transforms.v2 on tensors, picture by picture; no masks"
WHAT_PIL = "transforms.v2 on PIL images, picture by picture; no masks"


def make_tensor(pictures: Pictures, recipe: MultiCropRecipe) -> Built:
    """On uint8 tensors to the end, or as float32 from the crop on: the faster of the two."""
    v2 = transforms_v2()
    inputs = [torch.from_numpy(array).permute(2, 0, 1).contiguous() for array in pictures.arrays()]
    return fastest(
        {
            "uint8 to the end": _work(v2, inputs, recipe, None),
            "float32 after the crop": _work(v2, inputs, recipe, v2.ToDtype(torch.float32, True)),
        }
    )


def make_pil(pictures: Pictures, recipe: MultiCropRecipe) -> Built:
    """On PIL images up to the conversion to tensors."""
    from PIL import Image

    v2 = transforms_v2()
    return Built(run=_work(v2, [Image.fromarray(a) for a in pictures.arrays()], recipe, None))


def transforms_v2() -> Any:
    """torchvision.transforms.v2, also beside a CPU build of torch."""
    return importlib.import_module(f"{import_torchvision().__name__}.transforms.v2")


def _work(v2: Any, inputs: list[Any], recipe: MultiCropRecipe, convert: Any) -> Work:
    transforms = [
        view_transform(v2, view, size, recipe, convert)
        for view, size in zip(recipe.views, recipe.sizes, strict=True)
    ]

    def run() -> list[Tensor]:
        made = [[transform(picture) for transform in transforms] for picture in inputs]
        return [torch.stack(rows) for rows in zip(*made, strict=True)]

    return run


def view_transform(
    v2: Any, view: ViewRecipe, size: int, recipe: MultiCropRecipe, convert: Any
) -> Any:
    """From a picture, tensor or PIL, to a normalised view; `convert` follows the crop if given."""
    steps = [
        v2.RandomResizedCrop(
            size,
            scale=view.area,
            ratio=view.aspect,
            interpolation=v2.InterpolationMode.BICUBIC,
            antialias=True,
        ),
        convert,
        v2.RandomHorizontalFlip(view.flip_probability),
        colour_transform(v2, view, size, largest=1 if convert else 255),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(recipe.mean, recipe.std),
    ]
    return v2.Compose([step for step in steps if step is not None])


def colour_transform(v2: Any, view: ViewRecipe, size: int, *, largest: float) -> Any:
    """What comes after crop and flip, on levels of 0..`largest`."""
    kernel = 2 * blur_radius(size, view) + 1
    jitter = v2.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    return v2.Compose(
        [
            v2.RandomApply([jitter], view.jitter_probability),
            v2.RandomGrayscale(view.grayscale_probability),
            v2.RandomApply([v2.GaussianBlur(kernel, view.blur_sigma)], view.blur_probability),
            v2.RandomSolarize(largest * view.solarize_threshold, view.solarize_probability),
        ]
    )
