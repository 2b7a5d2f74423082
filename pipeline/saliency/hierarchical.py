"""HS: contrast of regions at three sizes, so that fine texture does not count as an object.

Yan, Xu, Shi, Jia: "Hierarchical saliency detection", CVPR 2013. Numbers in comments are its
equations. The paper starts from a watershed; here the first layer is the scene's superpixels.

Shapes: N superpixels, R regions of a layer, h/w of the working picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.saliency.arrays import Doubles, Flags, normalised, pairwise_distances
from pipeline.saliency.superpixels import Scene

_SCALES = (17, 33)  # pixels at a longer side of 400, of the second and third layer; section 3.1
_SPACE = 0.2  # sigma^2 of (3), for places in 0..1
_CENTRE = 9.0  # lambda of (4)
_DATA = (0.5, 4.0, 2.0)  # beta of each layer, (7)
_TREE = 4.0  # lambda between layers, (8)

Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    region: Labels  # [N], 0..R-1: the region of each superpixel
    cue: Doubles  # [R], 0..1


def hierarchical(scene: Scene) -> Doubles:
    """Return the saliency [N], 0..1, of the finest layer after inference on the tree of layers."""
    region = np.arange(len(scene.areas))
    layers = [_Layer(region=region, cue=layer_cue(scene, region))]
    for scale in _SCALES:
        width = max(round(scale * max(scene.labels.shape) / 400), 2)
        region = merged(scene, region, width)
        layers.append(_Layer(region=region, cue=layer_cue(scene, region)))
    return normalised(_infer(layers))


def merged(scene: Scene, region: Labels, width: int) -> Labels:
    """Merge regions in which no square of this width fits with the neighbour of nearest colour.

    The paper merges one region at a time, smallest first; here all that are too small at once,
    again and again until none is left.

    Args:
        region: [N], 0..R-1.
    """
    while region.max() > 0:
        small = _too_small(scene, region, width)
        if not small.any():
            break
        means, linked = _means(scene, region), _region_links(scene, region)
        gaps = np.where(linked, pairwise_distances(means), np.inf)
        target = np.where(small, gaps.argmin(axis=1), np.arange(len(means)))
        region = np.unique(_roots(target)[region], return_inverse=True)[1]
    return region


def layer_cue(scene: Scene, region: Labels) -> Doubles:
    """Return local contrast times closeness to the middle, [R] in 0..1: (2) to (5)."""
    areas = np.bincount(region, scene.areas)
    means = _means(scene, region)
    centres = _averages(scene.centres, region, scene.areas)
    nearness = np.exp(-(pairwise_distances(centres) ** 2) / _SPACE)
    contrast = (nearness * pairwise_distances(means)) @ (areas / areas.sum())
    offsets = ((scene.centres - 0.5) ** 2).sum(axis=1)
    location = np.bincount(region, scene.areas * np.exp(-_CENTRE * offsets)) / areas
    return normalised(contrast * location)


def _infer(layers: list[_Layer]) -> Doubles:
    """Minimise (6), a sum of squares: nodes to their cue, and to their parents.

    The tree is solved in closed form; a sum over all nodes of all layers is one linear system.
    """
    starts = np.cumsum([0, *(len(layer.cue) for layer in layers)])
    system = np.zeros((starts[-1], starts[-1]))
    pull = np.concatenate([b * layer.cue for b, layer in zip(_DATA, layers, strict=True)])
    weights = np.concatenate(
        [np.full(len(layer.cue), b) for b, layer in zip(_DATA, layers, strict=True)]
    )
    for i, (fine, coarse) in enumerate(pairwise(layers)):
        parent = np.zeros(len(fine.cue), np.int64)
        parent[fine.region] = coarse.region
        child, above = starts[i] + np.arange(len(parent)), starts[i + 1] + parent
        system[child, above] = system[above, child] = -_TREE
        weights[child] += _TREE
        np.add.at(weights, above, _TREE)
    system[np.diag_indices(len(system))] = weights
    solved: Doubles = np.linalg.solve(system, pull)[: starts[1]]
    return solved[layers[0].region]


def _too_small(scene: Scene, region: Labels, width: int) -> Flags:
    """[R]: no square of this width lies in the region; what is outside the picture fits all."""
    labels = region[scene.labels].astype(np.float32)
    kernel = np.ones((width, width), np.uint8)
    inside = cv2.erode(labels, kernel) == cv2.dilate(labels, kernel)
    small = np.ones(int(region.max()) + 1, bool)
    small[labels[inside].astype(np.int64)] = False
    return small


def _roots(target: Labels) -> Labels:
    """Follow who merges into whom to the end; of a pair that merge into each other, one stays."""
    index = np.arange(len(target))
    mutual = (target[target] == index) & (index < target)
    target = np.where(mutual, index, target)
    while True:
        further = target[target]
        if (further == target).all():
            return target
        target = further


def _means(scene: Scene, region: Labels) -> Doubles:
    return _averages(scene.means, region, scene.areas)


def _averages(values: Doubles, region: Labels, areas: Doubles) -> Doubles:
    total = np.bincount(region, areas)
    columns = [np.bincount(region, areas * column) / total for column in values.T]
    return np.stack(columns, axis=1)


def _region_links(scene: Scene, region: Labels) -> Flags:
    count = int(region.max()) + 1
    linked = np.zeros((count, count), bool)
    rows, columns = np.nonzero(scene.adjacent)
    linked[region[rows], region[columns]] = True
    np.fill_diagonal(linked, False)
    return linked
