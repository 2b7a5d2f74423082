"""MB+: what no smooth way joins to the border, and whose colour no side of the picture has.

Zhang, Sclaroff, Lin, Shen, Price, Mech: "Minimum barrier salient object detection at 80 FPS", ICCV
2015. MB is the distance (section 3), MB+ adds a cue of background colours (section 4).

Shapes: h/w of the working picture.
"""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.saliency.compiled_scan import barrier_distance, reconstruct
from pipeline.saliency.superpixels import Doubles, Floats, Scene, normalised

_FRAME = 0.1  # of a side: how wide the four border regions are
_SMOOTHING = 20.0  # kernel width is this times the root of the map's mean, at 300 px
_STEEPNESS = 10.0  # b of the final contrast


def barrier(scene: Scene) -> Doubles:
    """Return the saliency of each pixel, [h, w] in 0..1."""
    distance = sum(barrier_distance(np.ascontiguousarray(c)) for c in np.moveaxis(scene.lab, 2, 0))
    both = normalised(normalised(distance) + background_colour_cue(scene.lab))
    return enhanced(normalised(smoothed(both) * centredness(*both.shape)))


def background_colour_cue(lab: Floats) -> Doubles:
    """Return [h, w], 0..1: distance from the colours of the sides, the farthest side left out.

    For each of the four sides, the Mahalanobis distance from the mean of its frame, divided by the
    largest; the object may touch one side, so the largest of the four is left out (section 4).
    """
    height, width = lab.shape[:2]
    rows, columns = max(round(height * _FRAME), 1), max(round(width * _FRAME), 1)
    sides = (lab[:rows], lab[-rows:], lab[:, :columns], lab[:, -columns:])
    cues = np.stack([_mahalanobis(lab, side.reshape(-1, 3).astype(np.float64)) for side in sides])
    return normalised(cues.sum(axis=0) - cues.max(axis=0))


def smoothed(saliency: Doubles) -> Floats:
    """Open and close by reconstruction: small spots go, edges stay."""
    longest = max(saliency.shape)
    width = round(_SMOOTHING * np.sqrt(saliency.mean()) * longest / 300)
    mask = saliency.astype(np.float32)
    if width < 2:
        return mask
    kernel = np.ones((width, width), np.uint8)
    opened = reconstruct(cv2.erode(mask, kernel), mask)
    closed: Floats = 1 - reconstruct(1 - cv2.dilate(opened, kernel), 1 - opened)
    return closed


def centredness(height: int, width: int) -> Doubles:
    """Return [h, w]: 1 in the middle, falling in proportion to the distance, 0 in the corners."""
    y = np.linspace(-1, 1, height)[:, None] * height
    x = np.linspace(-1, 1, width) * width
    share: Doubles = 1 - np.hypot(y, x) / np.hypot(height, width)
    return share


def enhanced(saliency: Doubles) -> Doubles:
    """Push values from the middle to 0 and 1 by a sigmoid; zeros stay zeros."""
    pushed = 1 / (1 + np.exp(-_STEEPNESS * (saliency - 0.5)))
    return normalised(pushed)


def _mahalanobis(lab: Floats, samples: Doubles) -> Doubles:
    mean = samples.mean(axis=0)
    covariance = (samples - mean).T @ (samples - mean) / len(samples) + 1e-3 * np.eye(3)
    root = np.linalg.cholesky(np.linalg.inv(covariance))
    offsets = (lab - mean.astype(np.float32)).reshape(-1, 3) @ root.astype(np.float32)
    distance: Doubles = np.sqrt((offsets**2).sum(axis=1)).reshape(lab.shape[:2])
    return distance / max(float(distance.max()), 1e-12)
