"""MC: a random walk that is absorbed at the border takes longest from the foreground.

Jiang, Zhang, Lu, Yang, Yang: "Saliency detection via absorbing Markov chain", ICCV 2013.

Shapes: N superpixels, B of them on the border.
"""

from __future__ import annotations

import numpy as np

from pipeline.saliency.arrays import Doubles, Flags, normalised
from pipeline.saliency.graph import border_linked, two_rings
from pipeline.saliency.manifold_ranking import affinities
from pipeline.saliency.superpixels import Scene

_LEVELS = 10  # section 4.3: bins of the histogram
_SCATTERED = 2.0  # section 4.3: threshold of its score


def absorbing_chain(scene: Scene) -> Doubles:
    """Return the saliency [N], 0..1: the time until absorption.

    Where long times are scattered over the picture, as in a homogeneous middle that belongs to the
    background, each visited superpixel counts by how rarely a free walk is there (section 4.3).
    """
    weights = affinities(scene, two_rings(border_linked(scene)))
    visits = expected_visits(weights, scene.border)
    saliency = normalised(visits.sum(axis=1))
    if scattering(saliency) > _SCATTERED:
        rest = weights.sum(axis=1) + 1  # a free walk's equilibrium is in proportion to this
        saliency = normalised(visits @ (rest.sum() / rest))
    return saliency


def expected_visits(weights: Doubles, border: Flags) -> Doubles:
    """Return T = (I - Q)^-1, [N, N]: visits to each state from each, before absorption (section 3).

    Each border superpixel has an absorbing double, linked to it with weight 1 and to what it is
    linked to with the same weights; each superpixel is linked to itself with weight 1.
    """
    loops = weights + np.eye(len(weights))
    leaving = loops[:, border].sum(axis=1)
    total = loops.sum(axis=1) + leaving
    visits: Doubles = np.linalg.inv(np.eye(len(weights)) - loops / total[:, None])
    return visits


def scattering(saliency: Doubles) -> float:
    """Return the score of section 4.3: high where many superpixels are neither salient nor not."""
    bins = np.minimum((saliency * _LEVELS).astype(int), _LEVELS - 1) + 1
    shares = np.bincount(bins, minlength=_LEVELS + 1)[1:] / len(saliency)
    level = np.arange(1, _LEVELS + 1)
    return float((shares * np.minimum(level, _LEVELS + 1 - level)).sum())
