"""How well a saliency map fits a true mask: F-measure, mean absolute error, structure measure.

`measure` gives the figures of one picture, `summarise` those of a data set, as is usual in the
field (Achanta et al., "Frequency-tuned salient region detection", CVPR 2009; Borji et al., "Salient
object detection: a benchmark", TIP 2015):

- max-F: precision and recall at each of 255 thresholds are averaged over the pictures; the
  F-measure of the two means, at the threshold where it is largest.
- adaptive F: of each picture at twice the mean of its map, averaged.
- MAE, S-measure: of each picture, averaged.

beta^2 = 0.3. Precision is 0 where nothing is found, recall is 0 where there is nothing to find.

Shapes: H/W of the picture, T = 255 thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.saliency.arrays import Doubles, Flags, Floats
from pipeline.saliency.structure import structure_measure

BETA_SQUARED = 0.3
THRESHOLDS = 255  # of a map in 256 levels: salient is what reaches 1, 2 .. 255


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Figures of one picture."""

    precision: Doubles  # [T]
    recall: Doubles  # [T]
    adaptive_f: float
    mae: float
    structure: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Figures of a data set."""

    max_f: float
    best_threshold: float  # 0..1, where max_f is reached
    adaptive_f: float
    mae: float
    structure: float


def measure(saliency: Floats, truth: Flags) -> Measured:
    """Return the figures of a map, float32 [H, W] in 0..1, against the truth, bool [H, W].

    Raises:
        ValueError: shapes differ, the map is empty, or leaves 0..1.
    """
    if saliency.shape != truth.shape or saliency.size == 0:
        raise ValueError(f"a map of {saliency.shape} cannot be measured by a mask of {truth.shape}")
    if not (saliency.min() >= 0 and saliency.max() <= 1):
        raise ValueError(f"a map has values from {saliency.min()} to {saliency.max()}, not 0 to 1")
    levels = np.floor(saliency * 255 + 0.5).astype(np.uint8)
    found, right = _reaching(levels), _reaching(levels[truth])
    adaptive = saliency >= min(2 * float(saliency.mean()), 1.0)
    adaptive_right = float((adaptive & truth).sum())
    return Measured(
        precision=right / np.maximum(found, 1),
        recall=right / max(int(truth.sum()), 1),
        adaptive_f=float(
            f_measure(
                np.array(adaptive_right / max(int(adaptive.sum()), 1)),
                np.array(adaptive_right / max(int(truth.sum()), 1)),
            )
        ),
        mae=float(np.abs(saliency - truth.astype(np.float32)).mean(dtype=np.float64)),
        structure=structure_measure(saliency, truth),
    )


def summarise(measured: Sequence[Measured]) -> Summary:
    """Return the figures of all pictures.

    Raises:
        ValueError: there is none.
    """
    if not measured:
        raise ValueError("no picture was measured")
    curve = f_measure(
        np.mean([one.precision for one in measured], axis=0),
        np.mean([one.recall for one in measured], axis=0),
    )
    return Summary(
        max_f=float(curve.max()),
        best_threshold=float((curve.argmax() + 1) / 255),
        adaptive_f=float(np.mean([one.adaptive_f for one in measured])),
        mae=float(np.mean([one.mae for one in measured])),
        structure=float(np.mean([one.structure for one in measured])),
    )


def f_measure(precision: Doubles, recall: Doubles) -> Doubles:
    """Return (1 + b) P R / (b P + R) for b = 0.3; 0 where both are 0."""
    below = BETA_SQUARED * precision + recall
    f: Doubles = (1 + BETA_SQUARED) * precision * recall / np.where(below > 0, below, 1)
    return f


def _reaching(levels: NDArray[np.uint8]) -> Doubles:
    """How many values reach each of the thresholds 1..255: [T]."""
    histogram = np.bincount(levels.ravel(), minlength=256)
    reaching: Doubles = histogram[::-1].cumsum()[::-1][1:].astype(np.float64)
    return reaching
