"""Otsu's threshold of weighted values."""

from __future__ import annotations

import numpy as np

from pipeline.saliency.arrays import Doubles

_BINS = 256


def otsu(values: Doubles, weights: Doubles) -> float:
    """Return the threshold that best parts values in 0..1 in two classes (Otsu 1979).

    Of equally good ones, the middle.
    """
    bins = np.minimum((values * _BINS).astype(int), _BINS - 1)
    share = np.bincount(bins, weights, _BINS) / weights.sum()
    level = (np.arange(_BINS) + 0.5) / _BINS
    below, mass = share.cumsum(), (share * level).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass[-1] * below - mass) ** 2 / (below * (1 - below))
    between = np.where((below > 1e-9) & (below < 1 - 1e-9), between, 0)
    best = np.flatnonzero(between >= between.max() - 1e-12)
    return (float(best.mean()) + 1) / _BINS
