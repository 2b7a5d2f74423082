"""A cut of a picture in two, by colour models of its own: GrabCut, started by a map.

Rother, Kolmogorov and Blake: "GrabCut", SIGGRAPH 2004; saliency starts it in Cheng et al., "Global
contrast based salient region detection", CVPR 2011.
Mixtures of five Gaussians model the colours on either side; a minimum cut finds the side of each
pixel. The CRF (crf.py) has no model of an object's colours, only that like pixels go together.

Shapes: H/W sides.
"""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.batch import Bytes, Floats

_ITERATIONS = 1  # a second one loses objects: docs/saliency_training.md
_LEAST = 16  # pixels that either side must have: five Gaussians are fitted to them


def grab_cut(picture: Bytes, salient: Floats) -> Floats:
    """Return 1 where the object is, 0 elsewhere, float32 [H, W].

    Where a side has fewer than 16 pixels, nothing is modelled: the map is thresholded.

    Args:
        picture: uint8 [H, W, 3].
        salient: float32 [H, W] in 0..1; the models are first fitted to either side of 0.5.
    """
    above = salient > 0.5
    if min(above.sum(), (~above).sum()) < _LEAST:
        return above.astype(np.float32)
    sides = np.where(above, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    models = np.zeros((2, 1, 65))
    cv2.setRNGSeed(0)  # of this thread: the models' k-means begins at random
    cv2.grabCut(picture, sides, None, models[0], models[1], _ITERATIONS, cv2.GC_INIT_WITH_MASK)
    cut: Floats = (sides == cv2.GC_PR_FGD).astype(np.float32)
    return cut
