"""DSR: what the border of the picture cannot reconstruct, densely or sparsely, is foreground.

Li, Lu, Zhang, Ruan, Yang: "Saliency detection via dense and sparse reconstruction", ICCV 2013. The
paper adds up eight segmentations; here there is the scene's one, so that a map costs milliseconds.

Shapes: N superpixels, B of them on the border, D = 8 features.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.saliency.arrays import Doubles, Flags, normalised
from pipeline.saliency.superpixels import Scene

_ENERGY = 0.95  # of the border's variance that the dense basis keeps; the paper leaves it open
_SPARSITY = 0.01  # lambda; section 3.2
_DESCENTS = 20  # steps of the sparse code; see sparse_error
_CONTEXTS = 8  # clusters; section 3.3
_SHARE = 0.5  # tau, of an error that comes from its context; section 3.3
_OBJECT_SIGMA = 0.25  # of the picture's sides; section 3.4.2
_BINS = 10  # of the likelihoods; the paper has pixels of many segmentations and finer ones
_ROUNDS = 20  # of k-means, at most


def reconstruction(scene: Scene) -> Doubles:
    """Return the saliency [N], 0..1, of both errors, joined by Bayes' rule."""
    features = _features(scene)
    errors = (
        dense_error(features, features[scene.border]),
        sparse_error(features, features[scene.border]),
    )
    context = clusters(features, _CONTEXTS)
    dense, sparse = (
        normalised(object_biased(scene, normalised(propagated(features, error, context))))
        for error in errors
    )
    joined = posterior(dense, sparse, scene.areas) + posterior(sparse, dense, scene.areas)
    return normalised(joined)


def dense_error(features: Doubles, templates: Doubles) -> Doubles:
    """Return [N]: squared distance of features [N, D] from the main axes of templates [B, D]."""
    mean = templates.mean(axis=0)
    spread, axes = np.linalg.eigh(np.cov(templates.T, bias=True))
    kept = np.searchsorted(spread[::-1].cumsum(), _ENERGY * spread.sum()) + 1
    basis = axes[:, ::-1][:, :kept]
    offsets = features - mean
    error: Doubles = ((offsets - offsets @ basis @ basis.T) ** 2).sum(axis=1)
    return error


def sparse_error(features: Doubles, templates: Doubles, *, steps: int = _DESCENTS) -> Doubles:
    """Return [N]: squared distance of features [N, D] from sparse sums of templates [B, D].

    The code of least squared distance + lambda * its absolute sum, by accelerated proximal steps
    (Beck, Teboulle, "A fast iterative shrinkage-thresholding algorithm", SIIMS 2009). With as few
    as by default the code has not settled. That serves: once it has, a border of more than D
    templates reconstructs nearly everything (the generated pictures, 20 steps against 1,000: max-F
    0.89 against 0.85).
    """
    gram, target = templates @ templates.T, features @ templates.T
    step = 1 / max(float(np.linalg.eigvalsh(gram)[-1]), 1e-12)
    code = ahead = np.zeros_like(target)
    momentum = 1.0
    for _ in range(steps):
        moved = ahead - step * (ahead @ gram - target)
        new = np.sign(moved) * np.maximum(np.abs(moved) - step * _SPARSITY / 2, 0)
        grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / grown * (new - code)
        code, momentum = new, grown
    error: Doubles = ((features - code @ templates) ** 2).sum(axis=1)
    return error


def propagated(features: Doubles, error: Doubles, context: NDArray[np.int64]) -> Doubles:
    """Return errors [N], each mixed with those of its cluster that are larger: (7), (8)."""
    doubled_variance = 2 * max(float(features.var(axis=0).sum()), 1e-12)
    mixed = error.copy()
    for k in range(int(context.max()) + 1):
        members = np.flatnonzero(context == k)
        members = members[np.argsort(-error[members], kind="stable")]
        group = features[members]
        gaps = ((group[:, None] - group) ** 2).sum(axis=2)
        alike = np.exp(-gaps / doubled_variance)
        for i in range(1, len(members)):
            weights = alike[i, :i] / alike[i, :i].sum()
            around = weights @ mixed[members[:i]]
            mixed[members[i]] = _SHARE * around + (1 - _SHARE) * error[members[i]]
    return mixed


def object_biased(scene: Scene, saliency: Doubles) -> Doubles:
    """Return [N]: saliency times a Gaussian around its own centre of mass (section 3.4.2)."""
    mass = saliency * scene.areas
    centre = (mass @ scene.centres) / max(float(mass.sum()), 1e-12)
    gaps = ((scene.centres - centre) ** 2).sum(axis=1)
    biased: Doubles = saliency * np.exp(-gaps / (2 * _OBJECT_SIGMA**2))
    return biased


def posterior(prior: Doubles, seen: Doubles, areas: Doubles) -> Doubles:
    """Return the probability [N] of foreground by Bayes' rule (section 3.5).

    Likelihoods are the histograms of `seen` where the prior is above its mean, and where not.
    """
    foreground: Flags = prior > (prior @ areas) / areas.sum()
    bins = np.minimum((seen * _BINS).astype(int), _BINS - 1)
    likelihoods = []
    for part in (foreground, ~foreground):
        histogram = np.bincount(bins[part], areas[part], _BINS)
        likelihoods.append((histogram / max(float(histogram.sum()), 1e-12))[bins])
    joint = prior * likelihoods[0]
    total = joint + (1 - prior) * likelihoods[1]
    probability: Doubles = joint / np.maximum(total, 1e-12)
    return probability


def clusters(points: Doubles, count: int) -> NDArray[np.int64]:
    """Return the cluster, 0..count-1 or fewer, of each of the points [N, D] by k-means.

    The first centre is the point nearest to the mean, each other the point farthest from all before
    it, so that chance has no part.
    """
    first = ((points - points.mean(axis=0)) ** 2).sum(axis=1).argmin()
    centres = points[[first]]
    gaps = np.full(len(points), np.inf)
    while len(centres) < min(count, len(points)):
        gaps = np.minimum(gaps, ((points - centres[-1]) ** 2).sum(axis=1))
        centres = np.concatenate((centres, points[[gaps.argmax()]]))
    cluster = np.full(len(points), -1)
    for _ in range(_ROUNDS):
        # squared distances but for the points' own lengths, which are the same to all centres
        nearest = ((centres**2).sum(axis=1) - 2 * points @ centres.T).argmin(axis=1)
        if (nearest == cluster).all():
            break
        cluster = nearest
        members = (cluster[:, None] == np.arange(len(centres))).astype(np.float64)
        sizes = members.sum(axis=0)[:, None]
        centres = np.where(sizes > 0, members.T @ points / np.maximum(sizes, 1), centres)
    return np.unique(cluster, return_inverse=True)[1]


def _features(scene: Scene) -> Doubles:
    """Return mean Lab, RGB and place of each superpixel in 0..1: [N, D]."""
    means = scene.means.astype(np.float32)
    rgb = cv2.cvtColor(means[:, None], cv2.COLOR_LAB2RGB)[:, 0].astype(np.float64)
    lab = (scene.means + np.array([0, 128, 128])) / np.array([100, 255, 255])
    return np.concatenate((lab, rgb, scene.centres), axis=1)
