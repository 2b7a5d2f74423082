"""Executor for CPUs: one compiled pass per view, without the GIL, samples spread over threads.

The arithmetic of `reference` in float32. The scratch of a view stays in the core's L2 cache and
only the normalised result is written out: 4.4 ms for the six views of a 500x375 photo
(docs/log.md).

Shapes: B samples, L large and S small views, s side of a view.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.augment.compiled_kernels import make_views
from pipeline.augment.params import JITTER_ORDERS, ViewParams
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.augment.reference import blur_radius, fill_levels, salience_limit
from pipeline.batch import DecodedBatch, MultiCropBatch

_ORDERS = np.array(JITTER_ORDERS, dtype=np.int64)


class CompiledViews:
    """Executor for CPU tensors. Holds its threads and one scratch per thread."""

    def __init__(self, recipe: MultiCropRecipe, *, threads: int = 1) -> None:
        self.recipe = recipe
        self._pool = ThreadPoolExecutor(threads, "views") if threads > 1 else None
        self._scratch = threading.local()
        radii = [blur_radius(s, r) for s, r in zip(recipe.sizes, recipe.views, strict=True)]
        self._radii = np.array(radii, np.int64)
        self._thresholds = np.array([r.solarize_threshold for r in recipe.views], np.float32)
        self._mean = np.array(recipe.mean, np.float32)
        self._scale = (1 / np.array(recipe.std, np.float64)).astype(np.float32)

    def __call__(self, decoded: DecodedBatch, params: ViewParams) -> MultiCropBatch:
        recipe, batch = self.recipe, len(decoded.sample_ids)
        large = torch.empty(recipe.num_large, batch, 3, recipe.large_size, recipe.large_size)
        small = torch.empty(recipe.num_small, batch, 3, recipe.small_size, recipe.small_size)
        arrays = self._arrays(decoded, params)
        outputs = (large.numpy(), small.numpy())

        def make_rows(start: int, step: int) -> None:
            scratch = self._buffers()
            for row in range(start, batch, step):
                make_views(row, *arrays, *outputs, *scratch)

        if self._pool is None:
            make_rows(0, 1)
        else:
            workers = min(self._pool._max_workers, batch)
            list(self._pool.map(make_rows, range(workers), [workers] * workers))
        return MultiCropBatch(
            large=large,
            small=small,
            labels=decoded.labels.clone(),
            sample_ids=decoded.sample_ids,
            epoch=decoded.epoch,
        )

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _arrays(self, decoded: DecodedBatch, params: ViewParams) -> tuple[object, ...]:
        images = decoded.images
        return (
            images.pixels.numpy(),
            images.offsets.numpy(),
            images.heights.numpy(),
            images.widths.numpy(),
            decoded.masks.numpy(),
            params.crop_top,
            params.crop_left,
            params.crop_height,
            params.crop_width,
            params.flip,
            np.stack([params.brightness, params.contrast, params.saturation, params.hue]),
            _ORDERS[params.jitter_order],
            params.grayscale,
            params.blur_sigma,
            params.solarize,
            params.mask,
            fill_levels(params.mask_fill),
            salience_limit(self.recipe.mask_threshold),
            self._radii,
            self._thresholds,
            self._mean,
            self._scale,
        )

    def _buffers(self) -> tuple[NDArray[np.float32], ...]:
        """This thread's scratch: fresh pages are dear, so it is kept between batches."""
        if not hasattr(self._scratch, "buffers"):
            size = max(self.recipe.sizes)
            self._scratch.buffers = (
                np.empty(3 * size * size, np.float32),
                np.empty(3 * size * size, np.float32),
                np.empty((4, 3, size), np.float32),
            )
        buffers: tuple[NDArray[np.float32], ...] = self._scratch.buffers
        return buffers
