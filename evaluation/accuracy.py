"""Top-1 and top-5 accuracy of class scores, with ties and missing scores decided once.

Shapes: Q queries, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Share of queries whose label is the best, or among the five best, in percent: 0..100."""

    top1: float
    top5: float


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes stand before the label of each query: int64 [Q], 0 is a hit.

    Equal scores are ordered by class, as argmax does. A label whose score is not a number ranks
    last: a diverged classifier must not score.

    Args:
        scores: [Q, C], larger is better.
        labels: int64 [Q], 0..C-1.
    """
    own = scores.gather(1, labels[:, None])  # [Q, 1]
    classes = torch.arange(scores.shape[1], device=scores.device)
    before = (scores > own) | ((scores == own) & (classes < labels[:, None]))
    return torch.where(own[:, 0].isnan(), scores.shape[1], before.sum(dim=1))


def accuracy_of_ranks(ranks: Tensor) -> Accuracy:
    """Return the accuracy of `label_ranks`, int64 [Q]; Q must not be 0."""
    assert len(ranks) > 0, "accuracy of no queries"
    return Accuracy(top1=_percent(ranks < 1), top5=_percent(ranks < 5))


def accuracy_of_scores(scores: Tensor, labels: Tensor) -> Accuracy:
    """Return the accuracy of class scores [Q, C] for labels int64 [Q]."""
    return accuracy_of_ranks(label_ranks(scores, labels))


def _percent(hits: Tensor) -> float:
    return 100 * hits.double().mean().item()
