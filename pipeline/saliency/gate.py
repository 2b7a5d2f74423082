"""The quality gate: which estimated masks are better not used.

Shapes: H/W of the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from pipeline.saliency.arrays import Floats

Fault = Literal["small", "large", "split"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GateSettings:
    """When a mask is degenerate."""

    threshold: float = 0.5  # foreground is what exceeds it
    min_coverage: float = 0.02  # of the picture
    max_coverage: float = 0.95
    part_share: float = 0.2  # of the foreground: a smaller part is not counted as one
    split_share: float = 0.9  # of the foreground: what the parts on the border hold together


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the gate says of a mask; `fault` is None for one that can be used."""

    coverage: float  # share of the picture, 0..1
    fault: Fault | None


def judge(saliency: Floats, settings: GateSettings | None = None) -> Verdict:
    """Judge a map, float32 [H, W] in 0..1.

    Faults, the first that holds:

    - small: the foreground covers less than `min_coverage` of the picture;
    - large: it covers more than `max_coverage`;
    - split: it is split over the border. The foreground falls into parts that are connected over
      sides and corners of pixels; those with at least `part_share` of the foreground that have a
      pixel on the border of the picture are two or more, and hold `split_share` of the foreground
      together. Then it is what frames the object, not the object: an object that is cut off by the
      border is one part, and one in the middle does not touch the border.
    """
    settings = settings or GateSettings()
    foreground = saliency > settings.threshold
    coverage = float(foreground.mean())
    if coverage < settings.min_coverage:
        return Verdict(coverage=coverage, fault="small")
    if coverage > settings.max_coverage:
        return Verdict(coverage=coverage, fault="large")
    _, parts = cv2.connectedComponents(foreground.astype(np.uint8), connectivity=8)
    shares = np.bincount(parts.ravel()) / foreground.sum()
    edge = np.unique(np.concatenate((parts[0], parts[-1], parts[:, 0], parts[:, -1])))
    large = [shares[part] for part in edge if part and shares[part] >= settings.part_share]
    split = len(large) >= 2 and sum(large) >= settings.split_share
    return Verdict(coverage=coverage, fault="split" if split else None)
