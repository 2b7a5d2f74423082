"""Executor for CPUs: one compiled pass per view, without the GIL, samples spread over threads.

The arithmetic of `reference` in float32. A view stays near the core from its source pixels to its
colours; only the normalised result is written out. docs/log.md has what each step costs.

Shapes: B samples, V views (L large, S small), s side of a view.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from pipeline.augment.compiled_blur import scratch_length
from pipeline.augment.compiled_views import make_views
from pipeline.augment.params import JITTER_ORDERS, ViewParams
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.augment.recycled import RecycledMemory
from pipeline.augment.reference import blur_radius, color_levels, salience_limit
from pipeline.batch import DecodedBatch, MultiCropBatch
from pipeline.stats import Beat, no_beat
from pipeline.threads import Threads

_ORDERS = np.array(JITTER_ORDERS, dtype=np.int64)


class CompiledViews:
    """Executor for CPU tensors. Holds its threads, a scratch for each, and the memory of views.

    `pinned`: the views lie in memory that a GPU can copy from by itself.
    """

    def __init__(
        self,
        recipe: MultiCropRecipe,
        *,
        threads: int = 1,
        pinned: bool = False,
        beat: Beat = no_beat,
    ) -> None:
        self.recipe = recipe
        self._threads = Threads(threads, "views")
        self._beat = beat
        self._scratch = threading.local()
        # One for each size: views that come back in another order would take each other's place.
        self._large_memory = RecycledMemory(pinned=pinned)
        self._small_memory = RecycledMemory(pinned=pinned)
        self._radii = np.array(
            [blur_radius(s, r) for s, r in zip(recipe.sizes, recipe.views, strict=True)], np.int64
        )
        self._style = (
            recipe.interpolation == "bicubic",
            recipe.antialias,
            recipe.jitter_style == "torchvision",
        )
        self._output = (
            self._radii,
            np.array([view.solarize_threshold for view in recipe.views], np.float32),
            np.array(recipe.mean, np.float32),
            (1 / np.array(recipe.std, np.float64)).astype(np.float32),
        )

    def __call__(self, decoded: DecodedBatch, params: ViewParams) -> MultiCropBatch:
        recipe, batch = self.recipe, len(decoded.sample_ids)
        large_side, small_side = recipe.large_size, recipe.small_size
        large = self._large_memory.empty(recipe.num_large, batch, 3, large_side, large_side)
        small = self._small_memory.empty(recipe.num_small, batch, 3, small_side, small_side)
        arrays = (*self._arrays(decoded, params), large.numpy(), small.numpy())
        # Threads take the next sample when they are free: samples differ in work, cores in speed.
        samples = iter(range(batch))

        def make_samples() -> None:
            scratch = self._buffers()
            for row in samples:
                self._beat(int(decoded.sample_ids[row]))
                make_views(row, *arrays, *scratch)

        self._threads.run(make_samples)
        return MultiCropBatch(
            large=large,
            small=small,
            labels=decoded.labels.clone(),
            sample_ids=decoded.sample_ids,
            epoch=decoded.epoch,
        )

    def close(self) -> None:
        """End the threads."""
        self._threads.close()

    def _arrays(self, decoded: DecodedBatch, params: ViewParams) -> tuple[object, ...]:
        """Lay out the arguments of `make_views`, in its order."""
        images = decoded.images
        sides = (params.crop_top, params.crop_left, params.crop_height, params.crop_width)
        factors = (params.brightness, params.contrast, params.saturation, params.hue)
        return (
            tuple(
                tensor.numpy()
                for tensor in (images.pixels, images.offsets, images.heights, images.widths)
            ),
            decoded.masks.numpy(),
            (np.stack(sides).astype(np.int64), params.flip),
            (
                np.stack(factors),
                _ORDERS[params.jitter_order],
                params.grayscale,
                params.blur_sigma,
                params.solarize,
            ),
            (
                params.mask,
                params.mask_source,
                color_levels(params.mask_color),
                salience_limit(self.recipe.mask_threshold),
            ),
            self._style,
            self._output,
        )

    def _buffers(self) -> tuple[NDArray[np.float32], ...]:
        """This thread's scratch: fresh pages are dear, so it is kept between batches."""
        if not hasattr(self._scratch, "buffers"):
            size = max(self.recipe.sizes)
            self._scratch.buffers = (
                np.empty(3 * size * size, np.float32),
                np.empty(scratch_length(size, int(self._radii.max())), np.float32),
            )
        buffers: tuple[NDArray[np.float32], ...] = self._scratch.buffers
        return buffers
