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
Described = tuple[str, tuple[Any, ...]]  # an operation: the name of its class, its arguments


def make(pictures: Pictures, recipe: MultiCropRecipe) -> Built:
    """Pictures of one size go through in one batch, as in FFCV's Loader with one thread."""
    groups = [group.numpy() for group in pictures.groups()]
    compiled: dict[Described, Step] = {}
    stages = [
        [_allocated(_described(view, size, recipe), group, compiled) for group in groups]
        for view, size in zip(recipe.views, recipe.sizes, strict=True)
    ]

    def run() -> list[Tensor]:
        made = [
            [_views(steps, group) for steps, group in zip(row, groups, strict=True)]
            for row in stages
        ]
        return [batches[0] if len(batches) == 1 else torch.cat(batches) for batches in made]

    return Built(run=run)


def _described(view: ViewRecipe, size: int, recipe: MultiCropRecipe) -> list[Described]:
    return [
        ("RandomResizedCrop", (view.area, view.aspect, size)),
        ("RandomHorizontalFlip", (view.flip_probability,)),
        ("RandomBrightness", (view.brightness, view.jitter_probability)),
        ("RandomContrast", (view.contrast, view.jitter_probability)),
        ("RandomSaturation", (view.saturation, view.jitter_probability)),
        ("NormalizeImage", (recipe.mean, recipe.std)),
    ]


def _allocated(
    described: list[Described], group: NDArray[np.uint8], compiled: dict[Described, Step]
) -> list[Allocated]:
    """Each operation's compiled code with memory of its own, as much as it asks for.

    Operations of the same settings share their code, which takes seconds to compile.
    """
    from ffcv.pipeline.allocation_query import allocate_query
    from ffcv.pipeline.compiler import Compiler
    from ffcv.pipeline.state import State

    Compiler.set_num_threads(1)
    state = State(
        jit_mode=True, device=torch.device("cpu"), shape=group.shape[1:], dtype=group.dtype
    )
    steps = []
    for name, arguments in described:
        operation = _operation(name, arguments)
        state, query = operation.declare_state_and_memory(state)
        if (name, arguments) not in compiled:
            compiled[name, arguments] = Compiler.compile(operation.generate_code())
        steps.append((compiled[name, arguments], allocate_query(query, len(group), 1)[0]))
    return steps


def _operation(name: str, arguments: tuple[Any, ...]) -> Any:
    from ffcv import transforms

    if name == "NormalizeImage":
        levels = [255 * np.asarray(values) for values in arguments]
        return transforms.NormalizeImage(*levels, np.dtype(np.float32))
    return getattr(transforms, name)(*arguments)


def _views(steps: list[Allocated], pixels: NDArray[Any]) -> Tensor:
    """Run the steps; float32 [n, 3, s, s], channels last, as ToTorchImage gives it."""
    *all_but_last, (normalise, memory) = steps
    for step, room in all_but_last:
        pixels = step(pixels, room)
    return torch.from_numpy(normalise(pixels, memory, np.arange(len(pixels)))).permute(0, 3, 1, 2)
