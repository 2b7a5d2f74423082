"""Fusion of the methods' maps, without any training.

1. Multi-layer cellular automata (Qin, Lu, Xu, Wang: "Saliency detection via cellular automata",
   CVPR 2015, section 4): each map is a layer, and a cell grows more salient as the same cells of
   the other maps are above their own thresholds. The result is the mean of the layers. The
   thresholds are Otsu's of the maps' roots: of the maps themselves, as in the paper, they part an
   object's brightest spots from the rest of it.
2. RBD's optimisation (see `rbd`) with this mean as the foreground cue. Its background cue counts
   where the mean is low: what most methods agree on is not background because it nears the border.
3. MB+'s contrast (see `barrier`): most of a map is surely the one or the other.

Shapes: L maps, N superpixels.
"""

from __future__ import annotations

import numpy as np

from pipeline.saliency.arrays import Doubles
from pipeline.saliency.barrier import enhanced
from pipeline.saliency.otsu import otsu
from pipeline.saliency.rbd import optimised
from pipeline.saliency.superpixels import Scene

_VOTE = 0.15  # ln(lambda / (1 - lambda)): log odds that one other layer adds in a step
_STEPS = 5
_SURE = 0.01  # cells start no nearer to 0 and 1 than this: certainty could not be moved


def fused(scene: Scene, layers: Doubles, background: Doubles) -> Doubles:
    """Return the saliency [N], 0..1, of maps [L, N] in 0..1."""
    agreed = automata(layers, scene.areas)
    return enhanced(optimised(scene, agreed, background * (1 - agreed)))


def automata(layers: Doubles, areas: Doubles) -> Doubles:
    """Let the layers [L, N] convince one another and return their mean, [N] in 0..1.

    Args:
        areas: [N], how much a superpixel counts for the thresholds.
    """
    limits = np.array([otsu(np.sqrt(layer), areas) ** 2 for layer in layers])
    odds_limits = _log_odds(limits)[:, None]
    odds = _log_odds(layers)
    for _ in range(_STEPS):
        signs = np.sign(odds - odds_limits)
        odds = odds + _VOTE * (signs.sum(axis=0) - signs)
    mean: Doubles = (1 / (1 + np.exp(-odds))).mean(axis=0)
    return mean


def _log_odds(values: Doubles) -> Doubles:
    p = values.clip(_SURE, 1 - _SURE)
    odds: Doubles = np.log(p / (1 - p))
    return odds
