"""Types of the arrays that saliency methods hand on, and what they all do with them."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]
Real = TypeVar("Real", np.float32, np.float64)


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
