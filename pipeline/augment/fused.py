"""Executor for GPUs: all views of a batch in six launches, three for each view size.

(One more, and a memset, where the background becomes the image's mean.) From ragged decoded images
and params to normalised views in channels_last memory, float32 or bfloat16. `launch` neither
allocates nor waits, and can be captured in a CUDA graph; the graph is good until a larger batch
makes `prepare` take new buffers.

Roofline of an H100 (132 multiprocessors, 1.7 GHz, 3 TB/s) or H200 (4.8 TB/s), for the six views,
4x224 + 2x96 = 219,136 pixels, of a 500x375 photo:

    bytes that must move   0.56 MB of pixels, 0.02 MB of mask, 1.31 MB of bfloat16 views: 1.9 MB,
                           0.6 us at 3 TB/s
    bytes that do move     16-bit scratch too: contrast needs the mean of all pixels before any of
                           them, the blur its neighbours; about 5 MB, 1.7 us
    instructions           counted in the code for sm_90: 270 a pixel in the crop (16 words loaded,
                           48 bytes to floats, 60 products), 100 in the second pass (4 of 5 views),
                           285 in the blur (half of the pixels): 109 million, 3.7 us at 128 a clock
                           and multiprocessor
    tensor cores           576 products a blurred pixel: 0.13 GFLOP, 0.2 us at 800 TFLOP/s

Instructions bind, not bytes: 4 us a photo, 13 % of the roof of bytes (22 % for float32 views), are
the best to expect. That is a prediction. No GPU has run this; its distance is not measured.

Shapes: B samples, V views (L large, S small), s side of a view, M mask grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import triton
from torch import Tensor

from pipeline.augment import fused_kernels as kernels
from pipeline.augment.fused_table import params_table
from pipeline.augment.fused_upload import Upload
from pipeline.augment.params import MEAN, ViewParams
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.augment.recycled import RecycledMemory
from pipeline.augment.reference import blur_radius, salience_limit
from pipeline.batch import DecodedBatch, MultiCropBatch

# What one program of four warps works on. Crop: strips of so many rows, so many columns at a time;
# left alone it would take all 255 registers, and half as many warps would fit. Blur: squares.
CROP_TILE = (16, 32)
CROP_REGISTERS = 168
BLUR_TILE = 32
BLOCK = 1024  # pixels, where a program needs no neighbours
MARGIN = (
    16  # bytes before and behind the pixels: taps are read as whole words, some of them outside
)
LARGEST_IMAGE = 2**31 - 2**16  # bytes; positions within an image are 32-bit integers


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedWork:
    """One batch on the device, ready to launch. The pixels lie in the executor's one buffer."""

    words: Tensor  # int32, the buffer by four bytes
    pixels: Tensor  # uint8, its pixels
    offsets: Tensor  # int64 [B]
    heights: Tensor  # int32 [B]
    widths: Tensor  # int32 [B]
    grids: Tensor  # uint8 [B, M, M]
    table: Tensor  # int32 [B, V, words of fused_table]
    large: Tensor  # the views, [L, B, 3, s, s] in channels_last memory
    small: Tensor  # [S, B, 3, s, s]

    @property
    def batch_size(self) -> int:
        return len(self.heights)


