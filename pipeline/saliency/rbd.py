"""RBD: background is what the border of the picture runs through; foreground contrasts with it.

Zhu, Liang, Wei, Sun: "Saliency optimization from robust background detection", CVPR 2014. Numbers
in comments are its equations.

Shapes: N superpixels.
"""

from __future__ import annotations

import numpy as np

from pipeline.saliency.compiled_ways import shortest_ways
from pipeline.saliency.superpixels import Doubles, Scene, normalised, two_rings

_COLOUR_SIGMA = 10.0  # Lab units; sections 3.2 and 5
_CONNECTIVITY_SIGMA = 1.0  # (5)
_SPACE_SIGMA = 0.25  # of the picture's sides; (4)
_SMOOTHNESS_FLOOR = 0.1  # mu of (10)


def rbd(scene: Scene, background: Doubles) -> Doubles:
    """Return the saliency [N], 0..1: background-weighted contrast, optimised.

    Args:
        background: [N], of `background_probability`.
    """
    return optimised(scene, weighted_contrast(scene, background), background)


def background_probability(scene: Scene) -> Doubles:
    """Return how surely each superpixel is background, [N] in 0..1: (5)."""
    connectivity = boundary_connectivity(geodesic_distances(scene), scene.border)
    probability: Doubles = 1 - np.exp(-(connectivity**2) / (2 * _CONNECTIVITY_SIGMA**2))
    return probability


def geodesic_distances(scene: Scene) -> Doubles:
    """Return [N, N]: the least sum of colour steps on a way between two superpixels.

    Superpixels on the border are neighbours of one another (section 3.2), since an object may cut
    the background in two. Steps lose the mean of every superpixel's smallest step, and are none
    below it: else many small ones add up (Wei et al., "Geodesic saliency using background priors",
    ECCV 2012, section 3).
    """
    linked = scene.adjacent | np.logical_and.outer(scene.border, scene.border)
    np.fill_diagonal(linked, False)
    smallest = np.where(scene.adjacent, scene.distances, np.inf).min(axis=1)
    clip = smallest[np.isfinite(smallest)].mean() if np.isfinite(smallest).any() else 0.0
    steps = np.where(linked, np.maximum(scene.distances - clip, 0), np.inf).astype(np.float32)
    np.fill_diagonal(steps, 0)
    ways: Doubles = shortest_ways(steps).astype(np.float64)
    return ways


def boundary_connectivity(geodesic: Doubles, border: np.ndarray) -> Doubles:
    """Return [N]: length along the border over the root of the area, both soft: (1) to (3)."""
    similar = np.exp(-(geodesic**2) / (2 * _COLOUR_SIGMA**2))
    connectivity: Doubles = similar @ border.astype(np.float64) / np.sqrt(similar.sum(axis=1))
    return connectivity


def weighted_contrast(scene: Scene, background: Doubles) -> Doubles:
    """Return [N], 0..1: contrast to others, weighted by nearness and their background: (4), (6)."""
    gaps = ((scene.centres[:, None] - scene.centres) ** 2).sum(axis=2)
    nearness = np.exp(-gaps / (2 * _SPACE_SIGMA**2))
    return normalised((scene.distances * nearness) @ background)


def optimised(scene: Scene, foreground: Doubles, background: Doubles) -> Doubles:
    """Return the saliency [N], 0..1, of least cost (9), in which any foreground cue [N] can stand.

    The cost is quadratic: background pulls to 0, foreground to 1, neighbours of like colour to one
    another.
    """
    alike = np.exp(-(scene.distances**2) / (2 * _COLOUR_SIGMA**2)) + _SMOOTHNESS_FLOOR  # (10)
    weights = np.where(two_rings(scene), alike, 0)
    system = -weights
    pull = foreground + background
    np.fill_diagonal(system, weights.sum(axis=1) + pull + 1e-9)
    return normalised(np.linalg.solve(system, foreground).astype(np.float64, copy=False))
