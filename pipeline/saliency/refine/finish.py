"""What becomes of a student's map before it is a mask: the CRF, as in the test of DeepUSPS.

Shapes: s sides of the student's input, h of its map.
"""

from __future__ import annotations

import cv2

from pipeline.batch import MASK_GRID, Bytes, Floats
from pipeline.saliency.refine.crf import CrfConfig, refine_by_crf
from pipeline.saliency.refine.maps import to_bytes


def finished(picture: Bytes, salient: Floats, crf: CrfConfig | None) -> Bytes:
    """Return the mask, uint8 [128, 128] of 0..255: as many cells as a stored mask has.

    Args:
        picture: uint8 [s, s, 3], what the student saw.
        salient: float32 [h, h], its probabilities.
        crf: None: the map is only brought to the size of masks.
    """
    size = (MASK_GRID, MASK_GRID)
    how = cv2.INTER_AREA if len(salient) > MASK_GRID else cv2.INTER_LINEAR
    resized: Floats = cv2.resize(salient, size, interpolation=how).clip(0, 1)
    if crf is not None:
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        resized = refine_by_crf(small, resized, crf)
    return to_bytes(resized)