class FusedViews:
    """Executor on a CUDA device. Holds the buffers that a batch passes through, and a stream.

    `__call__` takes decoded images on CPU or device and returns views with the event after which
    they are finished, and after which the decoded images may be overwritten; it waits for nothing.
    `prepare` and `launch` are its two halves, on the current stream. One batch at a time: the next
    `prepare` overwrites the buffers, in the order of the stream.

    `crop_tile`, powers of two, changes no pixel: Triton's interpreter, which pays by the program,
    is faster with a large one.

    Raises:
        ValueError: the device is not a CUDA device.
    """

    def __init__(
        self,
        recipe: MultiCropRecipe,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        crop_tile: tuple[int, int] = CROP_TILE,
    ) -> None:
        if device.type != "cuda" and isinstance(kernels.resample, triton.JITFunction):
            raise ValueError(
                f"executor fused makes views on CUDA devices, not on {device.type!r}; use compiled"
            )
        self.recipe = recipe
        self._device, self._dtype, self._crop_tile = device, dtype, crop_tile
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        radii = [blur_radius(s, r) for s, r in zip(recipe.sizes, recipe.views, strict=True)]
        thresholds = [view.solarize_threshold for view in recipe.views]
        self._radii = torch.tensor(radii, dtype=torch.int32, device=device)
        self._thresholds = torch.tensor(thresholds, dtype=torch.float32, device=device)
        self._radii_of = radii
        self._normalise = (*map(float, recipe.mean), *(1 / std for std in recipe.std))
        # One for each size: views that come back in another order would take each other's place.
        self._large_memory, self._small_memory = RecycledMemory(device), RecycledMemory(device)
        self._upload = Upload(device)
        self._bytes = torch.empty(0, dtype=torch.uint8, device=device)
        self._scratch = torch.empty(0, dtype=torch.uint16, device=device)
        self._sums = torch.empty(0, dtype=torch.float32, device=device)
        self._level_sums = torch.empty(0, 3, dtype=torch.int64, device=device)

    def __call__(self, decoded: DecodedBatch, params: ViewParams) -> MultiCropBatch:
        with self._on_own_stream():
            work = self.prepare(decoded, params)
            self.launch(work)
            ready = self._event()
        return MultiCropBatch(
            large=work.large,
            small=work.small,
            labels=decoded.labels.clone(),
            sample_ids=decoded.sample_ids,
            epoch=decoded.epoch,
            ready=ready,
        )

    def close(self) -> None:
        """Nothing runs in the background."""

    def prepare(self, decoded: DecodedBatch, params: ViewParams) -> FusedWork:
        """Bring a batch to the device and make room for its views.

        Raises:
            ValueError: an image of 2 GiB or more.
        """
        recipe, images = self.recipe, decoded.images
        _check(images.heights, images.widths)
        assert recipe.mask_fill == "image-mean" or not (params.mask_source == MEAN).any()
        batch, length = len(decoded.sample_ids), len(images.pixels)
        self._make_room(length, batch)
        pixels = self._bytes[MARGIN : MARGIN + length]
        pixels.copy_(images.pixels, non_blocking=True)
        table = torch.from_numpy(params_table(params))
        offsets, heights, widths, grids, table = self._upload(
            images.offsets, images.heights, images.widths, decoded.masks, table
        )
        return FusedWork(
            words=self._bytes[MARGIN:].view(torch.int32),
            pixels=pixels,
            offsets=offsets,
            heights=heights,
            widths=widths,
            grids=grids,
            table=table,
            large=self._room(self._large_memory, recipe.num_large, batch, recipe.large_size),
            small=self._room(self._small_memory, recipe.num_small, batch, recipe.small_size),
        )

    def launch(self, work: FusedWork) -> None:
        """Make the views of a prepared batch: kernels only, no allocation, no waiting."""
        recipe = self.recipe
        if recipe.mask_fill == "image-mean":
            programs = 32  # an image: enough to fill a GPU with a batch of a few
            self._level_sums.zero_()
            kernels.add_levels[(work.batch_size * programs,)](
                work.pixels,
                work.offsets,
                work.heights,
                work.widths,
                self._level_sums,
                PROGRAMS=programs,
                BLOCK=BLOCK,
            )
        self._launch_size(work, work.large, first=0, size=recipe.large_size)
        if recipe.num_small:
            self._launch_size(work, work.small, first=recipe.num_large, size=recipe.small_size)

    def _launch_size(self, work: FusedWork, out: Tensor, *, first: int, size: int) -> None:
        recipe, views = self.recipe, len(out)
        rows, strips = work.batch_size * views, self._strips(size)
        table = (work.table, work.table.view(torch.float32), self._thresholds)
        which = {"FIRST": first, "VIEWS": views, "ALL_VIEWS": recipe.num_views, "SIZE": size}
        torchvision = recipe.jitter_style == "torchvision"
        kernels.resample[(rows * strips,)](
            work.words,
            work.pixels,
            work.offsets,
            work.heights,
            work.widths,
            work.grids,
            self._level_sums,
            *table,
            self._scratch,
            self._sums,
            out,
            salience_limit(recipe.mask_threshold),
            *self._normalise,
            work.batch_size,
            **which,
            STRIPS=strips,
            ROWS=self._crop_tile[0],
            COLUMNS=self._crop_tile[1],
            CUBIC=recipe.interpolation == "bicubic",
            ANTIALIAS=recipe.antialias,
            TORCHVISION=torchvision,
            IMAGE_MEAN=recipe.mask_fill == "image-mean",
            maxnreg=CROP_REGISTERS,
        )
        kernels.recolor[(rows * -(-(size**2) // BLOCK),)](
            *table,
            self._scratch,
            self._sums,
            out,
            *self._normalise,
            work.batch_size,
            **which,
            PARTS=strips,
            PARTS_POWER=triton.next_power_of_2(strips),
            TORCHVISION=torchvision,
            BLOCK=BLOCK,
        )
        tiles, radius = -(-size // BLUR_TILE), max(self._radii_of[first : first + views])
        kernels.blur[(rows * tiles**2,)](
            *table,
            self._radii,
            self._scratch,
            out,
            *self._normalise,
            work.batch_size,
            **which,
            TILES=tiles,
            T=BLUR_TILE,
            RADIUS=radius,
            TAPS=triton.next_power_of_2(2 * radius + 1),
        )

    def _make_room(self, length: int, batch: int) -> None:
        """Grow the buffers where this batch needs more than all before it."""
        recipe = self.recipe
        if len(self._bytes) < length + 2 * MARGIN:
            # A quarter more than asked: batches differ in size. Whole words, margins included.
            room = (length * 5 // 4 + 2 * MARGIN + 3) // 4 * 4
            self._bytes = torch.zeros(room, dtype=torch.uint8, device=self._device)
        groups = ((recipe.num_large, recipe.large_size), (recipe.num_small, recipe.small_size))
        scratch = max(views * 3 * size**2 for views, size in groups) * batch
        sums = max(views * 3 * self._strips(size) for views, size in groups) * batch
        if len(self._scratch) < scratch:
            self._scratch = torch.empty(scratch, dtype=torch.uint16, device=self._device)
            self._sums = torch.empty(sums, dtype=torch.float32, device=self._device)
            self._level_sums = torch.empty(batch, 3, dtype=torch.int64, device=self._device)

    def _strips(self, size: int) -> int:
        """Strips of rows that the crop of a view is divided into."""
        return -(-size // self._crop_tile[0])

    def _room(self, memory: RecycledMemory, views: int, batch: int, size: int) -> Tensor:
        room = memory.empty(views, batch, size, size, 3, dtype=self._dtype)
        return room.permute(0, 1, 4, 2, 3)

    @contextmanager
    def _on_own_stream(self) -> Iterator[None]:
        """Work on the executor's stream, beside the training's."""
        if self._stream is None:
            yield
            return
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            yield

    def _event(self) -> torch.cuda.Event | None:
        """What passes when all that has been launched is done."""
        if self._stream is None:
            return None
        # Whoever waits for it on the host (the ring, before it uses the pixels' memory again)
        # sleeps, and needs no core.
        event = torch.cuda.Event(blocking=True)
        event.record()
        return event


def _check(heights: Tensor, widths: Tensor) -> None:
    """Refuse images too large for 32-bit positions; those on a device are not waited for."""
    if heights.device.type != "cpu":
        return
    sizes = heights.numpy().astype(np.int64) * widths.numpy() * 3
    if len(sizes) and sizes.max() > LARGEST_IMAGE:
        row = int(sizes.argmax())
        raise ValueError(
            f"an image of {int(heights[row])}x{int(widths[row])} pixels is too large for the "
            "executor fused; use compiled, or convert the pictures with --short-side"
        )
