"""How far the hand-crafted methods agree on a photo: where they do, they are mostly right.

The quarter of photos that they agree on most has far better maps than the rest (max-F 0.88 and
0.60 to 0.72, docs/saliency_training.md). No label is needed to find it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.batch import Ids
from pipeline.saliency.refine.chance import generator
from pipeline.saliency.refine.maps import read_maps
from pipeline.saliency.refine.workshop import Workshop
from pipeline.saliency.sheet import confidence_of

_SIDE = 64  # pixels at which maps are compared


def most_agreed(methods: Sequence[str], fusion: str, share: float, workshop: Workshop) -> Ids:
    """Return the numbers of a share of the photos, in order: those that methods agree on most.

    At least two are returned, or all. The measure is the contact sheet's confidence: how well the
    map of `fusion` agrees with that of each method.

    Raises:
        ValueError: a map is missing or damaged.
    """
    names = workshop.names
    fused = read_maps(workshop.maps(fusion), names, _SIDE)
    opinions = [read_maps(workshop.maps(method), names, _SIDE) for method in methods]
    agreement = np.array(
        [confidence_of(fused[i], [maps[i] for maps in opinions]) for i in range(len(names))]
    )
    chance = generator(workshop.config.seed, "agreement").random(len(names))  # where they are equal
    count = min(max(round(share * len(names)), 2), len(names))
    return np.sort(np.lexsort((chance, -agreement))[:count])
