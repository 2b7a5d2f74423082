"""Estimating the mask of a picture on its way into shards, and judging it.

Shapes: H/W sides of the picture, h/w of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.batch import Bytes
from pipeline.saliency.codec import decode_mask, encode_mask
from pipeline.saliency.provenance import MaskMethod


class MaskMaker(Protocol):
    """Makes masks; travels to worker processes, so it is small and can be pickled."""

    @property
    def method(self) -> MaskMethod: ...

    def mask(self, picture: Bytes) -> Bytes:
        """Return the mask, uint8 [h, w] of 0..255, of a picture, uint8 [H, W, 3] upright RGB."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimatedMask:
    """A mask that was made of a picture, or why it is not used."""

    picture_sha256: bytes  # of the JPEG that shards hold of it
    mask: bytes  # a record of the codec; empty: the gate refused it
    fault: str  # what the gate said; empty: nothing


def estimate_mask(pixels: Bytes, picture_sha256: bytes, maker: MaskMaker) -> EstimatedMask:
    """Make and judge the mask of a picture, uint8 [H, W, 3] upright RGB.

    It is judged as it is stored: what the index says of its coverage is what the gate has seen.
    """
    from pipeline.saliency.gate import judge  # with OpenCV: where masks are given, nobody asks

    record = encode_mask(maker.mask(pixels))
    fault = judge(decode_mask(record).astype(np.float32) / np.float32(255)).fault
    return EstimatedMask(
        picture_sha256=picture_sha256, mask=b"" if fault else record, fault=fault or ""
    )
