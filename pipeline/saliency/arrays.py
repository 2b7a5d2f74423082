"""Types of the arrays that saliency methods hand on, and what they all do with them."""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.batch import Bytes

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]
Real = TypeVar("Real", np.float32, np.float64)
Levels = TypeVar("Levels", np.uint8, np.float32)


def pairwise_distances(points: Doubles) -> Doubles:
    """Return the Euclidean distances [N, N] between points [N, D]."""
    squares = (points**2).sum(axis=1)
    gram = points @ points.T
    distances: Doubles = np.sqrt(np.maximum(squares[:, None] + squares - 2 * gram, 0))
    np.fill_diagonal(distances, 0)
    return distances


def normalised(values: NDArray[Real]) -> NDArray[Real]:
    """Stretch values to 0..1; all zeros where they are all the same but for rounding."""
    low, high = values.min(), values.max()
    if not high - low > 8 * np.finfo(values.dtype).eps * max(abs(high), abs(low)):
        return np.zeros_like(values)
    stretched: NDArray[Real] = (values - low) / (high - low)
    return stretched


def to_bytes(salient: Floats) -> Bytes:
    """Return a map or maps of 0..1 as levels of 0..255, rounded."""
    levels: Bytes = np.rint(salient * np.float32(255)).clip(0, 255).astype(np.uint8)
    return levels


def as_square(image: NDArray[Levels], side: int) -> NDArray[Levels]:
    """Resize a picture [H, W, 3] or a map [H, W] of any shape to [side, side, 3] or [side, side].

    Pixels are averaged along a side that shrinks, and joined by lines along one that grows. OpenCV
    averages only where both shrink: of a strip it would take one pixel in twenty.
    """
    height, width = (min(length, side) for length in image.shape[:2])
    shrunk = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    square: NDArray[Levels] = cv2.resize(shrunk, (side, side), interpolation=cv2.INTER_LINEAR)
    return square
