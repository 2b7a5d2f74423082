"""Which superpixels are neighbours, in the wider senses of the papers.

Shapes: N superpixels.
"""

from __future__ import annotations

import numpy as np

from pipeline.saliency.arrays import Flags
from pipeline.saliency.superpixels import Scene


def border_linked(scene: Scene) -> Flags:
    """Return [N, N]: what is adjacent, and all pairs on the border; nothing with itself."""
    linked: Flags = scene.adjacent | np.logical_and.outer(scene.border, scene.border)
    np.fill_diagonal(linked, False)
    return linked


def two_rings(linked: Flags) -> Flags:
    """Return [N, N]: neighbours and neighbours of neighbours; nothing with itself."""
    steps = linked.astype(np.float32)
    rings: Flags = linked | (steps @ steps > 0)
    np.fill_diagonal(rings, False)
    return rings
