"""RBD: background is what the border of the picture runs through; foreground contrasts with it.

Zhu, Liang, Wei, Sun: "Saliency optimization from robust background detection", CVPR 2014. Numbers
in comments are its equations; "code" marks what the authors' published code adds to them.

Shapes: N superpixels.
"""

from __future__ import annotations

import numpy as np

from pipeline.saliency.arrays import Doubles, Flags, normalised
from pipeline.saliency.compiled_ways import shortest_ways
from pipeline.saliency.graph import border_linked, two_rings
from pipeline.saliency.otsu import otsu
from pipeline.saliency.superpixels import Scene

_GEODESIC_SIGMA = 7.0  # Lab units, in (1); the paper has 5 to 15, the code's comment advises 7
_COLOUR_SIGMA = 10.0  # Lab units, in (10)
_CONNECTIVITY_SIGMA = 1.0  # (5)
_SPACE_SIGMA = 0.4  # of the picture's sides, in (4); code
_SMOOTHNESS_FLOOR = 0.1  # mu of (10)
_BACKGROUND_WEIGHT = 5.0  # of the first term of (9); code


def rbd(scene: Scene, background: Doubles) -> Doubles:
    """Return the saliency [N], 0..1: background-weighted contrast, optimised.

    Contrast below its Otsu threshold is no cue of foreground (code).

    Args:
        background: [N], of `background_probability`.
    """
    contrast = weighted_contrast(scene, background)
    foreground = np.where(contrast < otsu(contrast, scene.areas), 0, contrast)
    return optimised(scene, foreground, _BACKGROUND_WEIGHT * background)


def background_probability(scene: Scene) -> Doubles:
    """Return how surely each superpixel is background, [N] in 0..1: (5)."""
    connectivity = boundary_connectivity(geodesic_distances(scene), scene.border)
    probability: Doubles = 1 - np.exp(-(connectivity**2) / (2 * _CONNECTIVITY_SIGMA**2))
    return probability


def geodesic_distances(scene: Scene) -> Doubles:
    """Return [N, N]: the least sum of colour steps on a way between two superpixels.

    Superpixels on the border are neighbours of one another (section 3.2), since an object may cut
    the background in two. Steps lose the mean of every superpixel's smallest distance within two
    rings, and are none below it: else many small ones add up (code, after Wei et al., "Geodesic
    saliency using background priors", ECCV 2012, section 3).
    """
    linked = border_linked(scene)
    smallest = np.where(two_rings(scene.adjacent), scene.distances, np.inf).min(axis=1)
    clip = smallest[np.isfinite(smallest)].mean() if np.isfinite(smallest).any() else 0.0
    steps = np.where(linked, np.maximum(scene.distances - clip, 0), np.inf).astype(np.float32)
    np.fill_diagonal(steps, 0)
    ways: Doubles = shortest_ways(steps).astype(np.float64)
    return ways


def boundary_connectivity(geodesic: Doubles, border: Flags) -> Doubles:
    """Return [N]: length along the border over the root of the area, both soft: (1) to (3)."""
    similar = np.exp(-(geodesic**2) / (2 * _GEODESIC_SIGMA**2))
    connectivity: Doubles = similar @ border.astype(np.float64) / np.sqrt(similar.sum(axis=1))
    return connectivity


def weighted_contrast(scene: Scene, background: Doubles) -> Doubles:
    """Return [N], 0..1: contrast to others, weighted by nearness and their background: (4), (6)."""
    gaps = ((scene.centres[:, None] - scene.centres) ** 2).sum(axis=2)
    nearness = np.exp(-gaps / (2 * _SPACE_SIGMA**2))
    return normalised((scene.distances * nearness) @ background)


def optimised(scene: Scene, foreground: Doubles, background: Doubles) -> Doubles:
    """Return the saliency [N], 0..1, of least cost (9), in which any cues [N] can stand.

    The cost is quadratic: background pulls to 0, foreground to 1, neighbours of like colour to one
    another. Neighbours are those of two rings, and all of the border; the constant part of their
    weights is for those alone that are adjacent (code).
    """
    alike = np.exp(-(scene.distances**2) / (2 * _COLOUR_SIGMA**2))  # (10)
    near = two_rings(scene.adjacent) | border_linked(scene)
    weights = np.where(near, alike, 0) + _SMOOTHNESS_FLOOR * scene.adjacent
    np.fill_diagonal(weights, 0)
    system = -weights
    np.fill_diagonal(system, weights.sum(axis=1) + foreground + background + 1e-9)
    return normalised(np.linalg.solve(system, foreground).astype(np.float64, copy=False))
