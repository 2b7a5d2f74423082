"""The pictures that candidates make views of: decoded, in memory, the same for all.

Shapes: B pictures, M side of the mask grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.augment.recipe import MultiCropRecipe
from pipeline.batch import MASK_GRID, Bytes, DecodedBatch, Floats
from pipeline.loader import make_decoder
from pipeline.loader.decode import BadSamples, decode_batch, read_batch
from pipeline.loader.ring import Slot
from pipeline.saliency.codec import coverage
from pipeline.shards import open_shards

HEIGHT, WIDTH = 375, 500  # the commonest size of ImageNet's photos
DIFFERENT = 64  # more pictures than that repeat: 36 MB of pixels are in no cache


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """Decoded pictures with their masks."""

    decoded: DecodedBatch
    mask_coverage: Floats  # [B]
    source: str  # one line: where they are from

    def __len__(self) -> int:
        return len(self.decoded.sample_ids)

    def arrays(self) -> list[Bytes]:
        """The pictures as uint8 [height, width, 3], views of the batch."""
        images = self.decoded.images
        return [images.image(number).numpy() for number in range(len(self))]

    def groups(self) -> list[torch.Tensor]:
        """The pictures as uint8 [n, height, width, 3], those of one size together."""
        sizes: dict[tuple[int, ...], list[Bytes]] = {}
        for array in self.arrays():
            sizes.setdefault(array.shape, []).append(array)
        return [torch.from_numpy(np.stack(arrays)) for arrays in sizes.values()]

    def first(self, count: int) -> Pictures:
        """The first `count` pictures."""
        if count >= len(self):
            return self
        return Pictures(
            decoded=_batch(self.arrays()[:count], list(self.decoded.masks.numpy()[:count])),
            mask_coverage=self.mask_coverage[:count],
            source=self.source,
        )


def generated(count: int, *, height: int = HEIGHT, width: int = WIDTH) -> Pictures:
    """Textured pictures with a soft blob as mask; the same ones in every run."""
    rng = np.random.default_rng(20220114)
    different = min(count, DIFFERENT)
    images = [_texture(rng, height, width) for _ in range(different)]
    masks = [_blob(rng) for _ in range(different)]
    turns = range(count)
    return _pictures(
        _batch([images[i % different] for i in turns], [masks[i % different] for i in turns]),
        f"{different} generated pictures of {width}x{height}",
    )


def from_shards(path: Path, count: int) -> Pictures:
    """The first `count` samples of shards made by convert_dataset.py, decoded.

    Raises:
        ValueError: unreadable shards, or fewer samples than asked for.
    """
    shards = open_shards(path)
    try:
        if len(shards) < count:
            raise ValueError(f"{path} holds {len(shards)} samples; ask for no more --images")
        decoder = make_decoder("auto", shards, threads=1)
        bad = BadSamples(shards, budget=0)
        encoded = read_batch(shards, bad, sample_ids=np.arange(count))
        decoded = decode_batch(shards, decoder, Slot(), bad, encoded=encoded, epoch=0)
        decoder.close()
    finally:
        shards.close()
    return _pictures(decoded, f"{count} samples of {path.name}")


def bytes_to_move(pictures: Pictures, recipe: MultiCropRecipe, *, element_size: int = 4) -> float:
    """Bytes per picture that no way of working can avoid.

    The picture is read once, its mask grid too, and all views are written once.
    """
    read = pictures.decoded.images.pixels.numel() / len(pictures) + MASK_GRID * MASK_GRID
    return read + recipe.values_per_image * element_size


def _pictures(decoded: DecodedBatch, source: str) -> Pictures:
    covered = np.array([coverage(grid) for grid in decoded.masks.numpy()], np.float32)
    return Pictures(decoded=decoded, mask_coverage=covered, source=source)


def _batch(images: list[Bytes], masks: list[Bytes]) -> DecodedBatch:
    slot = Slot()
    heights = np.array([image.shape[0] for image in images], np.int32)
    widths = np.array([image.shape[1] for image in images], np.int32)
    room, grids = slot.lay_out(heights, widths)
    for number, image in enumerate(images):
        room.image(number).copy_(torch.from_numpy(image))
    grids.copy_(torch.from_numpy(np.stack(masks)))
    return DecodedBatch(
        images=room,
        masks=grids,
        labels=torch.zeros(len(images), dtype=torch.int64),
        sample_ids=np.arange(len(images)),
        epoch=0,
    )


def _texture(rng: np.random.Generator, height: int, width: int) -> Bytes:
    """Noise of all scales, the coarse ones strong, as photos have it; full range."""
    picture = np.full((height, width, 3), 128, np.float32)
    for cell, strength in ((128, 60), (32, 30), (8, 18), (1, 8)):
        shape = (height // cell + 2, width // cell + 2, 3)
        picture += _stretched(rng.normal(0, strength, shape).astype(np.float32), height, width)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _stretched(grid: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear between the points of a coarse grid."""
    for axis, size in ((0, height), (1, width)):
        place = np.linspace(0, grid.shape[axis] - 1.001, size, dtype=np.float32)
        low = place.astype(np.int64)
        share = (place - low).reshape([-1 if a == axis else 1 for a in range(3)])
        grid = np.take(grid, low, axis) * (1 - share) + np.take(grid, low + 1, axis) * share
    return grid


def _blob(rng: np.random.Generator) -> Bytes:
    y, x = np.mgrid[0:MASK_GRID, 0:MASK_GRID] / MASK_GRID
    top, left, tall, wide = rng.uniform(0.3, 0.7, 4)
    inside = 1.2 - np.hypot((y - top) / tall, (x - left) / wide) * 1.4
    return np.asarray(np.clip(inside, 0, 1) * 255, np.uint8)
