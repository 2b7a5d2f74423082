"""FFCV's stock transforms, compiled as its Loader compiles them, on decoded pictures.

FFCV 1.0 has neither hue, gray, blur, solarize nor a random order of colours, and its crop resizes
with OpenCV's area filter; its row shows what its users have instead, not the same work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.harness import Built
from bench.pictures import Pictures
from pipeline.augment.recipe import MultiCropRecipe, ViewRecipe

PACKAGE = "ffcv"
WHAT = (
    "RandomResizedCrop (area filter), flip, brightness, contrast, saturation, NormalizeImage; LESS "
    "WORK: FFCV has no hue, gray, blur, solarize or random order; no masks"
)

Step = Callable[..., Any]
Allocated = tuple[Step, NDArray[Any]]


def make(pictures: Pictures, recipe: MultiCropRecipe) -> Built:
    """Pictures of one size go through in one batch, as in FFCV's Loader with one thread."""
    groups = [group.numpy() for group in pictures.groups()]
    sides = list(zip(recipe.views, recipe.sizes, strict=True))
    stages = [[_compiled(view, size, recipe, group) for group in groups] for view, size in sides]

    def run() -> list[Tensor]:
        return [
            torch.cat([_views(steps, group) for steps, group in zip(row, groups, strict=True)])
            if len(groups) > 1
            else _views(row[0], groups[0])
            for row in stages
        ]

    return Built(run=run)


def _compiled(
    view: ViewRecipe, size: int, recipe: MultiCropRecipe, group: NDArray[np.uint8]
) -> list[Allocated]:
    """Each operation's compiled code with the memory that it asked for."""
    from ffcv.pipeline.allocation_query import allocate_query
    from ffcv.pipeline.compiler import Compiler
    from ffcv.pipeline.state import State

    Compiler.set_num_threads(1)
    state = State(
        jit_mode=True, device=torch.device("cpu"), shape=group.shape[1:], dtype=group.dtype
    )
    steps = []
    for operation in _operations(view, size, recipe):
        state, query = operation.declare_state_and_memory(state)
        memory = allocate_query(query, len(group), 1)[0]
        steps.append((Compiler.compile(operation.generate_code()), memory))
    return steps


def _operations(view: ViewRecipe, size: int, recipe: MultiCropRecipe) -> list[Any]:
    from ffcv import transforms

    levels = [255 * np.asarray(values) for values in (recipe.mean, recipe.std)]
    return [
        transforms.RandomResizedCrop(view.area, view.aspect, size),
        transforms.RandomHorizontalFlip(view.flip_probability),
        transforms.RandomBrightness(view.brightness, view.jitter_probability),
        transforms.RandomContrast(view.contrast, view.jitter_probability),
        transforms.RandomSaturation(view.saturation, view.jitter_probability),
        transforms.NormalizeImage(*levels, np.dtype(np.float32)),
    ]


def _views(steps: list[Allocated], pixels: NDArray[Any]) -> Tensor:
    """Run the steps; float32 [n, 3, s, s], channels last, as ToTorchImage gives it."""
    *all_but_last, (normalise, memory) = steps
    for step, room in all_but_last:
        pixels = step(pixels, room)
    return torch.from_numpy(normalise(pixels, memory, np.arange(len(pixels)))).permute(0, 3, 1, 2)
