"""S-measure: does a saliency map have the structure of the true mask.

Fan, Cheng, Liu, Li, Borji: "Structure-measure: a new way to evaluate foreground maps", ICCV 2017.
Numbers in comments are its equations.

Shapes: H/W of the picture.
"""

from __future__ import annotations

import numpy as np

from pipeline.saliency.arrays import Flags, Floats

_ALPHA = 0.5  # (8): share of the object-aware part
_TINY = 1e-12


def structure_measure(saliency: Floats, truth: Flags) -> float:
    """Return the S-measure, 0..1, of a map [H, W] in 0..1 against the truth, bool [H, W].

    Where the truth is empty or full, only the map's mean counts, as in the authors' code.
    """
    share, mean = float(truth.mean()), float(saliency.mean(dtype=np.float64))
    if share == 0:
        return 1 - mean
    if share == 1:
        return mean
    whole = _ALPHA * _object_part(saliency, truth) + (1 - _ALPHA) * _region_part(saliency, truth)
    return max(whole, 0.0)


def _object_part(saliency: Floats, truth: Flags) -> float:
    """Foreground bright and even, background dark and even, by their shares: (5) to (7)."""
    share = float(truth.mean())
    return share * _evenness(saliency[truth]) + (1 - share) * _evenness(1 - saliency[~truth])


def _evenness(values: Floats) -> float:
    mean = float(values.mean(dtype=np.float64))
    spread = float(values.std(dtype=np.float64, ddof=1)) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + spread + _TINY)


def _region_part(saliency: Floats, truth: Flags) -> float:
    """The similarity of four blocks around the truth's centroid, by their areas: (2) to (4)."""
    height, width = truth.shape
    rows, columns = np.nonzero(truth)
    # the centroid counts from one, and its row and column belong to the upper left block
    y = int(np.floor(rows.mean() + 0.5)) + 1
    x = int(np.floor(columns.mean() + 0.5)) + 1
    total = 0.0
    for down in (slice(None, y), slice(y, None)):
        for along in (slice(None, x), slice(x, None)):
            block = truth[down, along]
            if block.size:
                similar = _similarity(saliency[down, along], block.astype(np.float32))
                total += similar * block.size / (height * width)
    return total


def _similarity(one: Floats, other: Floats) -> float:
    """SSIM of two blocks as a whole, without its small constants: (2)."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    mean_a, mean_b = a.mean(), b.mean()
    count = max(a.size - 1, 1)
    var_a, var_b = ((a - mean_a) ** 2).sum() / count, ((b - mean_b) ** 2).sum() / count
    joint = ((a - mean_a) * (b - mean_b)).sum() / count
    above = 4 * mean_a * mean_b * joint
    below = (mean_a**2 + mean_b**2) * (var_a + var_b)
    if above != 0:
        return float(above / (below + _TINY))
    return 1.0 if below == 0 else 0.0
