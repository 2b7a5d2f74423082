"""Parts of a batch: some of its samples, and their places in one shared buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pipeline.batch import EncodedBatch, Ids, RaggedImages
from pipeline.loader.ring import Slot


def some_encoded(encoded: EncodedBatch, rows: Sequence[int] | Ids) -> EncodedBatch:
    """The samples of these rows, in their order; nothing is copied but the small arrays."""
    index = np.asarray(rows, np.int64)
    return replace(
        encoded,
        jpegs=tuple(encoded.jpegs[row] for row in index),
        masks=tuple(encoded.masks[row] for row in index),
        heights=encoded.heights[index],
        widths=encoded.widths[index],
        labels=encoded.labels[index],
        sample_ids=encoded.sample_ids[index],
        faults={
            number: encoded.faults[int(row)]
            for number, row in enumerate(index)
            if int(row) in encoded.faults
        },
    )


def some_images(images: RaggedImages, rows: Sequence[int] | Ids) -> RaggedImages:
    """The places of these rows in the same buffer; other images may lie between them."""
    index = torch.from_numpy(np.asarray(rows, np.int64))
    return RaggedImages(
        pixels=images.pixels,
        offsets=images.offsets[index],
        heights=images.heights[index],
        widths=images.widths[index],
    )


def byte_sizes(images: RaggedImages) -> Tensor:
    """Bytes of each image, int64 [B]."""
    return images.heights.to(torch.int64) * images.widths * 3


def places(images: RaggedImages) -> list[Tensor]:
    """The room of each image as a flat view of the buffer, uint8 [bytes] each."""
    ends = images.offsets + byte_sizes(images)
    pairs = zip(images.offsets.tolist(), ends.tolist(), strict=True)
    return [images.pixels[start:end] for start, end in pairs]


def side_by_side(pixels: Tensor, images: RaggedImages) -> RaggedImages:
    """Room for images of the same sizes, one after another from the start of `pixels`."""
    sizes = byte_sizes(images)
    return RaggedImages(
        pixels=pixels[: int(sizes.sum())],
        offsets=sizes.cumsum(0) - sizes,
        heights=images.heights,
        widths=images.widths,
    )


def one_run(images: RaggedImages) -> Tensor | None:
    """The bytes of all images as one view, if they lie one after another in order; else None."""
    sizes = byte_sizes(images)
    start = int(images.offsets[0])
    if not torch.equal(images.offsets, start + sizes.cumsum(0) - sizes):
        return None
    return images.pixels[start : start + int(sizes.sum())]


def room_for(encoded: EncodedBatch, device: torch.device) -> RaggedImages:
    """New buffers on a device for the images of a batch."""
    images, _ = Slot(device).lay_out(encoded.heights, encoded.widths)
    return images
