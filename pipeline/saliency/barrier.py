"""MB+: what no smooth way joins to the border, and whose colour no side of the picture has.

Zhang, Sclaroff, Lin, Shen, Price, Mech: "Minimum barrier salient object detection at 80 FPS", ICCV
2015. MB is the distance (section 3), MB+ adds a cue of background colours (section 4). "Code" marks
parameters of the authors' published code.

Shapes: h/w of the working picture.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.saliency.arrays import Floats, Real, normalised
from pipeline.saliency.compiled_scan import barrier_distance, reconstruct
from pipeline.saliency.superpixels import Scene

_FRAME = 0.1  # of a side: how wide the four border regions are
_REGULAR = 50 * (100 / 255) ** 2  # added to variances of colours, in Lab units squared; code
_MEDIAN = 5  # pixels; code
_SMOOTHING = 50.0  # kernel width is this times the root of the map's mean, at 300 px; code
_LEAST_WIDTH = 3
_STEEPNESS = 10.0  # b of the final contrast


def barrier(scene: Scene) -> Floats:
    """Return the saliency of each pixel, [h, w] in 0..1."""
    distance = np.zeros(scene.labels.shape, np.float32)
    for channel in np.moveaxis(scene.lab, 2, 0):
        distance += barrier_distance(cv2.medianBlur(np.ascontiguousarray(channel), _MEDIAN))
    both = normalised(distance) + background_colour_cue(scene.lab)
    return enhanced(normalised(smoothed(normalised(both * centredness(*both.shape)))))


def background_colour_cue(lab: Floats) -> Floats:
    """Return [h, w], 0..1: distance from the colours of the sides, the farthest side left out.

    For each of the four sides, the Mahalanobis distance from the mean of its frame, divided by the
    largest; the object may touch one side, so the largest of the four is left out (section 4).
    """
    height, width = lab.shape[:2]
    rows, columns = max(round(height * _FRAME), 1), max(round(width * _FRAME), 1)
    sides = (lab[:rows], lab[-rows:], lab[:, :columns], lab[:, -columns:])
    whitenings = [_whitening(side.reshape(-1, 3)) for side in sides]
    planes = np.ascontiguousarray(lab.reshape(-1, 3).T)
    total = farthest = np.float32(0)
    for root, centre in whitenings:
        white = root.T @ planes
        white -= centre[:, None]
        cue = np.sqrt(white[0] ** 2 + white[1] ** 2 + white[2] ** 2)
        cue /= max(float(cue.max()), 1e-12)
        total, farthest = total + cue, np.maximum(farthest, cue)
    return normalised((total - farthest).reshape(height, width))


def smoothed(saliency: Floats) -> Floats:
    """Open and close by reconstruction: small spots go, edges stay."""
    longest = max(saliency.shape)
    width = int(_SMOOTHING * float(np.sqrt(saliency.mean())) * longest / 300)
    width = max(width, _LEAST_WIDTH)
    kernel = np.ones((width, width), np.uint8)
    opened = reconstruct(cv2.erode(saliency, kernel), saliency)
    closed: Floats = 1 - reconstruct(1 - cv2.dilate(opened, kernel), 1 - opened)
    return closed


def centredness(height: int, width: int) -> Floats:
    """Return [h, w]: 1 in the middle, falling in proportion to the distance, 0 in the corners."""
    y = (np.linspace(-1, 1, height, dtype=np.float32) * height)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32) * width
    share: Floats = 1 - np.sqrt(y**2 + x**2) / np.float32(np.hypot(height, width))
    return share


def enhanced(saliency: NDArray[Real], middle: float | None = None) -> NDArray[Real]:
    """Push values away from the middle to 0 and 1 by a sigmoid; zeros stay zeros.

    Args:
        middle: by default half way between the mean of what reaches half the largest value and the
            mean of the rest (code).
    """
    if middle is None:
        high = saliency >= saliency.max() / 2
        middle = 0.5 * float(saliency[high].mean())
        middle += 0.5 * float(saliency[~high].mean()) if not high.all() else 0.0
    pushed: NDArray[Real] = 1 / (1 + np.exp(-_STEEPNESS * (saliency - middle)))
    return normalised(pushed)


def _whitening(samples: Floats) -> tuple[Floats, Floats]:
    """Return what makes colours white, [3, 3], and the mean after it, [3]: norms are distances."""
    exact = samples.astype(np.float64)
    mean = exact.mean(axis=0)
    covariance = (exact - mean).T @ (exact - mean) / len(exact) + _REGULAR * np.eye(3)
    root = np.linalg.cholesky(np.linalg.inv(covariance))
    return root.astype(np.float32), (mean @ root).astype(np.float32)
