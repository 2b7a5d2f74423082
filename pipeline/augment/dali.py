"""Executor for users of DALI: the same params, carried out by a DALI graph on the CPU.

DALI draws nothing: `dali_inputs` lays out the params, `dali_graph` is the graph. One view is one
sample of DALI's batch, and pictures are lent to it, not copied. `compiled` does the same work in
less time; this one is for keeping a single graph.

Within 1/20 of a level of 255 of the reference, except that a bicubic resize with antialias reads
its widened kernel from DALI's table: up to half a level before the colours, which may stretch it.

Shapes: B samples, V views of one size, s side of a view.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.augment.dali_graph import GraphStyle, build_views_pipeline
from pipeline.augment.dali_inputs import Inputs, view_inputs
from pipeline.augment.params import ViewParams
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.batch import DecodedBatch, MultiCropBatch


class DaliViews:
    """Executor for CPU tensors. Holds a DALI pipeline for each size of view.

    Raises:
        ValueError: DALI is not installed.
    """

    def __init__(self, recipe: MultiCropRecipe, *, threads: int = 1) -> None:
        if find_spec("nvidia") is None or find_spec("nvidia.dali") is None:
            raise ValueError(
                "the executor 'dali' needs DALI, which is not installed; pip install "
                "nvidia-dali-cuda130, or choose the executor 'compiled'"
            )
        self.recipe = recipe
        self._large = _Graph(_style(recipe, recipe.large_size), threads)
        self._small = _Graph(_style(recipe, recipe.small_size), threads)

    def __call__(self, decoded: DecodedBatch, params: ViewParams) -> MultiCropBatch:
        recipe = self.recipe
        large, small = range(recipe.num_large), range(recipe.num_large, recipe.num_views)
        return MultiCropBatch(
            large=self._views(self._large, large, decoded, params),
            small=self._views(self._small, small, decoded, params),
            labels=decoded.labels.clone(),
            sample_ids=decoded.sample_ids,
            epoch=decoded.epoch,
        )

    def close(self) -> None:
        """Drop the pipelines and their threads."""
        self._large.close()
        self._small.close()

    def _views(
        self, graph: _Graph, views: range, decoded: DecodedBatch, params: ViewParams
    ) -> Tensor:
        """Make views of one size: float32 [V, B, 3, s, s]."""
        size, batch = graph.style.size, len(decoded.sample_ids)
        out = torch.empty(len(views), batch, 3, size, size)
        if out.numel():
            flat = out.view(-1, 3, size, size).numpy()
            graph.run(view_inputs(self.recipe, views, decoded, params), flat)
        return out


class _Graph:
    """A pipeline, built for the largest batch so far."""

    def __init__(self, style: GraphStyle, threads: int) -> None:
        self.style = style
        self._threads = threads
        self._pipeline: Any = None
        self._max_batch = 0

    def run(self, inputs: Inputs, out: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        """Fill `out` [N, 3, s, s]; the inputs are lent until this returns."""
        if self._pipeline is None or len(out) > self._max_batch:
            self._max_batch = max(self._max_batch, len(out))
            self._pipeline = build_views_pipeline(
                self.style, batch_size=self._max_batch, threads=self._threads
            )
        for name, values in inputs.items():
            self._pipeline.feed_input(name, values)
        (views,) = self._pipeline.run()
        out[...] = np.asarray(views.as_tensor())  # DALI uses its buffer again

    def close(self) -> None:
        self._pipeline = None


def _style(recipe: MultiCropRecipe, size: int) -> GraphStyle:
    return GraphStyle(
        size=size,
        bicubic=recipe.interpolation == "bicubic",
        antialias=recipe.antialias,
        torchvision=recipe.jitter_style == "torchvision",
        mean=recipe.mean,
        std=recipe.std,
    )
