"""MB+: what no smooth way joins to the border, and whose colour no side of the picture has.

Zhang, Sclaroff, Lin, Shen, Price, Mech: "Minimum barrier salient object detection at 80 FPS", ICCV
2015. MB is the distance (section 3), MB+ adds a cue of background colours (section 4).

Shapes: h/w of the working picture.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.saliency.compiled_scan import barrier_distance, reconstruct
from pipeline.saliency.superpixels import Floats, Real, Scene, normalised

_FRAME = 0.1  # of a side: how wide the four border regions are
_SMOOTHING = 20.0  # kernel width is this times the root of the map's mean, at 300 px
_LEAST_VARIANCE = 1e-3  # Lab units squared: a side of one colour has none
_STEEPNESS = 10.0  # b of the final contrast


def barrier(scene: Scene) -> Floats:
    """Return the saliency of each pixel, [h, w] in 0..1."""
    distance = np.zeros(scene.labels.shape, np.float32)
    for channel in np.moveaxis(scene.lab, 2, 0):
        distance += barrier_distance(np.ascontiguousarray(channel))
    both = normalised(normalised(distance) + background_colour_cue(scene.lab))
    return enhanced(normalised(smoothed(both) * centredness(*both.shape)))


def background_colour_cue(lab: Floats) -> Floats:
    """Return [h, w], 0..1: distance from the colours of the sides, the farthest side left out.

    For each of the four sides, the Mahalanobis distance from the mean of its frame, divided by the
    largest; the object may touch one side, so the largest of the four is left out (section 4).
    """
    height, width = lab.shape[:2]
    rows, columns = max(round(height * _FRAME), 1), max(round(width * _FRAME), 1)
    sides = (lab[:rows], lab[-rows:], lab[:, :columns], lab[:, -columns:])
    whitenings = [_whitening(side.reshape(-1, 3)) for side in sides]
    turn = np.concatenate([root for root, _ in whitenings], axis=1)  # [3, 4 * 3]
    shift = np.concatenate([centre for _, centre in whitenings])
    squares = (lab.reshape(-1, 3) @ turn - shift) ** 2
    cues = np.sqrt(squares @ np.kron(np.eye(4, dtype=np.float32), np.ones((3, 1), np.float32)))
    cues /= np.maximum(cues.max(axis=0), 1e-12)
    farthest = cues[:, 0].copy()
    for cue in cues.T[1:]:  # the reduction over a short axis would take ten times as long
        np.maximum(farthest, cue, out=farthest)
    return normalised((cues @ np.ones(4, np.float32) - farthest).reshape(height, width))


def smoothed(saliency: Floats) -> Floats:
    """Open and close by reconstruction: small spots go, edges stay."""
    longest = max(saliency.shape)
    width = round(_SMOOTHING * float(np.sqrt(saliency.mean())) * longest / 300)
    if width < 2:
        return saliency
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


def enhanced(saliency: NDArray[Real]) -> NDArray[Real]:
    """Push values from the middle to 0 and 1 by a sigmoid; zeros stay zeros."""
    pushed: NDArray[Real] = 1 / (1 + np.exp(-_STEEPNESS * (saliency - 0.5)))
    return normalised(pushed)


def _whitening(samples: Floats) -> tuple[Floats, Floats]:
    """Return what makes colours white, [3, 3], and the mean after it, [3]: norms are distances."""
    exact = samples.astype(np.float64)
    mean = exact.mean(axis=0)
    covariance = (exact - mean).T @ (exact - mean) / len(exact) + _LEAST_VARIANCE * np.eye(3)
    root = np.linalg.cholesky(np.linalg.inv(covariance))
    return root.astype(np.float32), (mean @ root).astype(np.float32)
