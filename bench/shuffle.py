"""How well an order mixes: what a true shuffle would give, and what this one gives.

Shapes: N samples, S steps of an epoch, G batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import Ids
from pipeline.sampler import Sampler

MADE_UP_CLASSES = 100


def quality(sampler: Sampler, labels: Ids, *, num_epochs: int) -> dict[str, float]:
    """Measure epochs 0..num_epochs - 1 of an order; means over them.

    - `neighbours_meet`: how often samples i and i + 1 are in one batch, as a multiple of chance;
    - `neighbours_apart`: how far apart they are shown, as a share of the N / 3 of chance;
    - `label_distance`: total variation distance between the labels of a batch and those of all;
    - `epochs_correlate`, `storage_correlates`: rank correlation of a sample's place with its place
      in the next epoch, and with its id; 0 by chance.

    Args:
        labels: [N] from 0.
    """
    orders = [_order(sampler, epoch) for epoch in range(num_epochs)]
    places = [_places(order, sampler.num_samples) for order in orders]
    return {
        "neighbours_meet": _mean([_meet(p, sampler.global_batch_size) for p in places]),
        "neighbours_apart": _mean([_apart(p) for p in places]),
        "label_distance": _mean([_label_distance(sampler, order, labels) for order in orders]),
        "epochs_correlate": _mean([_correlation(a, b) for a, b in pairwise(places)]),
        "storage_correlates": _mean([_correlation(p, np.arange(len(p))) for p in places]),
    }


def sorted_labels(labels: Ids) -> tuple[Ids, str]:
    """Labels [N] of data that lie class by class, and where they are from.

    Those of the shards, if they are so; else classes of equal size, made up for the measurement.
    """
    if labels.min() >= 0 and (np.diff(labels) >= 0).all() and labels.max() > 0:
        return labels.astype(np.int64), f"{labels.max() + 1} classes as stored"
    made_up = np.arange(len(labels)) * MADE_UP_CLASSES // len(labels)
    return made_up, f"{MADE_UP_CLASSES} classes made up along the ids"


def _order(sampler: Sampler, epoch: int) -> Ids:
    """The samples of an epoch [S * G], as they are shown."""
    steps = range(sampler.steps_per_epoch)
    return np.concatenate([sampler.batch(epoch * len(steps) + step)[1] for step in steps])


def _places(order: Ids, num_samples: int) -> NDArray[np.float64]:
    """Where each sample [N] is shown; NaN: not in this epoch."""
    places = np.full(num_samples, np.nan)
    places[order] = np.arange(len(order))
    return places


def _meet(places: NDArray[np.float64], batch: int) -> float:
    shown = places[np.isfinite(places)]
    step = places // batch
    met = (step[1:] == step[:-1]).sum() / np.isfinite(np.diff(places)).sum()
    return float(met / ((batch - 1) / (len(shown) - 1))) if batch > 1 else float("nan")


def _apart(places: NDArray[np.float64]) -> float:
    return float(np.nanmean(np.abs(np.diff(places))) / (np.isfinite(places).sum() / 3))


def _label_distance(sampler: Sampler, order: Ids, labels: Ids) -> float:
    size, num_classes = sampler.global_batch_size, int(labels.max()) + 1
    cells = np.arange(len(order)) // size * num_classes + labels[order]
    counts = np.bincount(cells, minlength=sampler.steps_per_epoch * num_classes)
    batches = counts.reshape(-1, num_classes) / size
    everything = np.bincount(labels, minlength=num_classes) / len(labels)
    return float(np.abs(batches - everything).sum(axis=1).mean() / 2)


def _correlation(left: NDArray[Any], right: NDArray[Any]) -> float:
    both = np.isfinite(left) & np.isfinite(right)
    return float(np.corrcoef(left[both], right[both])[0, 1])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
