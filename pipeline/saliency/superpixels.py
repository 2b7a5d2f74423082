"""A picture cut into superpixels: what every hand-crafted method works on, made once per picture.

The picture is brought to a fixed longer side, converted to CIE Lab and cut by SLIC (Achanta et al.,
"SLIC superpixels compared to state-of-the-art superpixel methods", TPAMI 2012; scikit-image's).

Shapes: H/W sides of the picture, h/w of the working picture, N superpixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import slic

from pipeline.batch import Bytes
from pipeline.saliency.arrays import Doubles, Flags, Floats, pairwise_distances

_MIN_SIDE = 16  # of a working picture: a strip is widened to it
_FLAT = 2.0  # Lab units: about the smallest difference that a person sees


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneSettings:
    """How a picture is cut into superpixels."""

    longer_side: int = 300  # of the working picture, as in the paper of MB+
    superpixels: int = 200  # of a working picture of 4:3, as in the papers of RBD and MR
    compactness: float = 20.0  # SLIC's m: how much place counts beside colour
    iterations: int = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What is known of a picture before any method has looked at it."""

    lab: Floats  # [h, w, 3], L 0..100
    labels: NDArray[np.int64]  # [h, w], 0..N-1
    areas: Doubles  # [N], pixels
    means: Doubles  # [N, 3], Lab
    centres: Doubles  # [N, 2], (y, x) in shares of the picture's sides, 0..1
    distances: Doubles  # [N, N], between means
    adjacent: Flags  # [N, N], share an edge of a pixel; not with themselves
    sides: Flags  # [4, N], touch the top, bottom, left and right side
    flat: bool  # no two superpixels differ visibly: nothing can stand out

    @property
    def border(self) -> Flags:
        """[N]: touch any side."""
        flags: Flags = np.logical_or.reduce(self.sides)
        return flags

    def pool(self, pixels: Floats) -> Doubles:
        """Return the mean of a map [h, w] over each superpixel: [N]."""
        sums = np.bincount(self.labels.ravel(), pixels.ravel(), len(self.areas))
        pooled: Doubles = sums / self.areas
        return pooled

    def paint(self, values: Doubles) -> Floats:
        """Return the map [h, w] of values [N]."""
        return values.astype(np.float32)[self.labels]


def make_scene(image: Bytes, settings: SceneSettings | None = None) -> Scene:
    """Cut a picture, uint8 [H, W, 3] RGB of any size, into superpixels.

    Raises:
        ValueError: it is not such an array, or empty.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"a picture must be uint8 [height, width, 3], got {image.dtype} {list(image.shape)}"
        )
    settings = settings or SceneSettings()
    small = _working_picture(image, settings.longer_side)
    lab: Floats = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    labels = _cut(lab, settings)
    flat_labels = labels.ravel()
    areas = np.bincount(flat_labels).astype(np.float64)
    count = len(areas)
    height, width = labels.shape
    y, x = np.mgrid[0:height, 0:width]
    place = ((y.ravel() + 0.5) / height, (x.ravel() + 0.5) / width)
    means = np.stack(
        [np.bincount(flat_labels, c.ravel(), count) / areas for c in np.moveaxis(lab, 2, 0)], axis=1
    )
    distances = pairwise_distances(means)
    return Scene(
        lab=lab,
        labels=labels,
        areas=areas,
        means=means,
        centres=np.stack([np.bincount(flat_labels, p, count) / areas for p in place], axis=1),
        distances=distances,
        adjacent=_adjacency(labels, count),
        sides=_sides(labels, count),
        flat=bool(distances.max() < _FLAT),
    )


def _working_picture(image: Bytes, longer_side: int) -> Bytes:
    height, width = image.shape[:2]
    scale = longer_side / max(height, width)
    size = [max(round(side * scale), _MIN_SIDE) for side in (width, height)]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized: Bytes = cv2.resize(image, size, interpolation=how)
    return resized


def _cut(lab: Floats, settings: SceneSettings) -> NDArray[np.int64]:
    height, width = lab.shape[:2]
    share = height * width / (settings.longer_side**2 * 0.75)
    spread = float(lab.max() - lab.min()) or 1.0  # scikit-image divides colours by this
    labels = slic(
        lab,
        n_segments=max(round(settings.superpixels * share), 4),
        compactness=settings.compactness / spread,
        max_num_iter=settings.iterations,
        convert2lab=False,
        start_label=0,
    )
    # consecutive numbers, whatever the library leaves out
    cut: NDArray[np.int64] = np.unique(labels, return_inverse=True)[1].reshape(height, width)
    return cut


def _adjacency(labels: NDArray[np.int64], count: int) -> Flags:
    adjacent = np.zeros((count, count), bool)
    adjacent[labels[:-1], labels[1:]] = True
    adjacent[labels[:, :-1], labels[:, 1:]] = True
    adjacent |= adjacent.T
    np.fill_diagonal(adjacent, False)
    return adjacent


def _sides(labels: NDArray[np.int64], count: int) -> Flags:
    sides = np.zeros((4, count), bool)
    for side, line in enumerate((labels[0], labels[-1], labels[:, 0], labels[:, -1])):
        sides[side, line] = True
    return sides
