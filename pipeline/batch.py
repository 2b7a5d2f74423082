"""What travels between the stages of the pipeline.

EncodedBatch -> DecodedBatch -> MultiCropBatch; see docs/design.md for who makes and who eats each.

Shapes: B local batch, L large views, S small views, M side of the mask grid, H/W sides of a large
view, h/w sides of a small view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a conversion holds no tensors, and starts without torch
    import torch
    from torch import Tensor

Ids = NDArray[np.int64]
Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

MASK_GRID = 128  # M: every stored mask is a grid of 128 x 128 levels over the whole image


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedBatch:
    """Samples as stored: the bytes of a JPEG and of a mask each.

    Bytes lie in the memory that was given to `Shards.read`, until it is given again.
    """

    jpegs: tuple[memoryview, ...]  # [B]
    masks: tuple[memoryview, ...]  # [B] mask codec bytes; length 0: this sample has no mask
    heights: Ints  # [B] pixels
    widths: Ints  # [B] pixels
    labels: Ints  # [B]; -1: unlabelled
    sample_ids: Ids  # [B]
    faults: Mapping[int, str] = field(default_factory=dict)  # row -> why its bytes are no good


@dataclass(frozen=True, kw_only=True, slots=True)
class RaggedImages:
    """Images of different sizes in one buffer, one after another, without padding."""

    pixels: Tensor  # uint8 [total], each image as rows of RGB
    offsets: Tensor  # int64 [B], first byte of each image
    heights: Tensor  # int32 [B]
    widths: Tensor  # int32 [B]

    def image(self, row: int) -> Tensor:
        """Return image `row` as uint8 [height, width, 3], a view of the buffer."""
        height, width = int(self.heights[row]), int(self.widths[row])
        start = int(self.offsets[row])
        return self.pixels[start : start + height * width * 3].view(height, width, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedBatch:
    """Decoded images and mask grids of one local batch; its buffers belong to a ring slot."""

    images: RaggedImages
    masks: Tensor  # uint8 [B, M, M], 0..255, a grid over the whole image; 255 where there is none
    labels: Tensor  # int64 [B]
    sample_ids: Ids  # [B]
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiCropBatch:
    """Augmented, normalised views of one local batch.

    float32 on the CPU; from an executor that works on a GPU, there, in the type that was asked for,
    and in channels_last memory. `ready`: from an executor, views are finished when this event has
    passed; the loader makes the consumer's stream wait for it, so there it is None.
    """

    large: Tensor  # [L, B, 3, H, W]
    small: Tensor  # [S, B, 3, h, w]
    labels: Tensor  # int64 [B]
    sample_ids: Ids  # [B]
    epoch: int
    ready: torch.cuda.Event | None = None
