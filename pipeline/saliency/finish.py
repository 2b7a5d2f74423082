"""What becomes of a map before it is a mask: the CRF, as in the test of DeepUSPS, and a cut.

Each errs in its own places, so the mean of a map, of the map through the CRF and of the cut that
begins there has a better max-F than any of them (0.750 against 0.726, 0.732 and 0.731 on outlined
photos, docs/saliency_training.md).

Shapes: H/W sides of a picture, h/w of its map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.batch import MASK_GRID, Bytes, Floats
from pipeline.saliency.arrays import as_square
from pipeline.saliency.crf import CrfConfig, refine_by_crf
from pipeline.saliency.grab_cut import grab_cut

MOST_LEAN = 5.0  # 0.5 becomes 0.993


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish:
    """What is done to a map: nothing, the CRF, a mean with a cut, or a mean with both.

    Raises:
        ValueError: a value out of range.
    """

    lean: float = 0.0  # log odds that are added first: the CRF takes from what is not sure
    crf: CrfConfig | None = None  # None: there is none
    cut: bool = False  # begins at what comes out of the CRF, or at the map where there is none

    def __post_init__(self) -> None:
        if not abs(self.lean) <= MOST_LEAN:
            raise ValueError(f"a lean must lie in -{MOST_LEAN}..{MOST_LEAN}, got {self.lean}")


def finished(picture: Bytes, salient: Floats, finish: Finish) -> Floats:
    """Return the finished map, float32 [H, W] in 0..1.

    Args:
        picture: uint8 [H, W, 3].
        salient: float32 [H, W] in 0..1.
    """
    leaned: Floats = salient
    if finish.lean:
        raised = salient * math.exp(finish.lean)
        leaned = (raised / (1 - salient + raised)).astype(np.float32)
    opinions = [leaned]
    if finish.crf is not None:
        opinions.append(refine_by_crf(picture, leaned, finish.crf))
    if not finish.cut:
        return opinions[-1]
    opinions.append(grab_cut(picture, opinions[-1]))
    mean: Floats = np.mean(opinions, axis=0, dtype=np.float32)
    return mean


def finished_mask(picture: Bytes, salient: Floats, finish: Finish) -> Floats:
    """Return the map, finished at the size of a stored mask: float32 [128, 128] in 0..1.

    Args:
        picture: uint8 [H, W, 3], of any size.
        salient: float32 [h, w] in 0..1, of any size.
        finish: what is done to it.
    """
    mask: Floats = as_square(salient, MASK_GRID).clip(0, 1)
    return finished(as_square(picture, MASK_GRID), mask, finish)
