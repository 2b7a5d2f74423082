"""MR: what ranks low when each side of the picture is asked for what is like it, is foreground.

Yang, Zhang, Lu, Ruan, Yang: "Saliency detection via graph-based manifold ranking", CVPR 2013.
Numbers in comments are its equations.

Shapes: N superpixels, Q queries.
"""

from __future__ import annotations

import numpy as np

from pipeline.saliency.arrays import Doubles, Flags, normalised
from pipeline.saliency.graph import border_linked, two_rings
from pipeline.saliency.superpixels import Scene

_ALPHA = 0.99  # section 5.1
_SIGMA_SQUARED = 0.1  # of colour distances in 0..1; section 5.1


def manifold_ranking(scene: Scene) -> Doubles:
    """Return the saliency [N], 0..1, of both stages."""
    ranking = ranking_matrix(affinities(scene, two_rings(border_linked(scene))))
    background = np.ones(len(ranking))
    for side in scene.sides:  # section 4.1: each side is asked alone, the answers multiplied
        background *= 1 - normalised(ranking @ side.astype(np.float64))
    first = normalised(background)
    found = first >= first.mean()  # section 4.2
    return normalised(ranking @ found.astype(np.float64))


def affinities(scene: Scene, linked: Flags) -> Doubles:
    """Return the weights [N, N] of linked superpixels, exp(-distance / sigma^2), else 0.

    Distances are divided by the largest between linked ones.
    """
    largest = scene.distances[linked].max(initial=0.0)
    alike = np.exp(-scene.distances / (max(largest, 1e-12) * _SIGMA_SQUARED))
    return np.where(linked, alike, 0.0)


def ranking_matrix(weights: Doubles) -> Doubles:
    """Return A of f = A y, [N, N]: (D - alpha W)^-1 with a zero diagonal (3), (4).

    The diagonal would make each query answer for itself (section 4.1).
    """
    degrees = np.maximum(weights.sum(axis=1), 1e-12)
    inverse = np.linalg.inv(np.diag(degrees) - _ALPHA * weights).astype(np.float64, copy=False)
    np.fill_diagonal(inverse, 0)
    return inverse
